"""One WebSocket: frames come in and find their streams; each stream has a task, and the connection owns them all.

Raw ASGI: nothing that a framework's WebSocket adds is used here, and every frame would pass through it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from skerry.doors.native import operations, volume_files
from skerry.doors.native.errors import log, tell
from skerry.doors.native.outbox import ConnectionGone, Outbox, Send
from skerry.doors.native.places import Place
from skerry.doors.native.streams import Stream
from skerry.doors.native.windows import SendWindow
from skerry.engine.engine import Engine
from skerry.model.errors import ResourceExhaustedError
from skerry.wire import native
from skerry.wire.frames import (
    CREDIT,
    HEADER_SIZE,
    OFFSET,
    SIZE,
    STDOUT,
    FrameType,
    Header,
    ProtocolViolation,
    parse_header,
)

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

_REASON_BYTES = 123  # what fits into a close frame behind its code


class Connection:
    """A client's socket from its acceptance to its end. When it ends, nothing of it is left."""

    def __init__(self, engine: Engine, receive: Receive, send: Send, place: Place) -> None:
        self._engine = engine
        self._receive = receive
        self._send = send
        self._outbox = Outbox(send)
        self._place = place
        self._streams: dict[int, Stream] = {}
        self._works: dict[int, asyncio.Task[None]] = {}
        self._last_stream = 0

    async def serve(self) -> None:
        """Carry frames until the client goes away or breaks a rule, which closes the connection with that rule."""
        try:
            async with asyncio.TaskGroup() as tasks:
                try:
                    await self._read(tasks)
                finally:
                    for work in self._works.values():
                        work.cancel()
        except* ProtocolViolation as broken:
            await self._close(broken.exceptions[0])
        except* ConnectionGone:
            pass  # there is nobody to tell

    async def _read(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                return
            content = message.get("bytes")
            if content is None:
                raise ProtocolViolation("unknown_type", "a text message; frames are binary")
            await self._take(content, tasks)

    async def _take(self, message: bytes, tasks: asyncio.TaskGroup) -> None:
        if len(message) < HEADER_SIZE:
            raise ProtocolViolation("malformed_frame", f"a message of {len(message)} bytes; a header has {HEADER_SIZE}")
        header = parse_header(message, 0, native.TO_SERVER)
        payload = memoryview(message)[HEADER_SIZE:]
        if len(payload) != header.length:
            raise ProtocolViolation(
                "malformed_frame", f"{len(payload)} bytes of payload where {header.length} are told"
            )
        if header.type == FrameType.PING:
            await self._outbox.control(FrameType.PONG, 0, bytes(payload))
        elif header.type == FrameType.OPEN:
            await self._open(header.stream, payload, tasks)
        else:
            self._pass_on(header, payload)

    def _pass_on(self, header: Header, payload: memoryview) -> None:
        """Give a frame to its stream. One whose stream has ended meanwhile was on its way, and is dropped."""
        stream = self._streams.get(header.stream)
        if stream is None:
            if header.stream > self._last_stream or not header.stream:
                raise ProtocolViolation("unknown_stream", f"stream {header.stream} was never opened")
            return
        if header.type == FrameType.DATA:
            stream.data(OFFSET.unpack_from(payload)[0], payload[OFFSET.size :])
        elif header.type == FrameType.END:
            stream.end(OFFSET.unpack_from(payload)[0])
        elif header.type == FrameType.CREDIT:
            stream.credit(header.flags, *CREDIT.unpack_from(payload))
        elif header.type == FrameType.SIGNAL:
            stream.signal(payload[0])
        elif header.type == FrameType.RESIZE:
            stream.resize(*SIZE.unpack(payload))
        else:
            self._forget(stream.number).cancel()

    async def _open(self, number: int, payload: memoryview, tasks: asyncio.TaskGroup) -> None:
        if number <= self._last_stream:
            raise ProtocolViolation("stream_reused", f"stream {number} after {self._last_stream}")
        self._last_stream = number
        opened = native.decode_open(payload)
        stream = self._stream(number, opened)
        if len(self._streams) >= native.STREAMS:
            full = ResourceExhaustedError(f"{native.STREAMS} streams are open on this connection; close some first")
            await stream.say(FrameType.ERROR, tell(full))
            return
        self._streams[number] = stream
        self._place.streams += 1
        self._works[number] = tasks.create_task(self._work(opened, stream))

    def _stream(self, number: int, opened: native.Open) -> Stream:
        is_process = isinstance(opened, native.OpenExec | native.OpenProcess)
        stream = Stream(number, self._outbox, takes_input=_takes_input(opened), is_process=is_process)
        if isinstance(opened, native.OpenExec | native.OpenProcess):
            stream.outputs = operations.channels(opened)
        elif isinstance(opened, native.OpenContent):
            stream.outputs = {STDOUT: SendWindow(offset=0, limit=opened.limit)}
        return stream

    async def _work(self, opened: native.Open, stream: Stream) -> None:
        """Run a stream to its last word; only a connection that is gone leaves it without one."""
        try:
            if isinstance(opened, native.OpenInVolume):
                await volume_files.run(opened, stream, self._engine)
            else:
                await operations.run(opened, stream, self._engine)
        except Exception as exc:
            failure = _innermost(exc)
            if not isinstance(failure, ConnectionGone):
                await self._fail(stream, failure, opened)
        finally:
            if self._streams.get(stream.number) is stream:
                self._forget(stream.number)

    async def _fail(self, stream: Stream, failure: Exception, opened: native.Open) -> None:
        where = opened.volume if isinstance(opened, native.OpenInVolume) else opened.sandbox
        try:
            await stream.say(FrameType.ERROR, tell(failure, op=type(opened).__name__, of=where))
        except ConnectionGone:
            return

    def _forget(self, number: int) -> asyncio.Task[None]:
        del self._streams[number]
        self._place.streams -= 1
        return self._works.pop(number)

    async def _close(self, broken: Exception) -> None:
        """Close for a broken rule: the rule first, then as much of the reason as a close frame holds."""
        log.warning("connection.violation", reason=str(broken))
        reason = str(broken).encode()[:_REASON_BYTES].decode(errors="ignore")
        try:
            await self._send({"type": "websocket.close", "code": native.CLOSE_PROTOCOL, "reason": reason})
        except (OSError, RuntimeError):
            return  # the client has gone before it was told


def _takes_input(opened: native.Open) -> bool:
    if isinstance(opened, native.OpenExec):
        return opened.stdin == "pipe"
    if isinstance(opened, native.OpenProcess):
        return opened.stdin
    return isinstance(opened, native.OpenInput)


def _innermost(exc: Exception) -> Exception:
    """Return the first exception that is no group: task groups of one operation fail for one reason."""
    while isinstance(exc, ExceptionGroup):
        exc = exc.exceptions[0]
    return exc
