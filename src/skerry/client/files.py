"""File operations of a sandbox over the socket. Each is repeated as a whole when the socket is lost in the middle."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from skerry.client._core import views
from skerry.client._core.streams import BULK_WINDOW, Incoming, Outgoing
from skerry.client.client import Client
from skerry.client.pulse import Pulse
from skerry.client.transports.http import ConnectionLost
from skerry.client.transports.socket import FrameSocket
from skerry.model.errors import ServerUnavailableError
from skerry.wire import native
from skerry.wire.frames import (
    CREDIT,
    OFFSET,
    STDIN,
    STDOUT,
    FrameType,
    Header,
    encode_credit,
    encode_data_header,
    encode_end,
)

TRIES = 5
PIECE_BYTES = 4 << 20

P = TypeVar("P", bound=native.Payload)
T = TypeVar("T")


class FileCall:
    """One operation on one stream; it ends with its RESULT, its ERROR, or with the block that holds it."""

    def __init__(self, socket: FrameSocket, opening: native.Open) -> None:
        self._socket = socket
        self._incoming = Incoming()
        self._outgoing = Outgoing()
        self._results: list[bytes] = []
        self._error: Exception | None = None
        self._started: bytes | None = None
        self._writes = isinstance(opening, native.OpenInput)
        self._pulse = Pulse()
        if isinstance(opening, native.OpenContent):
            self._incoming.limit = opening.limit
        self._stream = socket.open(self, native.encode(opening))

    async def __aenter__(self) -> FileCall:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._socket.close_stream(self._stream)

    async def result(self, kind: type[P]) -> P:
        """Return the next RESULT."""
        while not self._results:
            await self._wait()
        return native.decode(self._results.pop(0), kind)

    async def started(self, kind: type[P]) -> P:
        while self._started is None:
            await self._wait()
        return native.decode(self._started, kind)

    async def chunks(self, window: int = BULK_WINDOW) -> AsyncIterator[bytes]:
        """Yield the content until its end; no more than `window` of it waits here."""
        async for batch in self.batches(window):
            for chunk in batch:
                yield chunk

    async def batches(self, window: int = BULK_WINDOW) -> AsyncIterator[list[bytes]]:
        """Yield the same as it comes, all chunks that are there at once."""
        while True:
            if batch := self._incoming.take():
                yield batch
            if self._incoming.ended and self._incoming.empty:
                return
            limit = self._incoming.grant(window)
            if limit is not None:
                self._socket.send_encoded(encode_credit(self._stream, STDOUT, self._incoming.received, limit))
            if self._incoming.empty:
                await self._wait()

    async def send(self, data: bytes | memoryview) -> None:
        """Send content, waiting while the other side takes none."""
        for start in range(0, len(data), PIECE_BYTES):
            self._outgoing.write(data[start : start + PIECE_BYTES])
            self._pump()
            while self._outgoing.pending > PIECE_BYTES:
                await self._wait()

    def send_end(self) -> None:
        self._outgoing.close()
        self._pump()

    def on_frame(self, header: Header, payload: memoryview) -> None:
        kind = header.type
        if kind == FrameType.DATA:
            (offset,) = OFFSET.unpack_from(payload)
            self._incoming.feed(offset, bytes(payload[OFFSET.size :]))
        elif kind == FrameType.END:
            self._incoming.end(OFFSET.unpack(payload)[0])
        elif kind == FrameType.CREDIT:
            self._outgoing.credit(*CREDIT.unpack(payload))
            self._pump()
        elif kind == FrameType.STARTED:
            self._on_started(bytes(payload))
        elif kind == FrameType.RESULT:
            self._results.append(bytes(payload))
        elif kind == FrameType.ERROR:
            told = native.decode(payload, native.ErrorReply)
            self._error = views.error(told.code, told.message, told.kind, told.details)
        self._pulse.beat()

    def on_writable(self) -> None:
        self._pump()

    def on_lost(self, error: Exception) -> None:
        self._error = self._error or error
        self._pulse.beat()

    def on_fork(self) -> None:
        """Nobody in the child waits for this call: the thread that did is not there."""

    def _on_started(self, payload: bytes) -> None:
        self._started = payload
        if self._writes:
            self._outgoing.restart(0, native.decode(payload, native.WriteStarted).stdin_limit)
            self._pump()

    def _pump(self) -> None:
        while self._socket.writable and not self._socket.closed:
            piece = self._outgoing.next_data()
            if piece is None:
                break
            offset, data = piece
            self._socket.send_encoded(encode_data_header(self._stream, STDIN, offset, len(data)), data)
        end = self._outgoing.next_end() if self._started is not None else None
        if end is not None:
            self._socket.send_encoded(encode_end(self._stream, STDIN, end))

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        await self._pulse.wait()


async def repeat(client: Client, work: Callable[[FrameSocket], Awaitable[T]]) -> T:
    """Return what `work` makes of the open socket; a lost socket lets it begin again, five times at most."""
    for attempt in range(TRIES):
        socket = await (await client.connection()).socket()
        try:
            return await work(socket)
        except ConnectionLost as exc:
            if attempt == TRIES - 1:
                raise ServerUnavailableError(
                    f"the connection was lost {TRIES} times during one file operation"
                ) from exc
    raise AssertionError("unreachable")


async def read(client: Client, sandbox: str, path: str) -> list[bytes]:
    """Return the content of a file in chunks."""
    opening = native.OpenRead(sandbox=sandbox, path=native.encode_name(path), limit=1 << 20)

    async def work(socket: FrameSocket) -> list[bytes]:
        async with FileCall(socket, opening) as call:
            await call.started(native.ReadStarted)
            content = [chunk async for chunk in call.chunks()]
            await call.result(native.Done)
            return content

    return await repeat(client, work)


async def write(client: Client, sandbox: str, path: str, data: bytes | memoryview) -> int:
    """Put a file in place and return its size; on any failure the old file is untouched."""
    opening = native.OpenWrite(sandbox=sandbox, path=native.encode_name(path))

    async def work(socket: FrameSocket) -> int:
        async with FileCall(socket, opening) as call:
            await call.started(native.WriteStarted)
            await call.send(data)
            call.send_end()
            return (await call.result(native.Written)).size

    return await repeat(client, work)


async def entries(client: Client, opening: native.OpenList | native.OpenVolumeList) -> list[native.Entry]:
    """Return the entries of a folder."""

    async def work(socket: FrameSocket) -> list[native.Entry]:
        found: list[native.Entry] = []
        async with FileCall(socket, opening) as call:
            while True:
                page = await call.result(native.Listed)
                found.extend(page.entries)
                if not page.more:
                    return found

    return await repeat(client, work)


async def single(client: Client, opening: native.Open, kind: type[P]) -> P:
    """Return the result of an operation that has one."""

    async def work(socket: FrameSocket) -> P:
        async with FileCall(socket, opening) as call:
            return await call.result(kind)

    return await repeat(client, work)
