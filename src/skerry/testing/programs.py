"""What can be run in a fake sandbox: a few commands as coroutines over a process's streams."""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from skerry.model.specs import ExecSpec, Terminal

CHUNK = 64 << 10


class RunningProgram(Protocol):
    """What a program sees."""

    spec: ExecSpec
    terminal: Terminal | None
    env: Mapping[str, str]
    workdir: str

    async def read(self) -> bytes:
        """Return what stdin has next; empty at its end."""

    async def write(self, data: bytes, channel: int = 1) -> None: ...

    async def sleep(self, seconds: float) -> None: ...

    def file(self, path: str) -> bytes | None: ...


Program = Callable[[RunningProgram], Awaitable[int]]


async def echo(process: RunningProgram) -> int:
    await process.write(" ".join(process.spec.argv[1:]).encode("utf-8", "surrogateescape") + b"\n")
    return 0


async def cat(process: RunningProgram) -> int:
    for path in process.spec.argv[1:]:
        content = process.file(path)
        if content is None:
            await process.write(f"cat: {path}: No such file or directory\n".encode(), 2)
            return 1
        await process.write(content)
    if len(process.spec.argv) == 1:
        while data := await process.read():
            await process.write(data)
    return 0


async def sleep(process: RunningProgram) -> int:
    await process.sleep(float(process.spec.argv[1]))
    return 0


async def exit_with(process: RunningProgram) -> int:
    return int(process.spec.argv[1])


async def spew(process: RunningProgram) -> int:
    """Write as many bytes as the argument says: 0, 1, … 255 again and again."""
    left = int(process.spec.argv[1])
    channel = int(process.spec.argv[2]) if len(process.spec.argv) > 2 else 1
    pattern = bytes(range(256)) * (CHUNK // 256)
    while left:
        part = pattern[: min(left, CHUNK)]
        await process.write(part, channel)
        left -= len(part)
    return 0


async def warn(process: RunningProgram) -> int:
    await process.write(" ".join(process.spec.argv[1:]).encode() + b"\n", 2)
    return 0


async def env(process: RunningProgram) -> int:
    await process.write("".join(f"{key}={value}\n" for key, value in sorted(process.env.items())).encode())
    return 0


async def pwd(process: RunningProgram) -> int:
    await process.write(process.workdir.encode() + b"\n")
    return 0


async def stty(process: RunningProgram) -> int:
    """`stty size`: what a terminal's rows and columns are."""
    if process.terminal is None:
        await process.write(b"stty: 'standard input': Inappropriate ioctl for device\n", 2)
        return 1
    await process.write(f"{process.terminal.rows} {process.terminal.columns}\n".encode())
    return 0


async def true(process: RunningProgram) -> int:
    return 0


async def false(process: RunningProgram) -> int:
    return 1


async def not_found(process: RunningProgram) -> int:
    await process.write(f"{shlex.quote(process.spec.argv[0])}: not found\n".encode(), 2)
    return 127


PROGRAMS: Mapping[str, Program] = {
    "echo": echo,
    "cat": cat,
    "sleep": sleep,
    "exit": exit_with,
    "spew": spew,
    "warn": warn,
    "env": env,
    "pwd": pwd,
    "stty": stty,
    "true": true,
    "false": false,
}
