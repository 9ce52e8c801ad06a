"""A stream of a connection: what the client may say to an operation while it runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TypeVar

from skerry.doors.native.outbox import Outbox
from skerry.doors.native.windows import FirstUse, ReceiveWindow, SendWindow
from skerry.wire.frames import SENT_DATA, FrameType, ProtocolViolation, encode_credit
from skerry.wire.native import Payload

T = TypeVar("T")


class Stream:
    """One OPEN: its channels, and the way back to the client. The connection feeds it, its operation reads it.

    `outputs` and `input` are the channels that the operation has; `input` is made when the operation says from where
    it takes bytes, so DATA before that is beyond credit. `signals` is a set: a signal that waits already is one signal.
    Of sizes that wait only the newest counts.
    """

    def __init__(self, number: int, outbox: Outbox, *, takes_input: bool = False, is_process: bool = False) -> None:
        self.number = number
        self.outputs: dict[int, SendWindow] = {}
        self.input: ReceiveWindow | None = None
        self._outbox = outbox
        self._takes_input = takes_input
        self._is_process = is_process
        self._signals: set[int] = set()
        self._signalled = asyncio.Event()
        self._size = (0, 0)
        self._resized = asyncio.Event()
        self.signalled = FirstUse()
        self.resized = FirstUse()

    # From the client

    def data(self, offset: int, content: memoryview) -> None:
        self._input("DATA").put(offset, content)

    def end(self, offset: int) -> None:
        self._input("END").finish(offset)

    def credit(self, channel: int, acknowledged: int, limit: int) -> None:
        window = self.outputs.get(channel)
        if window is None:
            raise ProtocolViolation("unexpected_frame", f"CREDIT for channel {channel}, which this stream lacks")
        window.grant(acknowledged, limit)

    def signal(self, number: int) -> None:
        self.expect_process("SIGNAL")
        self._signals.add(number)
        self._signalled.set()
        self.signalled.note()

    def resize(self, rows: int, columns: int) -> None:
        self.expect_process("RESIZE")
        if not rows or not columns:
            raise ProtocolViolation("malformed_payload", f"RESIZE to {rows} rows and {columns} columns")
        self._size = rows, columns
        self._resized.set()
        self.resized.note()

    def expect_process(self, frame: str) -> None:
        """Raise ProtocolViolation if this is a file operation, which has no `frame`."""
        if not self._is_process:
            raise ProtocolViolation("unexpected_frame", f"{frame} for a file operation")

    # For the operation

    async def next_signals(self) -> list[int]:
        """Return the signals that came, once there are some."""
        await self._signalled.wait()
        self._signalled.clear()
        numbers, self._signals = sorted(self._signals), set()
        return numbers

    async def next_size(self) -> tuple[int, int]:
        """Return the newest size that was asked for, once there is one: rows and columns."""
        await self._resized.wait()
        self._resized.clear()
        return self._size

    async def say(self, kind: FrameType, payload: Payload) -> None:
        """Send a control frame."""
        await self._outbox.control(kind, self.number, payload)

    async def say_in_turn(self, kind: FrameType, payload: Payload) -> None:
        """Send a control frame behind the DATA that waits."""
        await self._outbox.in_turn(kind, self.number, payload)

    async def send(self, channel: int, content: bytes | memoryview) -> None:
        """Send bytes of a channel in frames, as far as credit lets it, then wait for more."""
        window = self.outputs[channel]
        view = memoryview(content)
        while view:
            size = min(len(view), SENT_DATA, window.room or await window.wait())
            await self._outbox.data(self.number, channel, window.sent, view[:size])
            window.sent += size
            view = view[size:]

    async def send_end(self, channel: int) -> None:
        await self._outbox.end(self.number, channel, self.outputs[channel].sent)

    async def acknowledge(self, acknowledged: int) -> None:
        """Tell the client how much of its bytes arrived, where that is worth a frame."""
        window = self.input
        if window is not None and window.extend(acknowledged):
            await self._outbox.frame(encode_credit(self.number, 0, acknowledged, window.limit))

    def _input(self, frame: str) -> ReceiveWindow:
        if not self._takes_input:
            raise ProtocolViolation("unexpected_frame", f"{frame} for channel 0, which this stream lacks")
        if self.input is None:
            raise ProtocolViolation("over_credit", f"{frame} before STARTED told the first limit")
        return self.input


@contextlib.asynccontextmanager
async def ended(items: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Let go of what `items` hold when the block ends, also in their middle: a reader of a log counts until then."""
    try:
        yield items
    finally:
        close = getattr(items, "aclose", None)  # generators have it, and so has a node's reader, which is none
        if close is not None:
            await close()
