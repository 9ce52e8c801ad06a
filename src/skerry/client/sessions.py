"""A process as this program follows it: its start, its channels and its end, whatever happens to connections.

The session keeps the offsets of each channel. When the socket is lost it opens the process again on a new one, from the
next byte on; an exec that was not answered is sent again under the same process id, which the server starts only once.
"""

from __future__ import annotations

import asyncio

from skerry.client._core import views
from skerry.client._core.streams import Incoming, Outgoing
from skerry.client.client import Client
from skerry.client.pulse import Pulse
from skerry.client.transports.socket import FrameSocket
from skerry.model.errors import Error, InternalError
from skerry.model.exits import ProcessExit
from skerry.wire import native
from skerry.wire.frames import (
    CREDIT,
    OFFSET,
    STDERR,
    STDIN,
    STDOUT,
    FrameType,
    Header,
    encode_credit,
    encode_data_header,
    encode_end,
)


class ProcessSession:
    """One process of one sandbox."""

    def __init__(self, client: Client, opening: native.OpenExec | native.OpenProcess) -> None:
        self._client = client
        self.exit: ProcessExit | None = None
        offsets = opening.offsets if isinstance(opening, native.OpenProcess) else (0, 0)
        self.incoming = {STDOUT: Incoming(offsets[0]), STDERR: Incoming(offsets[1])}
        self.outgoing = Outgoing() if opening.stdin in (True, "pipe") else None
        self.sandbox = opening.sandbox
        self.process = opening.process
        self._opening = opening
        self._started = False
        self._error: Error | None = None
        self._socket: FrameSocket | None = None
        self._stream: int | None = None
        self._reading = 0
        self._abandoned = False
        self._closed = False
        self._attaching: asyncio.Task[None] | None = None
        self._pulse = Pulse()
        if isinstance(opening, native.OpenExec):
            self.incoming[STDOUT].ended = opening.stdout == "null"
            self.incoming[STDERR].ended = opening.stderr != "pipe"

    # For whoever uses the process.

    async def start(self) -> None:
        """Return once the process has started; raises what kept it from it."""
        await self._attach()
        while not self._started:
            self._raise_error()
            await self._pulse.wait()

    async def wait(self) -> ProcessExit:
        """Return the end of the process. Its output may be read later."""
        while self.exit is None:
            self._raise_error()
            await self._attach()
            if self.exit is None and self._error is None:
                await self._pulse.wait()
        return self.exit

    async def take(self, channel: int, window: int) -> list[bytes]:
        """Return what the channel carried since the last call, waiting for it; nothing at its end."""
        incoming = self.incoming[channel]
        self._reading += 1
        try:
            while incoming.empty and not incoming.ended:
                self._raise_error()
                await self._attach()
                self._grant(channel, window)
                if incoming.empty and not incoming.ended and self._error is None:
                    await self._pulse.wait()
            chunks = incoming.take()
            self._grant(channel, window)
            return chunks
        finally:
            self._reading -= 1
            self._let_go()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Queue bytes for stdin; raises ValueError after the end, BufferError when 16 MiB wait."""
        self._stdin().write(data)
        self._want_stdin()

    def write_eof(self) -> None:
        """Queue the end of stdin; a second call does nothing."""
        self._stdin().close()
        self._want_stdin()

    async def drain(self) -> None:
        """Return once everything written is with the server, which takes little ahead of the process."""
        outgoing = self._stdin()
        while not outgoing.flushed and self.exit is None:
            self._raise_error()
            await self._attach()
            self._send_stdin()
            if not outgoing.flushed and self.exit is None and self._error is None:
                await self._pulse.wait()

    def abandon(self) -> None:
        """Note that nobody holds the process any more: once it has ended, its stream is closed."""
        self._abandoned = True
        self._let_go()

    def close(self) -> None:
        """Follow the process no more, whether or not it has ended."""
        self._closed = True
        if self._socket is not None and self._stream is not None:
            self._socket.close_stream(self._stream)
        self._socket = self._stream = None

    # For the socket.

    def on_frame(self, header: Header, payload: memoryview) -> None:
        kind = header.type
        if kind == FrameType.DATA:
            (offset,) = OFFSET.unpack_from(payload)
            self.incoming[header.flags].feed(offset, bytes(payload[OFFSET.size :]))
        elif kind == FrameType.END:
            self.incoming[header.flags].end(OFFSET.unpack(payload)[0])
        elif kind == FrameType.CREDIT:
            self._on_credit(*CREDIT.unpack(payload))
        elif kind == FrameType.STARTED:
            self._on_started(native.decode(payload, native.ProcessStarted))
        elif kind == FrameType.EXIT:
            self.exit = views.process_exit(native.decode(payload, native.Exit))
        elif kind == FrameType.ERROR:
            told = native.decode(payload, native.ErrorReply)
            self._fail(views.error(told.code, told.message, told.kind, told.details))
        self._pulse.beat()
        self._let_go()

    def on_writable(self) -> None:
        self._send_stdin()
        self._pulse.beat()

    def on_lost(self, _error: Exception) -> None:
        self._socket = self._stream = None
        if self._needed():
            self._reattach()

    def on_fork(self) -> None:
        self._socket = self._stream = self._attaching = None
        self._pulse = Pulse()

    # Inside.

    async def _attach(self) -> None:
        """Return when the process is open on a live socket, or has failed."""
        if self._stream is not None or self._error is not None:
            return
        socket = self._client.open_socket
        if socket is not None and not self._is_attaching():
            self._open_on(socket)
        else:
            await asyncio.shield(self._reattach())

    def _reattach(self) -> asyncio.Task[None]:
        if self._attaching is None or self._attaching.done():
            self._attaching = self._client.spawn(self._open())
        return self._attaching

    def _is_attaching(self) -> bool:
        return self._attaching is not None and not self._attaching.done()

    async def _open(self) -> None:
        try:
            socket = await (await self._client.connection()).socket()
        except Error as exc:
            self._fail(exc)
            self._pulse.beat()
            return
        if not self._closed:
            self._open_on(socket)

    def _open_on(self, socket: FrameSocket) -> None:
        self._socket = socket
        self._stream = socket.open(self, native.encode(self._next_opening()))

    def _next_opening(self) -> native.OpenExec | native.OpenProcess:
        """Return how the process is opened now: as asked at first, from the next byte on later."""
        if not self._started and isinstance(self._opening, native.OpenExec):
            return self._opening
        out, err = self.incoming[STDOUT].reopen(), self.incoming[STDERR].reopen()
        return native.OpenProcess(
            sandbox=self.sandbox,
            process=self.process,
            offsets=(out[0], err[0]),
            limits=(out[1], err[1]),
            stdin=self.outgoing is not None and self.exit is None,
            fresh=not self._started,
        )

    def _on_started(self, told: native.ProcessStarted) -> None:
        first, self._started = not self._started, True
        self.process = told.process
        if self.outgoing is not None:
            begin = self.outgoing.begin if first else self.outgoing.restart
            begin(told.stdin, told.stdin_limit)
            self._send_stdin()

    def _on_credit(self, acknowledged: int, limit: int) -> None:
        if self.outgoing is not None:
            self.outgoing.credit(acknowledged, limit)
            self._send_stdin()

    def _grant(self, channel: int, window: int) -> None:
        incoming = self.incoming[channel]
        if self._socket is None or self._stream is None or not self._started:
            return
        limit = incoming.grant(window)
        if limit is not None:
            self._socket.send_encoded(encode_credit(self._stream, channel, incoming.received, limit))

    def _stdin(self) -> Outgoing:
        if self.outgoing is None:
            raise InternalError(f"process {self.process} was opened without stdin")
        return self.outgoing

    def _want_stdin(self) -> None:
        if self._stream is None and self._error is None and self.exit is None:
            self._reattach()
        self._send_stdin()

    def _send_stdin(self) -> None:
        socket, stream, outgoing = self._socket, self._stream, self.outgoing
        if socket is None or stream is None or outgoing is None or not self._started or self.exit is not None:
            return
        while socket.writable and not socket.closed:
            piece = outgoing.next_data()
            if piece is None:
                break
            offset, data = piece
            socket.send_encoded(encode_data_header(stream, STDIN, offset, len(data)), data)
        end = outgoing.next_end()
        if end is not None:
            socket.send_encoded(encode_end(stream, STDIN, end))

    def _needed(self) -> bool:
        """Tell whether anything of this process is still to come that somebody may want."""
        return self._error is None and not self._closed and (self.exit is None or self._reading > 0)

    def _let_go(self) -> None:
        """Close the stream when the process has ended and nothing of its output is being read.

        What was not read stays with the server and is asked for again when somebody reads.
        """
        if self._stream is None or self._socket is None or self.exit is None or self._reading:
            return
        open_channels = [incoming for incoming in self.incoming.values() if not incoming.ended]
        if self._abandoned or not any(incoming.limit for incoming in open_channels):
            self._socket.close_stream(self._stream)
            self._socket = self._stream = None
            for incoming in open_channels:
                incoming.retract()

    def _fail(self, error: Error) -> None:
        self._error = error
        if self._socket is not None and self._stream is not None:
            self._socket.close_stream(self._stream)
        self._socket = self._stream = None

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error.with_traceback(None)
