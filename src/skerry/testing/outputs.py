"""Output of a fake process: bytes in memory, addressed by offset, with a bound like the log's."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Final

BOUND: Final = 64 << 20
STEP_S: Final = 1.0


class MemoryOutput:
    """One channel. At the bound it waits for a reader if there is one, and else drops its oldest bytes."""

    def __init__(self, *, now: Callable[[], float] = time.time, bound: int = BOUND) -> None:
        self._now = now
        self._bound = bound
        self._times = [(0, now())]
        self._chunks: deque[tuple[int, bytes]] = deque()
        self._changed = asyncio.Condition()
        self._readers: dict[object, int] = {}
        self.base = 0
        self.end = 0
        self.ended = False

    async def write(self, data: bytes) -> None:
        """Append bytes, once there is room for them."""
        async with self._changed:
            await self._changed.wait_for(self._has_room)
            self._chunks.append((self.end, data))
            if self._now() - self._times[-1][1] >= STEP_S:
                self._times.append((self.end, self._now()))
            self.end += len(data)
            while self.end - self.base > self._bound:
                self._drop()
            self._changed.notify_all()

    async def finish(self) -> None:
        """Say that nothing more comes."""
        async with self._changed:
            self.ended = True
            self._changed.notify_all()

    async def read_old(self, offset: int, limit: int) -> tuple[int, bytes]:
        start = max(offset, self.base)
        kept = b"".join(data for _, data in self._chunks)
        return start, kept[start - self.base :][: max(0, limit)]

    def times(self, offset: int) -> list[tuple[int, float]]:
        first = max(index for index, (at, _) in enumerate(self._times) if at <= offset)
        return [(max(at, offset), when) for at, when in self._times[first:]]

    def offset_at(self, when: float) -> int:
        return next((max(at, self.base) for at, noted in self._times if noted + STEP_S > when), self.end)

    async def follow(self, offset: int) -> AsyncIterator[tuple[int, bytes | memoryview]]:
        """Yield `(offset, bytes)` from `offset`, or from `base` if that is later, until the channel has ended."""
        reader = object()
        at = self._readers[reader] = max(offset, self.base)
        try:
            while True:
                async with self._changed:
                    await self._changed.wait_for(partial(self._has_more, at))
                if self.end <= at:
                    return
                start, data = self._chunk_at(max(at, self.base))
                at = start + len(data)
                yield start, data
                self._readers[reader] = at
                async with self._changed:
                    self._changed.notify_all()
        finally:
            del self._readers[reader]

    def _has_more(self, at: int) -> bool:
        return self.end > at or self.ended

    def _has_room(self) -> bool:
        unread = self.end - min(self._readers.values(), default=self.end)
        return unread < self._bound or not self._readers

    def _chunk_at(self, at: int) -> tuple[int, bytes]:
        start, data = next((start, data) for start, data in self._chunks if start + len(data) > at)
        return at, data[at - start :]

    def _drop(self) -> None:
        start, data = self._chunks.popleft()
        self.base = start + len(data)
