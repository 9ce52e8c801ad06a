"""A client of the native door for its tests: it says what it is told to, right or wrong."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, unix_connect
from websockets.exceptions import ConnectionClosed

from skerry.testing.ids import CountingIds
from skerry.wire import native
from skerry.wire.frames import (
    CREDIT,
    HEADER_SIZE,
    OFFSET,
    STDIN,
    FrameType,
    encode_credit,
    encode_data_header,
    encode_end,
    encode_frame,
    parse_header,
)

DEADLINE_S = 10.0


@dataclass
class Reply:
    status: int
    body: Any
    headers: dict[str, str]


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=DEADLINE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(DEADLINE_S)
        self.sock.connect(str(self._path))


class Http:
    """The HTTP half, one connection a call."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def get(self, path: str) -> Reply:
        return await self.call("GET", path)

    async def post(self, path: str, body: object = None, **headers: str) -> Reply:
        return await self.call("POST", path, b"" if body is None else json.dumps(body).encode(), **headers)

    async def call(self, method: str, path: str, body: bytes = b"", **headers: str) -> Reply:
        return await asyncio.to_thread(self._call, method, path, body, headers)

    def _call(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Reply:
        connection = _UnixConnection(self._path)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): text for name, text in headers.items()})
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        lines = [json.loads(line) for line in text.splitlines()]
        ndjson = response.headers["content-type"] == "application/x-ndjson"
        return Reply(response.status, lines if ndjson else lines[0], dict(response.headers))


@dataclass
class Frame:
    type: FrameType
    stream: int
    flags: int
    payload: bytes

    @property
    def map(self) -> dict[str, Any]:
        return msgspec.msgpack.decode(self.payload)

    @property
    def offset(self) -> int:
        return OFFSET.unpack_from(self.payload)[0]

    @property
    def content(self) -> bytes:
        return self.payload[OFFSET.size :]

    @property
    def credit(self) -> tuple[int, int]:
        return CREDIT.unpack(self.payload)


class Socket:
    """The WebSocket: frames out, frames in."""

    _ids = CountingIds()

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self._last = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(cls, path: Path) -> AsyncIterator[Socket]:
        uri = "ws://localhost/v1/stream"
        async with unix_connect(str(path), uri, compression=None, max_size=None) as connection:
            yield cls(connection)

    async def open(self, op: str, **fields: Any) -> int:
        """Open a stream and return its number."""
        self._last += 1
        payload = msgspec.msgpack.encode({"op": op, **fields})
        await self.send(encode_frame(FrameType.OPEN, self._last, payload))
        return self._last

    async def exec(self, sandbox: str, *argv: str, limits: tuple[int, int] = (1 << 20, 1 << 20), **more: Any) -> int:
        process = more.pop("process", None) or self._ids.new("pr")
        return await self.open("exec", sandbox=sandbox, process=process, argv=argv, limits=limits, **more)

    async def data(self, stream: int, offset: int, content: bytes) -> None:
        await self.send(encode_data_header(stream, STDIN, offset, len(content)) + content)

    async def end(self, stream: int, offset: int) -> None:
        await self.send(encode_end(stream, STDIN, offset))

    async def credit(self, stream: int, channel: int, acknowledged: int, limit: int) -> None:
        await self.send(encode_credit(stream, channel, acknowledged, limit))

    async def send(self, frame: bytes) -> None:
        await self.connection.send(frame)

    async def next(self) -> Frame:
        """Return the next frame, whose header the codec has checked."""
        async with asyncio.timeout(DEADLINE_S):
            message = await self.connection.recv()
        assert isinstance(message, bytes)
        header = parse_header(message, 0, native.TO_CLIENT)
        assert header.length == len(message) - HEADER_SIZE
        return Frame(FrameType(header.type), header.stream, header.flags, message[HEADER_SIZE:])

    async def expect(self, kind: FrameType, stream: int | None = None) -> Frame:
        """Return the next frame, which is of this type and stream."""
        frame = await self.next()
        assert frame.type is kind, frame
        assert stream is None or frame.stream == stream, frame
        return frame

    async def run(self, sandbox: str, *argv: str, **more: Any) -> tuple[dict[str, Any], bytes, bytes]:
        """Run a process to its last word; return its exit, stdout and stderr."""
        stream = await self.exec(sandbox, *argv, **more)
        await self.expect(FrameType.STARTED, stream)
        return await self.outcome(stream)

    async def next_until(self, kind: FrameType) -> list[Frame]:
        """Return the frames up to the first of this type."""
        frames = [await self.next()]
        while frames[-1].type is not kind:
            frames.append(await self.next())
        return frames

    async def outcome(self, stream: int, ends: int = 2, received: int = 0) -> tuple[dict[str, Any], bytes, bytes]:
        """Read a started process to its last word, granting credit as bytes come."""
        outputs = {1: bytearray(received), 2: bytearray()}
        end: dict[str, Any] | None = None
        while ends or end is None:
            frame = await self.next()
            assert frame.stream == stream, frame
            if frame.type is FrameType.DATA:
                assert frame.offset == len(outputs[frame.flags])
                outputs[frame.flags] += frame.content
                size = len(outputs[frame.flags])
                await self.credit(stream, frame.flags, size, size + (1 << 20))
            elif frame.type is FrameType.END:
                assert frame.offset == len(outputs[frame.flags])
                ends -= 1
            elif frame.type is FrameType.EXIT:
                end = frame.map
            else:
                assert frame.type is FrameType.CREDIT, frame
        return end, bytes(outputs[1]), bytes(outputs[2])

    async def closed(self) -> tuple[int, str]:
        """Return the code and reason with which the server closes."""
        async with asyncio.timeout(DEADLINE_S):
            try:
                while True:
                    await self.connection.recv()
            except ConnectionClosed:
                return self.connection.close_code or 0, self.connection.close_reason or ""
