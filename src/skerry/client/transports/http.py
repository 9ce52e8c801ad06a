"""HTTP/1.1 over a stream, as much as the native door needs: one request at a time on each connection.

A library would cost each short program 140 ms to import and each call half a millisecond (docs/decisions/0009).
Responses are parsed by httptools.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Final, cast

import httptools

HOST: Final = "skerry"
_BODY_BYTES_MAX: Final = 256 * 1024 * 1024
_LINE_BYTES_MAX: Final = 4 * 1024 * 1024
_PAUSE_AT: Final = 1024 * 1024


class ConnectionLost(Exception):
    """The connection ended before the answer did."""


@dataclass(frozen=True)
class Request:
    """One call. `body` is sent as it is."""

    method: str
    target: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        lines = [f"{self.method} {self.target} HTTP/1.1", f"Host: {HOST}", f"Content-Length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, "", ""]).encode("ascii") + self.body


class HttpConnection(asyncio.Protocol):
    """One connection. `send` starts a request, `chunks` yields its answer's body, then it may be used again."""

    def __init__(self) -> None:
        self.status = 0
        self.reusable = False
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._chunks: deque[bytes] = deque()
        self._waiting = 0
        self._done = False
        self._lost = False
        self._broken: Exception | None = None
        self._news = asyncio.Event()

    @property
    def usable(self) -> bool:
        return self.reusable and not self._lost

    def send(self, request: Request) -> None:
        if self._transport is None or self._lost:
            raise ConnectionLost("the server closed the connection")
        self._parser = httptools.HttpResponseParser(self)
        self.status, self._done, self.reusable = 0, False, False
        self._transport.write(request.encode())

    async def answer(self) -> int:
        """Return the status once the head of the answer is there."""
        while not self.status:
            await self._wait()
        return self.status

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes; raises ConnectionLost if it ends early."""
        while True:
            while self._chunks:
                chunk = self._chunks.popleft()
                self._waiting -= len(chunk)
                if self._transport and self._waiting < _PAUSE_AT:
                    self._transport.resume_reading()
                yield chunk
            if self._done:
                return
            await self._wait()

    async def body(self) -> bytes:
        """Return the whole body; raises ConnectionLost if it ends early or has more than 256 MiB."""
        parts, size = [], 0
        async for chunk in self.chunks():
            size += len(chunk)
            if size > _BODY_BYTES_MAX:
                raise ConnectionLost(f"an answer of more than {_BODY_BYTES_MAX} bytes")
            parts.append(chunk)
        return b"".join(parts)

    async def lines(self) -> AsyncIterator[bytes]:
        """Yield the lines of the body as they come."""
        rest = b""
        async for chunk in self.chunks():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line:
                    yield line
            if len(rest) > _LINE_BYTES_MAX:
                raise ConnectionLost(f"a line of more than {_LINE_BYTES_MAX} bytes")
        if rest:
            yield rest

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self._broken = exc
            self.close()
        self._news.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._broken = self._broken or exc
        self._news.set()

    # Called by the parser.

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)
        self._waiting += len(body)
        if self._transport and self._waiting >= _PAUSE_AT:
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        self._done = True
        self.reusable = bool(self._parser.should_keep_alive())

    async def _wait(self) -> None:
        if self._lost:
            raise ConnectionLost(f"the server closed the connection ({self._broken or 'end of file'})")
        self._news.clear()
        await self._news.wait()
