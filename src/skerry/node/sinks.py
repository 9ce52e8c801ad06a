"""Where the content of a stream goes: the interface that the agent link asks for, and the two sinks held in memory.

Output of processes goes to files (`output.py`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol


class Sink(Protocol):
    """Takes the content of a stream's channels. Everything is called on the event loop and returns at once."""

    def store(self, channel: int, parts: Sequence[memoryview], /) -> None:
        """Take content that follows what came before; the views are invalid afterwards."""

    def end(self, channel: int, /) -> None:
        """No more content will come on this channel."""

    def fail(self, error: Exception, /) -> None:
        """The stream ended before its channels did, or the link was lost."""

    def stored(self, channel: int, /) -> int:
        """Return the offset below which everything is stored, so that the sender may forget it."""

    def room(self, channel: int, window: int, /) -> int:
        """Return how many bytes beyond `stored` the sender may send now, at most `window`."""

    def on_room(self, wake: Callable[[int], None], /) -> None:
        """Have `wake(channel)` called when `stored` or `room` grow by themselves."""


class Discard:
    """Takes everything and keeps nothing."""

    def __init__(self) -> None:
        self._stored: dict[int, int] = {}

    def store(self, channel: int, parts: Sequence[memoryview]) -> None:
        self._stored[channel] = self.stored(channel) + sum(map(len, parts))

    def end(self, _channel: int) -> None: ...

    def fail(self, _error: Exception) -> None: ...

    def stored(self, channel: int) -> int:
        return self._stored.get(channel, 0)

    def room(self, _channel: int, window: int) -> int:
        return window

    def on_room(self, _wake: Callable[[int], None]) -> None: ...


class ReaderSink:
    """Hands the content of one channel to one reader, and holds at most a window of it.

    What is handed out counts as stored, so a reader that stops holds the sender back.
    """

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._handed_out = 0
        self._channel = 0
        self._over = False
        self._error: Exception | None = None
        self._wake: Callable[[int], None] | None = None
        self._news = asyncio.Event()

    def store(self, channel: int, parts: Sequence[memoryview]) -> None:
        self._channel = channel
        chunk = b"".join(parts)
        self._chunks.append(chunk)
        self._news.set()

    def end(self, _channel: int) -> None:
        self._over = True
        self._news.set()

    def fail(self, error: Exception) -> None:
        if not self._over:
            self._error = error
            self._news.set()

    def stored(self, _channel: int) -> int:
        return self._handed_out

    def room(self, _channel: int, window: int) -> int:
        return window

    def on_room(self, wake: Callable[[int], None]) -> None:
        self._wake = wake

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (chunk := await self.next()) is not None:
            yield chunk

    async def next(self) -> bytes | None:
        """Return the next content, or None at the end; raise what the stream failed with."""
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self._over:
                return None
            self._news.clear()
            await self._news.wait()
        return self._take()

    def _take(self) -> bytes:
        chunk = self._chunks.popleft()
        self._handed_out += len(chunk)
        if self._wake is not None:
            self._wake(self._channel)
        return chunk
