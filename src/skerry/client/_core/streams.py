"""The two halves of a channel, without I/O: what came in and how much more may come, what goes out and may go.

Offsets and credit are those of proto/agent.md, section 4. Both halves survive the loss of a connection: they know the
byte at which the next one goes on.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from skerry.wire.frames import SENT_DATA, ProtocolViolation

WINDOW: Final = 1 << 20
"""How many unread bytes a reader that takes piece by piece asks for."""
BULK_WINDOW: Final = 16 << 20
"""The same for a reader that takes everything, the most that the socket allows."""
STDIN_BUFFER: Final = 16 << 20
"""How many bytes a program may write ahead of the process."""


class Incoming:
    """One output channel. Bytes wait here until they are taken; only taking grants more.

    So a stream that nobody reads costs the client nothing and lets the server drop at its bound, and a slow reader
    holds back its own stream alone.
    """

    def __init__(self, offset: int = 0) -> None:
        """Begin at `offset`: what lies before it is not asked for, and not missed."""
        self.received = offset
        self.taken = offset
        self.limit = offset
        self.dropped = 0
        self.ended = False
        self._chunks: deque[bytes] = deque()

    @property
    def empty(self) -> bool:
        return not self._chunks

    def feed(self, offset: int, chunk: bytes) -> None:
        """Store bytes; those that were stored before (after a reconnection) are passed over, lost ones counted."""
        if offset > self.received:
            self._skip_to(offset)
        if offset + len(chunk) > self.limit:
            raise ProtocolViolation("over_credit", f"bytes up to {offset + len(chunk)}, granted up to {self.limit}")
        known = self.received - offset
        if known >= len(chunk):
            return
        self._chunks.append(chunk[known:] if known else chunk)
        self.received = offset + len(chunk)

    def end(self, offset: int) -> None:
        """Note that the channel carries nothing beyond `offset`."""
        if offset > self.received:
            self._skip_to(offset)
        self.ended = True

    def take(self) -> list[bytes]:
        """Return the stored chunks and forget them."""
        chunks = list(self._chunks)
        self._chunks.clear()
        self.taken = self.received
        return chunks

    def grant(self, window: int) -> int | None:
        """Return the new limit once half of `window` may be granted beyond the last one, else None."""
        if self.ended:
            return None
        limit = self.taken + window
        if limit - self.limit < window // 2:
            return None
        self.limit = limit
        return limit

    def reopen(self) -> tuple[int, int]:
        """Return the offset and the limit with which a new connection goes on: what was granted and has not come."""
        self.limit = max(self.limit, self.received)
        return self.received, self.limit

    def retract(self) -> None:
        """Forget what was granted, for the next opening grants anew."""
        self.limit = self.received

    def _skip_to(self, offset: int) -> None:
        # Bytes that the log has dropped need no credit: the limit moves with the gap (proto/native/socket.md).
        self.dropped += offset - self.received
        self.limit += offset - self.received
        self.received = offset


class Outgoing:
    """One stdin or one file to write. Bytes stay here until they are acknowledged."""

    def __init__(self) -> None:
        self.acknowledged = 0
        self.closed = False
        self._sent = 0
        self._limit = 0
        self._end_sent = False
        self._kept = bytearray()
        self._gone = 0  # how much of the beginning of `_kept` is acknowledged

    @property
    def written(self) -> int:
        return self.acknowledged + self.pending

    @property
    def pending(self) -> int:
        """How many bytes are not acknowledged."""
        return len(self._kept) - self._gone

    @property
    def flushed(self) -> bool:
        """Tell whether everything written has been sent, and the end where there is one.

        Not whether it is acknowledged: that happens in batches, and a small write may wait for it as long as it likes.
        """
        return self._sent == self.written and (self._end_sent or not self.closed)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Store bytes to be sent; raises ValueError after the end, BufferError when too much waits."""
        if self.closed:
            raise ValueError("stdin is closed: write_eof() was called before")
        if self.pending + len(data) > STDIN_BUFFER:
            raise BufferError(
                f"{self.pending} bytes already wait to be taken by the process and at most {STDIN_BUFFER} may; "
                "call drain() before you write more"
            )
        self._kept += data

    def close(self) -> None:
        """Store the end."""
        self.closed = True

    def credit(self, acknowledged: int, limit: int) -> None:
        """Note what the other side has taken, and how far it lets us send."""
        self._forget(acknowledged)
        self._limit = max(self._limit, limit)

    def begin(self, offset: int, limit: int) -> None:
        """Begin at `offset`: what lies before it was written by others."""
        self.acknowledged = self._sent = offset
        self._limit = limit

    def restart(self, acknowledged: int, limit: int) -> None:
        """Go on at `acknowledged` on a new connection."""
        self._forget(acknowledged)
        self._sent = self.acknowledged
        self._limit = limit
        self._end_sent = False

    def next_data(self) -> tuple[int, bytes] | None:
        """Return the next piece that may be sent, with its offset."""
        size = min(self._limit, self.written, self._sent + SENT_DATA) - self._sent
        if size <= 0:
            return None
        offset = self._sent
        start = self._gone + offset - self.acknowledged
        with memoryview(self._kept) as view:
            piece = bytes(view[start : start + size])
        self._sent += size
        return offset, piece

    def next_end(self) -> int | None:
        """Return the offset of the end once, when everything before it was sent."""
        if not self.closed or self._end_sent or self._sent < self.written:
            return None
        self._end_sent = True
        return self.written

    def _forget(self, acknowledged: int) -> None:
        news = min(acknowledged, self.written) - self.acknowledged
        if news > 0:
            self._gone += news
            self.acknowledged += news
            # What stays is moved to the front, so not for each acknowledgement.
            if 2 * self._gone >= len(self._kept):
                del self._kept[: self._gone]
                self._gone = 0
            self._sent = max(self._sent, self.acknowledged)
