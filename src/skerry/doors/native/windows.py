"""Offsets and credit of one channel: what may be sent, what may come. Decisions without I/O, but for the waiting."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from skerry.wire.frames import SENT_DATA, ProtocolViolation
from skerry.wire.native import STDIN_WINDOW, WINDOW


class FirstUse:
    """Tells when something is used for the first time, so that what serves it need not exist before."""

    def __init__(self) -> None:
        self._used = False
        self._begin: Callable[[], object] | None = None

    def note(self) -> None:
        """It is used now."""
        if not self._used:
            self._used = True
            self._tell()

    def serve(self, begin: Callable[[], object]) -> None:
        """Call `begin` at the first use, at once if that has been."""
        self._begin = begin
        if self._used:
            self._tell()

    def forget(self) -> None:
        """Call nobody any more."""
        self._begin = None

    def _tell(self) -> None:
        begin, self._begin = self._begin, None
        if begin is not None:
            begin()


class SendWindow:
    """A channel to the client: sends up to the limit that the client grants.

    Bytes that the log has dropped need no credit: behind a gap a limit lies further on by the gap's length. The client
    cannot know of a gap before it sees it, so a limit is moved by each gap that lies at or behind what it acknowledges.
    """

    def __init__(self, *, offset: int, limit: int) -> None:
        if limit > offset + WINDOW:
            raise ProtocolViolation(
                "bad_credit", f"a first limit of {limit} from offset {offset}; at most {WINDOW} more"
            )
        self.sent = offset
        self._acknowledged = 0
        self._granted = limit
        self._gaps: list[tuple[int, int]] = []
        self._changed = asyncio.Event()
        self.granted = FirstUse()
        """The first credit."""
        if limit > offset:
            self.granted.note()

    @property
    def room(self) -> int:
        """How many bytes may be sent now."""
        return self._granted + sum(size for _, size in self._gaps) - self.sent

    def grant(self, acknowledged: int, limit: int) -> None:
        """Take the client's CREDIT, or raise ProtocolViolation("bad_credit")."""
        backwards = acknowledged < self._acknowledged or limit < self._granted
        if backwards or acknowledged > self.sent or limit > acknowledged + WINDOW:
            raise ProtocolViolation(
                "bad_credit",
                f"acknowledged {acknowledged}, limit {limit} after {self._acknowledged}, {self._granted} "
                f"with {self.sent} sent",
            )
        self._acknowledged, self._granted = acknowledged, limit
        self._gaps = [(at, size) for at, size in self._gaps if at >= acknowledged]
        self._changed.set()
        if self.room > 0:
            self.granted.note()

    def jump(self, offset: int) -> None:
        """Go on at `offset`: the bytes before it are gone."""
        self._gaps.append((self.sent, offset - self.sent))
        self.sent = offset

    async def wait(self) -> int:
        """Return the room once there is some."""
        while self.room <= 0:
            self._changed.clear()
            await self._changed.wait()
        return self.room


class ReceiveWindow:
    """A channel from the client: holds what came until it is taken, at most a window of it."""

    def __init__(self, *, offset: int = 0, limit: int | None = None) -> None:
        self.taken = offset
        self.limit = offset + STDIN_WINDOW if limit is None else limit
        self._expected = offset
        self._chunks: deque[bytearray] = deque()
        self._ended = False
        self._news = asyncio.Event()
        self.used = FirstUse()
        """The first DATA, or the END."""

    def put(self, offset: int, content: memoryview) -> None:
        """Take DATA, or raise the ProtocolViolation that it is."""
        self._check(offset)
        if offset + len(content) > self.limit:
            raise ProtocolViolation("over_credit", f"{len(content)} bytes at {offset} go beyond {self.limit}")
        self._expected += len(content)
        # Many small frames become few chunks, so that the memory held is what the window says.
        if self._chunks and len(self._chunks[-1]) + len(content) <= SENT_DATA:
            self._chunks[-1] += content
        else:
            self._chunks.append(bytearray(content))
        self._tell()

    def finish(self, offset: int) -> None:
        """Take END, or raise the ProtocolViolation that it is."""
        self._check(offset)
        self._ended = True
        self._tell()

    async def take(self) -> bytearray | None:
        """Return the next bytes, or None at the end."""
        while not self._chunks:
            if self._ended:
                return None
            self._news.clear()
            await self._news.wait()
        chunk = self._chunks.popleft()
        self.taken += len(chunk)
        return chunk

    def extend(self, acknowledged: int) -> bool:
        """Move the limit behind what is acknowledged; tell whether that is worth a CREDIT now."""
        limit = acknowledged + STDIN_WINDOW
        worth = limit - self.limit >= STDIN_WINDOW // 4 or not self._chunks
        if worth:
            self.limit = max(limit, self.limit)
        return worth

    def _tell(self) -> None:
        self._news.set()
        self.used.note()

    def _check(self, offset: int) -> None:
        if self._ended:
            raise ProtocolViolation("channel_ended", f"more at {offset} after END")
        if offset != self._expected:
            raise ProtocolViolation("offset_jumped", f"offset {offset} where {self._expected} is next")
