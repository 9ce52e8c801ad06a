"""The node's side of one agent, just enough to run a command in a sandbox and see what it said."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from types import TracebackType

from skerry.model.members import AgentPipes
from skerry.wire.frames import OFFSET, TO_HOST, FrameType, Header, encode_credit, encode_frame, split_frames
from skerry.wire.messages import Exit, Hello, OpenExec, Ready, Setup, decode, encode

SECONDS = 20.0
WINDOW = 1 << 20
SECRET, NEXT_SECRET = bytes(range(32)), bytes(range(32, 64))
PATH = b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def hello(*, generation: int = 0, proof: bytes | None = None, secret: bytes = SECRET) -> bytes:
    """The first frame of a channel, whole."""
    setup = None if proof else Setup(hostname="guest", processes=1024)
    message = Hello(secret=secret, proof=proof, generation=generation, setup=setup)
    return encode_frame(FrameType.HELLO, 0, encode(message))


@dataclass
class Said:
    """What a command said and how it ended."""

    output: bytearray = field(default_factory=bytearray)
    exit: Exit | None = None
    ended: bool = False

    @property
    def text(self) -> str:
        return self.output.decode(errors="replace")


class Guest:
    """One channel to an agent; closes both pipes at the end of its block."""

    def __init__(self, pipes: AgentPipes) -> None:
        self._pipes = pipes
        self._buffer = bytearray()
        self._said: dict[int, Said] = {}
        self._stream = 0
        self.ready: Ready | None = None

    async def __aenter__(self) -> Guest:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._pipes.reader_fd)
        os.close(self._pipes.writer_fd)

    async def greet(self, frame: bytes | None) -> Ready:
        """Send HELLO, unless it is in the pipe already, and return the READY."""
        if frame is not None:
            os.write(self._pipes.writer_fd, frame)
        async with asyncio.timeout(SECONDS):
            while self.ready is None:
                await self._take()
        self._stream = self.ready.last_stream
        return self.ready

    async def shell(self, script: str) -> Said:
        """Run a line of shell, stdout and stderr together."""
        return await self.run("/bin/sh", "-c", script)

    async def run(self, *argv: str) -> Said:
        self._stream += 1
        stream, said = self._stream, Said()
        self._said[stream] = said
        ask = OpenExec(
            argv=tuple(word.encode() for word in argv), env=(PATH,), stderr="stdout", limits=(WINDOW, WINDOW)
        )
        os.write(self._pipes.writer_fd, encode_frame(FrameType.OPEN, stream, encode(ask)))
        async with asyncio.timeout(SECONDS):
            while said.exit is None or not said.ended:
                await self._take()
        os.write(self._pipes.writer_fd, encode_frame(FrameType.CLOSE, stream))
        return said

    async def _take(self) -> None:
        await self._readable()
        chunk = os.read(self._pipes.reader_fd, 1 << 20)
        if not chunk:
            raise EOFError("the agent closed its pipe")
        self._buffer += chunk
        taken = 0
        for header, payload in split_frames(memoryview(bytes(self._buffer)), TO_HOST):
            self._judge(header, bytes(payload))
            taken += 12 + header.length
        del self._buffer[:taken]

    def _judge(self, header: Header, payload: bytes) -> None:
        said = self._said.get(header.stream, Said())
        match header.type:
            case FrameType.READY:
                self.ready = decode(payload, Ready)
            case FrameType.DATA:
                said.output += payload[OFFSET.size :]
                have = len(said.output)
                os.write(self._pipes.writer_fd, encode_credit(header.stream, header.flags, have, have + WINDOW))
            case FrameType.END:
                said.ended = True
            case FrameType.EXIT:
                said.exit = decode(payload, Exit)
            case FrameType.ERROR:
                raise AssertionError(payload)

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._pipes.reader_fd, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._pipes.reader_fd)
