"""A command in a sandbox with the streams and signals of this process."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from skerry.aio import ContainerProcess, StreamReader
from skerry.cli.naming import find
from skerry.cli.output import tell
from skerry.model.exits import ProcessReason

PASSED_ON: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
READ_BYTES: Final = 256 * 1024
# How long silence may last after the exit before output that a child in the background still holds is left alone.
SILENCE_S: Final = 1.0
BROKEN_PIPE: Final = 128 + signal.SIGPIPE


async def pass_through(sandbox: str, arguments: tuple[str, ...], no_stdin: bool, options: dict[str, Any]) -> int:
    """Run a command in a sandbox with this process's streams and signals, and return its exit code."""
    box = await find(sandbox)
    process = await box.exec(*arguments, text=False, **options)
    with _signals_passed_on(process):
        outputs = [
            asyncio.ensure_future(_copy(process.stdout, sys.stdout.fileno())),
            asyncio.ensure_future(_copy(process.stderr, sys.stderr.fileno())),
        ]
        _start_stdin(process, no_stdin)
        code = await _wait(process, outputs)
    tell_end(process, box.object_id)
    return code


async def _wait(process: ContainerProcess[bytes], outputs: list[asyncio.Task[None]]) -> int:
    """Return the exit code once the process has ended and its output has been passed on."""
    ended: asyncio.Task[int] = asyncio.ensure_future(process.wait())
    try:
        while not ended.done():
            running = {task for task in outputs if not task.done()}
            await asyncio.wait({ended, *running}, return_when=asyncio.FIRST_COMPLETED)
            _raise_failures(outputs)
        await _settle(process, outputs)
        return await ended
    except BrokenPipeError:
        await process.kill()
        return BROKEN_PIPE
    finally:
        ended.cancel()
        for task in outputs:
            task.cancel()


async def _settle(process: ContainerProcess[bytes], outputs: list[asyncio.Task[None]]) -> None:
    """Return when all output has come, or when none has for a second."""
    seen = -1
    while True:
        _, waiting = await asyncio.wait(outputs, timeout=SILENCE_S)
        _raise_failures(outputs)
        received = process.stdout.received + process.stderr.received
        if not waiting or received == seen:
            return
        seen = received


def _raise_failures(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        if task.done():
            task.result()


async def _copy(source: StreamReader[bytes], target: int) -> None:
    async for chunk in source:
        await asyncio.to_thread(write_all, target, chunk)


def write_all(target: int, data: bytes) -> None:
    """Write all of it to a descriptor that blocks; raises OSError when it takes no more."""
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]


def _start_stdin(process: ContainerProcess[bytes], no_stdin: bool) -> None:
    """Feed stdin from a thread of its own: it may be a terminal, a pipe or a file, and a read may last for ever."""
    if no_stdin or sys.stdin is None or sys.stdin.closed:
        process.stdin.write_eof()
        return
    loop = asyncio.get_running_loop()
    threading.Thread(target=_feed, args=(process, sys.stdin.fileno(), loop), daemon=True).start()


def _feed(process: ContainerProcess[bytes], source: int, loop: asyncio.AbstractEventLoop) -> None:
    with suppress(Exception):  # the process or this program has ended meanwhile: nobody is left to feed
        while data := os.read(source, READ_BYTES):
            asyncio.run_coroutine_threadsafe(_give(process, data), loop).result()
        loop.call_soon_threadsafe(process.stdin.write_eof)


async def _give(process: ContainerProcess[bytes], data: bytes) -> None:
    process.stdin.write(data)
    await process.stdin.drain()


@contextmanager
def _signals_passed_on(process: ContainerProcess[bytes]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    sent: set[asyncio.Task[None]] = set()

    def pass_on(number: int) -> None:
        task = loop.create_task(process.signal(number))
        sent.add(task)
        task.add_done_callback(sent.discard)

    for number in PASSED_ON:
        loop.add_signal_handler(number, pass_on, number)
    try:
        yield
    finally:
        for number in PASSED_ON:
            loop.remove_signal_handler(number)


def tell_end(process: ContainerProcess[bytes], sandbox: str) -> None:
    """Say on stderr what an exit code alone would not."""
    end = process.exit
    if end is None or end.reason in (ProcessReason.EXITED, ProcessReason.SIGNALED, ProcessReason.KILLED):
        return
    what = {
        ProcessReason.TIMEOUT: "the command was killed at its timeout",
        ProcessReason.OUT_OF_MEMORY: "the command was killed for lack of memory",
        ProcessReason.SANDBOX_ENDED: f"sandbox {sandbox} ended",
    }[end.reason]
    tell(f"{what} ({end.evidence})" if end.evidence else what)
