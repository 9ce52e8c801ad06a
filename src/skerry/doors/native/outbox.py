"""What the server says on one connection: one message at a time, control frames first, the others in turn.

Nothing queues here but the callers themselves: each stream has at most one frame on its way and waits for it, so the
memory of a connection is bounded by its streams, and a slow reader slows down only who writes to it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

from skerry.wire.frames import FrameType, encode_data_header, encode_end, encode_frame
from skerry.wire.native import Payload, encode

Send = Callable[[dict[str, Any]], Awaitable[None]]

# A socket that is always writable would never let the loop turn to anything else.
_BREATH_BYTES: Final = 1 << 20


class ConnectionGone(Exception):
    """The client is not there any more; nothing is left to say."""


class Outbox:
    """The sending half of a connection."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._sending = False
        self._urgent: deque[asyncio.Future[None]] = deque()
        self._patient: deque[asyncio.Future[None]] = deque()
        self._since_breath = 0

    async def control(self, kind: FrameType, stream: int, payload: Payload | bytes = b"") -> None:
        """Send a control frame before any DATA that waits."""
        body = payload if isinstance(payload, bytes) else encode(payload)
        await self.frame(encode_frame(kind, stream, body))

    async def frame(self, frame: bytes) -> None:
        """Send a frame before any DATA that waits."""
        await self._turn(self._urgent)
        await self._say(frame)

    async def in_turn(self, kind: FrameType, stream: int, payload: Payload) -> None:
        """Send a control frame that may not overtake: RESULTs that carry content."""
        await self._turn(self._patient)
        await self._say(encode_frame(kind, stream, encode(payload)))

    async def data(self, stream: int, channel: int, offset: int, content: bytes | memoryview) -> None:
        """Send DATA when it is this stream's turn."""
        await self._turn(self._patient)
        await self._say(b"".join((encode_data_header(stream, channel, offset, len(content)), content)))
        self._since_breath += len(content)
        if self._since_breath >= _BREATH_BYTES:
            self._since_breath = 0
            await asyncio.sleep(0)

    async def end(self, stream: int, channel: int, offset: int) -> None:
        """Send END; the DATA of its channel was sent by the same task before."""
        await self.frame(encode_end(stream, channel, offset))

    async def _say(self, message: bytes) -> None:
        """Send one message and let the next in line have its turn. Cancelled, the message is sent whole or not."""
        try:
            await self._send({"type": "websocket.send", "bytes": message})
        except (OSError, RuntimeError) as exc:  # what the server raises after a disconnect, or after our close
            raise ConnectionGone from exc
        finally:
            self._pass_on()

    async def _turn(self, line: deque[asyncio.Future[None]]) -> None:
        if not self._sending:
            self._sending = True
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        for line in (self._urgent, self._patient):
            while line:
                turn = line.popleft()
                if not turn.done():
                    turn.set_result(None)
                    return
        self._sending = False
