"""Watching the files of a fake sandbox."""

from __future__ import annotations

import asyncio
import posixpath
from collections import deque
from collections.abc import AsyncIterator, Collection

from skerry.engine.interfaces import Clock
from skerry.model.sandboxes import FileChange

WAITING = 1000
"""Changes that wait for a reader; further ones are lost, and that is told."""


class MemoryWatching:
    """Matches the engine's `FileWatching`."""

    def __init__(
        self, root: str, *, clock: Clock, recursive: bool, kinds: Collection[str], timeout_s: float | None
    ) -> None:
        self._root = root
        self._recursive = recursive
        self._kinds = kinds
        self._waiting: deque[FileChange] = deque()
        self._overflowed = self._over = False
        self._news = asyncio.Event()
        self._timer = None if timeout_s is None else asyncio.create_task(self._end_after(clock, timeout_s))

    @property
    def over(self) -> bool:
        return self._over

    def tell(self, kind: str, *paths: str) -> None:
        """Note a change, if it is one of those that are watched."""
        seen = tuple(path for path in paths if self._sees(path))
        if self._over or kind not in self._kinds or not seen:
            return
        if self._overflowed or len(self._waiting) >= WAITING:
            self._overflowed = True
        else:
            self._waiting.append(FileChange(kind=kind, paths=seen))
        self._news.set()

    async def changes(self) -> AsyncIterator[FileChange]:
        while True:
            while self._waiting:
                yield self._waiting.popleft()
            if self._overflowed:
                self._overflowed = False
                yield FileChange(kind="overflow", paths=(self._root,))
            elif self._over:
                return
            else:
                self._news.clear()
                await self._news.wait()

    async def close(self) -> None:
        self._over = True
        self._news.set()
        if self._timer is not None:
            self._timer.cancel()

    def _sees(self, path: str) -> bool:
        if self._recursive:
            return path == self._root or path.startswith(self._root.rstrip("/") + "/")
        return path == self._root or posixpath.dirname(path) == self._root

    async def _end_after(self, clock: Clock, seconds: float) -> None:
        await clock.sleep(seconds)
        self._over = True
        self._news.set()
