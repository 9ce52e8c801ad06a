"""A process as this program follows it: its start, its channels and its end, whatever happens to connections.

The session keeps the offsets of each channel. When the socket is lost it opens the process again on a new one, from the
next byte on; an exec that was not answered is sent again under the same process id, which the server starts only once.
"""

from __future__ import annotations

import asyncio

from skerry.client._core import views
from skerry.client._core.streams import Inbox, Outbox
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
        self.inboxes = {STDOUT: Inbox(), STDERR: Inbox()}
        self.outbox = Outbox() if opening.stdin in (True, "pipe") else None
        self.sandbox = opening.sandbox
        self.process = opening.process
        self._opening = opening
        self._started = False
        self._error: Error | None = None
        self._socket: FrameSocket | None = None
        self._stream: int | None = None
        self._reading = 0
        self._abandoned = False
        self._attaching: asyncio.Task[None] | None = None
        self._pulse = Pulse()
        if isinstance(opening, native.OpenExec):
            self.inboxes[STDOUT].ended = opening.stdout == "null"
            self.inboxes[STDERR].ended = opening.stderr != "pipe"

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
        inbox = self.inboxes[channel]
        self._reading += 1
        try:
            while inbox.empty and not inbox.ended:
                self._raise_error()
                await self._attach()
                self._grant(channel, window)
                if inbox.empty and not inbox.ended and self._error is None:
                    await self._pulse.wait()
            chunks = inbox.take()
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
        outbox = self._stdin()
        while not outbox.flushed and self.exit is None:
            self._raise_error()
            await self._attach()
            self._send_stdin()
            if not outbox.flushed and self.exit is None and self._error is None:
                await self._pulse.wait()

    def abandon(self) -> None:
        """Note that nobody holds the process any more: once it has ended, its stream is closed."""
        self._abandoned = True
        self._let_go()

    # For the socket.

    def on_frame(self, header: Header, payload: memoryview) -> None:
        kind = header.type
        if kind == FrameType.DATA:
            (offset,) = OFFSET.unpack_from(payload)
            self.inboxes[header.flags].feed(offset, bytes(payload[OFFSET.size :]))
        elif kind == FrameType.END:
            self.inboxes[header.flags].end(OFFSET.unpack(payload)[0])
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
        if self._stream is None and self._error is None:
            await asyncio.shield(self._reattach())

    def _reattach(self) -> asyncio.Task[None]:
        if self._attaching is None or self._attaching.done():
            self._attaching = self._client.spawn(self._open())
        return self._attaching

    async def _open(self) -> None:
        try:
            socket = await (await self._client.connection()).socket()
        except Error as exc:
            self._fail(exc)
            self._pulse.beat()
            return
        self._socket = socket
        self._stream = socket.open(self, native.encode(self._next_opening()))

    def _next_opening(self) -> native.OpenExec | native.OpenProcess:
        """Return how the process is opened now: as asked at first, from the next byte on later."""
        if not self._started and isinstance(self._opening, native.OpenExec):
            return self._opening
        out, err = self.inboxes[STDOUT].reopen(), self.inboxes[STDERR].reopen()
        return native.OpenProcess(
            sandbox=self.sandbox,
            process=self.process,
            offsets=(out[0], err[0]),
            limits=(out[1], err[1]),
            stdin=self.outbox is not None and self.exit is None,
        )

    def _on_started(self, told: native.ProcessStarted) -> None:
        self._started = True
        self.process = told.process
        if self.outbox is not None:
            self.outbox.restart(told.stdin, told.stdin_limit)
            self._send_stdin()

    def _on_credit(self, acknowledged: int, limit: int) -> None:
        if self.outbox is not None:
            self.outbox.credit(acknowledged, limit)
            self._send_stdin()

    def _grant(self, channel: int, window: int) -> None:
        inbox = self.inboxes[channel]
        if self._socket is None or self._stream is None or not self._started:
            return
        limit = inbox.grant(window)
        if limit is not None:
            self._socket.send_encoded(encode_credit(self._stream, channel, inbox.received, limit))

    def _stdin(self) -> Outbox:
        if self.outbox is None:
            raise InternalError(f"process {self.process} was opened without stdin")
        return self.outbox

    def _want_stdin(self) -> None:
        if self._stream is None and self._error is None and self.exit is None:
            self._reattach()
        self._send_stdin()

    def _send_stdin(self) -> None:
        socket, stream, outbox = self._socket, self._stream, self.outbox
        if socket is None or stream is None or outbox is None or not self._started or self.exit is not None:
            return
        while socket.writable and not socket.closed:
            piece = outbox.next_data()
            if piece is None:
                break
            offset, data = piece
            socket.send_encoded(encode_data_header(stream, STDIN, offset, len(data)), data)
        end = outbox.next_end()
        if end is not None:
            socket.send_encoded(encode_end(stream, STDIN, end))

    def _needed(self) -> bool:
        """Tell whether anything of this process is still to come that somebody may want."""
        return self._error is None and (self.exit is None or self._reading > 0)

    def _let_go(self) -> None:
        """Close the stream when the process has ended and nothing of its output is being read.

        What was not read stays with the server and is asked for again when somebody reads.
        """
        if self._stream is None or self._socket is None or self.exit is None or self._reading:
            return
        open_channels = [inbox for inbox in self.inboxes.values() if not inbox.ended]
        if self._abandoned or not any(inbox.limit for inbox in open_channels):
            self._socket.close_stream(self._stream)
            self._socket = self._stream = None
            for inbox in open_channels:
                inbox.retract()

    def _fail(self, error: Error) -> None:
        self._error = error
        if self._socket is not None and self._stream is not None:
            self._socket.close_stream(self._stream)
        self._socket = self._stream = None

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error.with_traceback(None)
