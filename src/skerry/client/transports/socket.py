"""The one WebSocket of a connection: frames of many streams, each handed to the stream that it belongs to.

Received bytes land in one buffer and are copied once, into the chunk that the reader gets. Nothing waits here: a stream
takes what it granted, so a reader that is slow holds back its own stream and no other.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Final, Protocol, cast

from skerry.client._core import websocket
from skerry.client._core.websocket import Handshake, SocketProtocolError
from skerry.client.transports import unix
from skerry.client.transports.http import HOST, ConnectionLost
from skerry.wire import native
from skerry.wire.frames import (
    HEADER_SIZE,
    MAX_DATA,
    OFFSET,
    FrameType,
    Header,
    ProtocolViolation,
    encode_frame,
    parse_header,
)

TARGET: Final = "/v1/stream"
MESSAGE_BYTES_MAX: Final = HEADER_SIZE + OFFSET.size + MAX_DATA
_BUFFER_BYTES: Final = 2 * 1024 * 1024
_READ_BYTES_MIN: Final = 256 * 1024
_PATIENCE_S: Final = 0.01
"""How long a CLOSE may wait for another frame with which it can go: each write wakes the server."""


class StreamListener(Protocol):
    """Whoever owns a stream. Called on the loop; nothing here may block."""

    def on_frame(self, header: Header, payload: memoryview, /) -> None:
        """Take a frame; `payload` is valid during the call only."""

    def on_writable(self) -> None:
        """More may be sent."""

    def on_lost(self, error: Exception, /) -> None:
        """The socket is gone; no frame comes any more."""

    def on_fork(self) -> None:
        """This is a forked child, where the socket's loop does not run."""


