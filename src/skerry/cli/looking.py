"""Looking at what sandboxes take: samples fetched again and again, shown as a screen, a table or JSON."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Final

from skerry import aio
from skerry.cli import screen, usage
from skerry.cli.endings import Ended, Endings
from skerry.cli.naming import find
from skerry.cli.output import print_table, size, table
from skerry.cli.passing import write_all
from skerry.cli.rawmode import RawTerminal
from skerry.client._core import views
from skerry.client.client import resolve
from skerry.client.terminals import size_of
from skerry.model.sandboxes import SandboxView
from skerry.model.text import printable
from skerry.model.usage import SandboxUsage

FIRST_S: Final = 1.0
"""How long the first rate takes: two samples lie so far apart."""
SORTED_BY: Final = {"c": "cpu", "m": "memory", "d": "disk", "p": "processes", "n": "network", "a": "age"}
LEAVING: Final = frozenset("q\x03\x04")  # Ctrl-C and Ctrl-D in raw mode

Samples = Mapping[str, SandboxUsage]


class Watched:
    """The sandboxes that are looked at: all that run, or one."""

    def __init__(self, sandbox: str | None) -> None:
        self._sandbox = sandbox
        self._one: aio.Sandbox | None = None
        self._before: Samples = {}
        self._now: Samples = {}
        self._views: Sequence[SandboxView] = ()

    async def look(self) -> None:
        """Fetch the next samples."""
        connection = await resolve(None).connection()
        if self._sandbox is not None and self._one is None:
            self._one = await find(self._sandbox)
        asked = None if self._one is None else self._one.object_id
        samples = views.usage(await connection.call("GET", "/v1/usage", query={"sandbox": asked}))
        if self._one is not None:
            self._views = [self._one.view]
        elif {sample.id for sample in samples} != set(self._now):
            self._views = [sandbox.view async for sandbox in aio.Sandbox.list()]
        self._before, self._now = self._now, {sample.id: sample for sample in samples}

    def rows(self, sort: str) -> list[usage.Row]:
        return usage.rows(self._views, self._before, self._now, sort=sort)


async def print_once(sandbox: str | None, sort: str) -> None:
    """Print one table."""
    watched = Watched(sandbox)
    await _look_twice(watched)
    print_table(usage.HEAD, [usage.cells(row) for row in watched.rows(sort)])


async def print_json_lines(sandbox: str | None, interval: float, *, once: bool) -> None:
    """Print a line for each sandbox and sample, until the program is ended or, with one sandbox, that has ended."""
    watched = Watched(sandbox)
    await _look_twice(watched)
    while True:
        found = watched.rows("age")
        for row in found:
            print(json.dumps(usage.as_json(row), ensure_ascii=True))
        sys.stdout.flush()
        if once or (sandbox is not None and not found):
            return
        await asyncio.sleep(interval)
        await watched.look()


async def look_at_terminal(sandbox: str | None, interval: float, sort: str, terminal: RawTerminal) -> int:
    """Draw the screen anew until a key or a signal ends that; return the exit code."""
    endings = Endings()
    watched = Watched(sandbox)
    await watched.look()  # what is wrong is said before the screen changes
    with endings.taken():
        looking = _Looking(watched, interval, sort, terminal)
        try:
            await endings.bound(looking.run())
        except Ended as ended:
            return 128 + ended.number
    return 0


class _Looking:
    """The screen and its keys."""

    def __init__(self, watched: Watched, interval: float, sort: str, terminal: RawTerminal) -> None:
        self._watched = watched
        self._interval = interval
        self._sort = sort
        self._terminal = terminal
        self._again = asyncio.Event()
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        self._terminal.begin()
        loop.add_reader(self._terminal.descriptor, self._on_keys)
        loop.add_signal_handler(signal.SIGWINCH, self._again.set)
        drawing = asyncio.ensure_future(self._draw_on())
        sampling = asyncio.ensure_future(self._sample_on())
        try:
            _show(screen.BEGIN)
            await asyncio.wait({drawing, sampling, self._over}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            loop.remove_reader(self._terminal.descriptor)
            loop.remove_signal_handler(signal.SIGWINCH)
            for task in (drawing, sampling):
                task.cancel()
            await asyncio.gather(drawing, sampling, return_exceptions=True)
            with contextlib.suppress(OSError):
                _show(screen.END)
            self._terminal.restore()
        for task in (drawing, sampling):
            if not task.cancelled() and (failure := task.exception()) is not None:
                raise failure

    async def _sample_on(self) -> None:
        await asyncio.sleep(FIRST_S)
        while True:
            await self._watched.look()
            self._again.set()
            await asyncio.sleep(self._interval)

    async def _draw_on(self) -> None:
        while True:
            rows, columns = size_of(self._terminal.descriptor)
            _show(screen.frame(self._lines(), rows, columns))
            await self._again.wait()
            self._again.clear()

    def _lines(self) -> list[str]:
        found = self._watched.rows(self._sort)
        cpu = sum(row.cpu or 0.0 for row in found)
        memory = size(sum(row.now.memory_bytes for row in found))
        count = f"{len(found)} sandbox{'' if len(found) == 1 else 'es'}"
        summary = f"{count}, {cpu * 100:.0f}% CPU, {memory} memory, by {self._sort}   {time.strftime('%H:%M:%S')}"
        keys = "q leaves; c m d p n a sort by cpu, memory, disk, processes, network, age"
        listed = table(usage.HEAD, [usage.cells(row) for row in found])
        return [printable(line, keep="") for line in (summary, keys, "", *listed)]

    def _on_keys(self) -> None:
        try:
            typed = os.read(self._terminal.descriptor, 64)
        except OSError:
            typed = b""
        for key in typed.decode("ascii", "replace"):
            if key in SORTED_BY:
                self._sort = SORTED_BY[key]
                self._again.set()
            elif key in LEAVING:
                self._leave()
        if not typed:  # the window is closed
            self._leave()

    def _leave(self) -> None:
        if not self._over.done():
            self._over.set_result(None)


async def _look_twice(watched: Watched) -> None:
    """Fetch two samples, so that there are rates."""
    await watched.look()
    await asyncio.sleep(FIRST_S)
    await watched.look()


def _show(text: bytes) -> None:
    write_all(sys.stdout.fileno(), text)
