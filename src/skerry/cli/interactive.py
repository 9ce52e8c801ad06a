"""A process at its terminal, joined to ours: what it shows is shown here, what is typed here is typed there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from skerry import aio
from skerry.aio import ContainerProcess
from skerry.cli.endings import Ended, Endings
from skerry.cli.keys import DetachKeys
from skerry.cli.modes import Modes
from skerry.cli.naming import find
from skerry.cli.output import tell
from skerry.cli.passing import tell_end, write_all
from skerry.cli.rawmode import RawTerminal
from skerry.client.client import resolve
from skerry.client.terminals import size_of
from skerry.model import limits
from skerry.model.errors import ConflictError, Error, NotFoundError
from skerry.model.ids import ProcessId
from skerry.model.text import printable

READ_BYTES: Final = 64 * 1024
PASTE_BYTES: Final = 4096
"""From this many bytes at once on a text is pasted, and goes no faster than the process takes it."""
HELD_S: Final = 0.5
"""How long keys are held back that may begin the sequence to detach."""
HANG_UP_S: Final = 2.0
LIFETIME_S: Final = 3600.0
RECENT_LINES: Final = 100
"""How much of what a process has shown is shown to who attaches to it."""
ENTRYPOINT: Final = "entrypoint"


@dataclass(frozen=True)
class Left:
    """The process has ended."""

    code: int


@dataclass(frozen=True)
class Detached:
    """The keys were typed; the process runs on."""

    code: int = 0


@dataclass(frozen=True)
class HungUp:
    """A signal has ended this program, or its terminal is gone; the process was told by SIGHUP."""

    signal: int

    @property
    def code(self) -> int:
        return 128 + self.signal


Outcome = Left | Detached | HungUp


async def exec_joined(
    sandbox: str, argv: Sequence[str], options: Mapping[str, Any], terminal: RawTerminal, detach_keys: bytes
) -> int:
    """Run a command in a sandbox at this terminal, and return the exit code for this program."""

    async def work(endings: Endings) -> int:
        box = await endings.bound(find(sandbox))
        return (await _run(box, argv, options, terminal, detach_keys, endings)).code

    return await _until_ended(work)


async def attach_joined(sandbox: str, process: str, terminal: RawTerminal, detach_keys: bytes) -> int:
    """The same with a process that runs at a terminal already: what it has shown last is shown first."""

    async def work(endings: Endings) -> int:
        box = await endings.bound(find(sandbox))
        attached = await endings.bound(_attached(box, process))
        return (await _joined(attached, terminal, detach_keys, endings, redraw=True)).code

    return await _until_ended(work)


async def shell_joined(
    new: Mapping[str, Any],
    argv: Sequence[str],
    options: Mapping[str, Any],
    terminal: RawTerminal,
    detach_keys: bytes,
) -> int:
    """The same in a new sandbox, which ends with the command, unless that was left running."""
    wanted = {"timeout": LIFETIME_S, **new}
    image = aio.Image.debian_slim(python_version=wanted.pop("python", None))
    image = image.apt_install(*wanted.pop("apt", ())).pip_install(*wanted.pop("pip", ()))

    async def work(endings: Endings) -> int:
        box = await endings.bound(aio.Sandbox.create(image=image, **wanted))
        outcome: Outcome | None = None
        try:
            outcome = await _run(box, argv, options, terminal, detach_keys, endings)
        finally:
            if not isinstance(outcome, Detached) and await endings.finished(_terminated(box)) is None:
                tell(f"sandbox {box.object_id} may still run; `skerry terminate {box.object_id}` ends it")
        return outcome.code

    return await _until_ended(work)


async def _until_ended(work: Callable[[Endings], Coroutine[Any, Any, int]]) -> int:
    """Return what `work` returns, or what a signal means; a sandbox that it had begun to create is ended first."""
    endings = Endings()
    with endings.taken():
        try:
            return await work(endings)
        except Ended as ended:
            await resolve(None).aclose()  # which lets a create that was given up end what it has made
            return 128 + ended.number


async def _terminated(box: aio.Sandbox) -> bool:
    await box.terminate()
    return True


async def _attached(box: aio.Sandbox, process: str) -> ContainerProcess[bytes]:
    known = {view.id: view for view in await box.processes()}
    view = known.get(ProcessId(process if process != ENTRYPOINT else box.view.entrypoint or process))
    if view is None:
        shown = printable(process[:64], keep="")
        raise NotFoundError(f"sandbox {box.object_id} has no process {shown}; `skerry ps {box.object_id}` shows them")
    if not view.terminal:
        raise ConflictError(
            f"process {view.id} has no terminal to attach to; `skerry logs -f --process {view.id} {box.object_id}` "
            "shows what it writes"
        )
    return await box.process(view.id, text=False, tail=RECENT_LINES)


async def _run(
    box: aio.Sandbox,
    argv: Sequence[str],
    options: Mapping[str, Any],
    terminal: RawTerminal,
    detach_keys: bytes,
    endings: Endings,
) -> Outcome:
    process: ContainerProcess[bytes] = await endings.bound(box.exec(*argv, pty=True, text=False, **options))
    return await _joined(process, terminal, detach_keys, endings)


async def _joined(
    process: ContainerProcess[bytes],
    terminal: RawTerminal,
    detach_keys: bytes,
    endings: Endings,
    *,
    redraw: bool = False,
) -> Outcome:
    outcome = await interact(process, terminal, DetachKeys(detach_keys), endings, redraw=redraw)
    if isinstance(outcome, Detached):
        tell(
            f"detached: process {process.object_id} goes on; `skerry attach {process.sandbox_id} {process.object_id}` "
            "leads back"
        )
    elif isinstance(outcome, Left):
        tell_end(process, process.sandbox_id)
    return outcome


async def interact(
    process: ContainerProcess[bytes],
    terminal: RawTerminal,
    keys: DetachKeys,
    endings: Endings,
    *,
    redraw: bool = False,
) -> Outcome:
    """Join the two until one side is done; the terminal is put right before this returns.

    With `redraw` what runs there is made to draw its screen anew: its terminal has another size for a moment.
    """
    modes = Modes()
    session = _Session(process, terminal, keys)
    showing = asyncio.ensure_future(_show(process, modes, session))
    feeding = asyncio.ensure_future(session.feed())
    try:
        terminal.begin()
        with session.signals(), endings.told(lambda number: session.end(HungUp(number))):
            await session.until_over(session.resize(redraw=redraw))
            first: set[asyncio.Future[Any]] = {showing, feeding, session.over}
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            outcome = await _outcome(process, session, showing, feeding)
    finally:
        for task in (showing, feeding):
            task.cancel()
        await asyncio.gather(showing, feeding, return_exceptions=True)
        terminal.restore()
        with contextlib.suppress(OSError):
            write_all(sys.stdout.fileno(), modes.undo())
    return outcome


async def _outcome(
    process: ContainerProcess[bytes],
    session: _Session,
    showing: asyncio.Future[None],
    feeding: asyncio.Future[None],
) -> Outcome:
    if not session.over.done() and feeding.done() and feeding.exception() is not None:
        feeding.result()
    if not session.over.done():
        await session.until_over(_code(process, showing, session))
    outcome = session.over.result()
    if isinstance(outcome, HungUp):
        await _hang_up(process)
    return outcome


async def _code(process: ContainerProcess[bytes], showing: asyncio.Future[None], session: _Session) -> None:
    """Show what is left, then wait for the end: both may last, where the server is away."""
    await asyncio.shield(showing)
    session.end(Left(await process.wait()))


async def _hang_up(process: ContainerProcess[bytes]) -> None:
    """Tell the process that its terminal is gone, as far as that can be told in a moment."""
    with contextlib.suppress(TimeoutError, Error, OSError):
        async with asyncio.timeout(HANG_UP_S):
            await process.signal(signal.SIGHUP)


async def _show(process: ContainerProcess[bytes], modes: Modes, session: _Session) -> None:
    target = sys.stdout.fileno()
    async for shown in process.stdout:
        modes.see(shown)
        try:
            await asyncio.to_thread(write_all, target, shown)
        except OSError:  # the window is closed, and its signal is still on the way
            session.end(HungUp(signal.SIGHUP))
            return


class _Session:
    """This side: keys, signals and the size of the window."""

    def __init__(self, process: ContainerProcess[bytes], terminal: RawTerminal, keys: DetachKeys) -> None:
        self._process = process
        self._terminal = terminal
        self._keys = keys
        self._loop = asyncio.get_running_loop()
        self._resizing: asyncio.Task[None] | None = None
        self._resize_again = False
        self.over: asyncio.Future[Outcome] = self._loop.create_future()

    # Keys

    async def feed(self) -> None:
        """Pass on what is typed until the sequence to detach, or for as long as it is not cancelled."""
        while not self.over.done():
            if not await self._readable(HELD_S if self._keys.holds else None):
                await self._type(self._keys.release())
                continue
            try:
                typed = os.read(self._terminal.descriptor, READ_BYTES)
            except OSError:
                typed = b""
            if not typed:  # the window is closed
                self.end(HungUp(signal.SIGHUP))
                return
            passed, detached = self._keys.feed(typed)
            await self._type(passed)
            if detached:
                self.end(Detached())

    async def _readable(self, seconds: float | None) -> bool:
        """Wait until something was typed, for so long; the descriptor stays as the shell has it, so it may block."""
        ready = asyncio.Event()
        self._loop.add_reader(self._terminal.descriptor, ready.set)
        try:
            async with asyncio.timeout(seconds):
                await ready.wait()
        except TimeoutError:
            return False
        finally:
            self._loop.remove_reader(self._terminal.descriptor)
        return True

    async def _type(self, keys: bytes) -> None:
        if keys:
            self._process.stdin.write(keys)
        if len(keys) >= PASTE_BYTES:
            await self._process.stdin.drain()

    # Signals

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Follow the window and its stops while the block lasts."""
        self._loop.add_signal_handler(signal.SIGWINCH, self._on_resize)
        self._loop.add_signal_handler(signal.SIGTSTP, self._stop)
        try:
            yield
        finally:
            for number in (signal.SIGWINCH, signal.SIGTSTP):
                self._loop.remove_signal_handler(number)
            if self._resizing is not None:
                self._resizing.cancel()

    def end(self, outcome: Outcome) -> None:
        """Note how it is over; the first that is told counts."""
        if not self.over.done():
            self.over.set_result(outcome)

    def _stop(self) -> None:
        """Stop as asked, with the terminal as it was; go on, when continued, as large as the window is then."""
        self._terminal.restore()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._terminal.begin()
        self._on_resize()

    def _on_resize(self) -> None:
        """Pass a new size on. While one is under way the next waits, and only the newest counts."""
        if self._resizing is not None and not self._resizing.done():
            self._resize_again = True
            return
        self._resizing = self._loop.create_task(self._resize_all())

    async def _resize_all(self) -> None:
        self._resize_again = True
        while self._resize_again:
            self._resize_again = False
            await self.resize()

    async def resize(self, *, redraw: bool = False) -> None:
        rows, columns = size_of(self._terminal.descriptor)
        with contextlib.suppress(Error):  # what is wrong with the server, the streams will say
            if redraw:
                await self._process.resize_pty(rows % limits.TERMINAL_SIDE_MAX + 1, columns)
            await self._process.resize_pty(rows, columns)

    async def until_over(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something until it is done, or all is over; raises what it raises."""
        task = asyncio.ensure_future(work)
        await asyncio.wait((task, self.over), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        else:
            task.result()