class FrameSocket(asyncio.BufferedProtocol):
    """An open socket to the native door."""

    def __init__(self) -> None:
        self.closed = False
        self.writable = True
        self._streams: dict[int, StreamListener] = {}
        self._last_stream = 0
        self._transport: asyncio.Transport | None = None
        self._handshake = Handshake.new(TARGET, HOST)
        self._upgraded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        self._patient: list[bytes] = []
        self._patience: asyncio.TimerHandle | None = None
        self._gone: asyncio.Event = asyncio.Event()
        self._error: Exception | None = None

    @classmethod
    async def connect(cls, path: Path) -> FrameSocket:
        """Return a socket that is ready for frames; raises OSError, ConnectionLost, PermissionDeniedError."""
        made = await unix.connect(path, cls)
        try:
            await made._upgraded
        except BaseException:
            made.abort()
            raise
        return made

    def open(self, listener: StreamListener, payload: bytes) -> int:
        """Send OPEN on a new stream that belongs to `listener`, and return its number."""
        self._last_stream += 1
        stream = self._last_stream
        self._streams[stream] = listener
        self.send(FrameType.OPEN, stream, payload)
        return stream

    def close_stream(self, stream: int) -> None:
        """Forget the stream and send CLOSE before long; what still comes for it is passed over."""
        if self._streams.pop(stream, None) is None or self.closed:
            return
        self._patient += websocket.encode(websocket.BINARY, encode_frame(FrameType.CLOSE, stream, b""))
        if self._patience is None:
            self._patience = asyncio.get_running_loop().call_later(_PATIENCE_S, self._write_patient)

    def send(self, kind: FrameType, stream: int, payload: bytes = b"", *, flags: int = 0) -> None:
        self.send_encoded(encode_frame(kind, stream, payload, flags=flags))

    def send_encoded(self, *parts: bytes) -> None:
        """Send one frame, whose bytes are `parts` in a row."""
        self._write(websocket.BINARY, *parts)

    async def aclose(self) -> None:
        """Say goodbye and wait until the connection is gone, at most a second."""
        if self._transport is not None and not self.closed:
            self._write(websocket.CLOSE, (1000).to_bytes(2, "big"))
            self._transport.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._gone.wait()
        self.abort()

    def leave_to_parent(self) -> None:
        """Detach every stream in a forked child: the connection itself stays the parent's."""
        self.closed = True
        for listener in self._streams.values():
            listener.on_fork()

    def abort(self) -> None:
        # One that has closed itself behind its last byte cannot be aborted any more: asyncio would fail.
        if self._transport is not None and not self._gone.is_set():
            self._transport.abort()

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._handshake.request())

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the protocol's signature
        if self._start == self._end:
            self._start = self._end = 0
        elif _BUFFER_BYTES - self._end < _READ_BYTES_MIN:
            size = self._end - self._start
            self._view[:size] = self._view[self._start : self._end]
            self._start, self._end = 0, size
        return self._view[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        self._end += nbytes
        try:
            if not self._upgraded.done() and not self._upgrade():
                return
            while not self.closed and self._next_message():
                pass
        except (SocketProtocolError, ProtocolViolation) as exc:
            self._error = exc
            self._write(websocket.CLOSE, native.CLOSE_PROTOCOL.to_bytes(2, "big") + str(exc).encode()[:120])
            self.abort()

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        for listener in list(self._streams.values()):
            listener.on_writable()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        error = self._error or exc
        lost = ConnectionLost(f"the socket to the server closed ({error or 'end of file'})")
        lost.__cause__ = error
        if not self._upgraded.done():
            self._upgraded.set_exception(lost)
        self._gone.set()
        listeners, self._streams = list(self._streams.values()), {}
        for listener in listeners:
            listener.on_lost(lost)

    # Parsing.

    def _upgrade(self) -> bool:
        """Tell whether the answer to the handshake is complete; raises SocketProtocolError if it is no upgrade."""
        head_end = self._buffer.find(b"\r\n\r\n", self._start, self._end)
        if head_end < 0:
            if self._end - self._start > websocket.HEAD_BYTES_MAX:
                raise SocketProtocolError("the answer to the handshake has no end")
            return False
        head, rest = self._view[self._start : head_end], self._view[head_end + 4 : self._end]
        self._handshake.check(bytes(head), bytes(rest))
        self._start = head_end + 4
        self._upgraded.set_result(None)
        return True

    def _next_message(self) -> bool:
        """Handle one whole message; tell whether there was one."""
        header = websocket.parse_header(self._buffer, self._start, self._end, MESSAGE_BYTES_MAX)
        if header is None or self._end - header.start < header.size:
            return False
        self._start = header.start + header.size
        payload = self._view[header.start : self._start]
        if header.opcode == websocket.BINARY:
            self._dispatch(payload)
        elif header.opcode == websocket.PING:
            self._write(websocket.PONG, bytes(payload))
        elif header.opcode == websocket.CLOSE:
            reason = bytes(payload[2:]).decode("utf-8", "replace")
            self._error = ConnectionLost(f"the server closed the socket: {reason or 'no reason given'}")
            self.abort()
        elif header.opcode != websocket.PONG:
            raise SocketProtocolError(f"a message of type {header.opcode}")
        return True

    def _dispatch(self, message: memoryview) -> None:
        if len(message) < HEADER_SIZE:
            raise SocketProtocolError(f"a message of {len(message)} bytes holds no frame")
        header = parse_header(message, 0, native.TO_CLIENT)
        if header.length != len(message) - HEADER_SIZE:
            raise SocketProtocolError("a message that does not hold exactly one frame")
        listener = self._streams.get(header.stream)
        if listener is not None:
            listener.on_frame(header, message[HEADER_SIZE:])

    def _write(self, opcode: int, *parts: bytes) -> None:
        if self._transport is not None and not self.closed:
            self._transport.write(b"".join((*self._take_patient(), *websocket.encode(opcode, *parts))))

    def _write_patient(self) -> None:
        waiting = b"".join(self._take_patient())
        if waiting and self._transport is not None and not self.closed:
            self._transport.write(waiting)

    def _take_patient(self) -> list[bytes]:
        if self._patience is None:
            return []
        self._patience.cancel()
        self._patience = None
        waiting, self._patient = self._patient, []
        return waiting
