"""The agent's end of the two pipes, for tests that say by hand what an agent sends."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from skerry.node.agent_link import AgentLink
from skerry.wire.frames import HEADER_SIZE, TO_AGENT, FrameType, Header, encode_frame, parse_header
from skerry.wire.messages import Hello, Ready, Setup

DEADLINE_S = 10.0
PIPE_BYTES = 64 << 10
SECRET = bytes(range(32))
CLAIM = Hello(secret=SECRET, proof=None, generation=0, setup=Setup(hostname="h", processes=1))
ATTACH = Hello(secret=SECRET, proof=bytes(32), generation=3, setup=None)
EXITED = {"code": 0, "signal": None, "reason": "exited", "evidence": ""}
READY: dict[str, Any] = {"version": 1, "agent": "test", "generation": 0, "last_stream": 0, "streams": []}


def control(kind: FrameType, stream: int = 0, fields: object = None) -> bytes:
    return encode_frame(kind, stream, msgspec.msgpack.encode(fields))


class AgentEnd:
    """Reads the host's frames and writes what it is told to, right or wrong."""

    def __init__(self, reader_fd: int, writer_fd: int) -> None:
        self._reader_fd = reader_fd
        self._writer_fd = writer_fd
        self._buffer = b""
        for fd in (reader_fd, writer_fd):
            os.set_blocking(fd, False)

    async def next(self) -> tuple[Header, bytes]:
        """Return the next frame of the host, judged by the header's rules."""
        while True:
            if len(self._buffer) >= HEADER_SIZE:
                header = parse_header(self._buffer, 0, TO_AGENT)
                end = HEADER_SIZE + header.length
                if len(self._buffer) >= end:
                    payload, self._buffer = self._buffer[HEADER_SIZE:end], self._buffer[end:]
                    return header, payload
            self._buffer += await self._read()

    async def expect(self, kind: FrameType) -> tuple[Header, bytes]:
        """Return the next frame, which must be of this type."""
        header, payload = await self.next()
        assert header.type == kind, f"{FrameType(header.type).name} came, {kind.name} was expected"
        return header, payload

    async def message(self, kind: FrameType) -> dict[str, Any]:
        _, payload = await self.expect(kind)
        decoded: dict[str, Any] = msgspec.msgpack.decode(payload)
        return decoded

    async def send(self, *frames: bytes) -> None:
        """Write bytes, waiting for the pipe; a pipe that the host has closed swallows them."""
        left = memoryview(b"".join(frames))
        while left:
            try:
                left = left[os.write(self._writer_fd, left) :]
            except BlockingIOError:
                await _ready(self._writer_fd, write=True)
            except BrokenPipeError:
                return

    async def is_closed(self) -> bool:
        """Tell whether the host has closed its end, once everything it wrote was read."""
        return await self._read() == b""

    def close(self) -> None:
        for fd in (self._reader_fd, self._writer_fd):
            with contextlib.suppress(OSError):
                os.close(fd)

    async def _read(self) -> bytes:
        while True:
            try:
                return os.read(self._reader_fd, 1 << 20)
            except BlockingIOError:
                await _ready(self._reader_fd, write=False)


async def _ready(fd: int, *, write: bool) -> None:
    """Return when a descriptor can be read or written."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        if not ready.done():
            ready.set_result(None)

    add, remove = (loop.add_writer, loop.remove_writer) if write else (loop.add_reader, loop.remove_reader)
    add(fd, tell)
    try:
        await ready
    finally:
        remove(fd)


def joined() -> tuple[AgentLink, AgentEnd]:
    """Return a link and the agent's end of its pipes, before any HELLO."""
    (down_reader, down_writer), (up_reader, up_writer) = os.pipe(), os.pipe()
    fcntl.fcntl(down_writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return AgentLink(up_reader, down_writer), AgentEnd(down_reader, up_writer)


async def greet(link: AgentLink, agent: AgentEnd, hello: Hello = CLAIM, **ready: Any) -> Ready:
    """Exchange HELLO and READY."""
    told = READY | {"generation": hello.generation} | ready
    deadline = asyncio.get_running_loop().time() + DEADLINE_S
    async with asyncio.TaskGroup() as tasks:
        answer = tasks.create_task(link.hello(hello, deadline=deadline))
        await agent.expect(FrameType.HELLO)
        await agent.send(control(FrameType.READY, 0, told))
    return answer.result()


@contextlib.asynccontextmanager
async def linked() -> AsyncIterator[tuple[AgentLink, AgentEnd]]:
    """Give a greeted link and its agent's end; everything must be over within the deadline."""
    async with asyncio.timeout(DEADLINE_S):
        link, agent = joined()
        try:
            await greet(link, agent)
            yield link, agent
        finally:
            link.close()
            agent.close()
