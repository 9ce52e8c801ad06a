"""The operations on sandboxes that can be opened: each says STARTED, what it has to say, and a last word."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from skerry.doors.native import files
from skerry.doors.native.streams import Stream, ended
from skerry.doors.native.windows import ReceiveWindow, SendWindow
from skerry.engine.engine import Engine
from skerry.engine.interfaces import ProcessHandle
from skerry.model.errors import ConflictError
from skerry.model.ids import SandboxId
from skerry.model.specs import ExecSpec, Terminal
from skerry.model.text import escaped
from skerry.wire import native
from skerry.wire.frames import STDERR, STDOUT, FrameType


def channels(opened: native.OpenExec | native.OpenProcess) -> dict[int, SendWindow]:
    """Return the channels to the client that a process stream has."""
    offsets = (0, 0)
    wanted = [STDOUT, STDERR]
    if isinstance(opened, native.OpenProcess):
        offsets = opened.offsets
    else:
        kinds = {STDOUT: opened.stdout, STDERR: opened.stderr}
        wanted = [channel for channel in wanted if kinds[channel] == "pipe"]
    return {channel: SendWindow(offset=offsets[channel - 1], limit=opened.limits[channel - 1]) for channel in wanted}


async def run(opened: native.OpenInSandbox, stream: Stream, engine: Engine) -> None:
    """Do what was asked for, up to the last word; raises what the client is to be told as ERROR.

    A stream is a use of its sandbox for as long as it is open.
    """
    async with engine.sandboxes.use(SandboxId(opened.sandbox)):
        await _run(opened, stream, engine)


async def _run(opened: native.OpenInSandbox, stream: Stream, engine: Engine) -> None:
    sandbox = SandboxId(opened.sandbox)
    if isinstance(opened, native.OpenExec):
        handle = await engine.processes.exec(sandbox, opened.process, _exec_spec(opened))
        await _follow(handle, stream, stdin=opened.stdin == "pipe")
    elif isinstance(opened, native.OpenProcess):
        handle = engine.processes.get(sandbox, opened.process)
        await _follow(handle, stream, stdin=opened.stdin, fresh=opened.fresh)
    else:
        await files.run(opened, stream, engine.files)


async def _follow(handle: ProcessHandle, stream: Stream, *, stdin: bool, fresh: bool = False) -> None:
    """Carry a process's streams until its exit and the end of its channels are told."""
    taken = handle.stdin_sent if fresh else handle.stdin_acknowledged
    if stdin:
        stream.input = ReceiveWindow(offset=taken)
    limit = stream.input.limit if stream.input else 0
    started = native.ProcessStarted(process=handle.view.id, stdin=taken, stdin_limit=limit)
    await stream.say(FrameType.STARTED, started)
    async with asyncio.TaskGroup() as tasks:
        listeners = [tasks.create_task(_pass_signals(handle, stream))]
        if stdin:
            listeners.append(tasks.create_task(_feed(handle, stream)))
        if handle.view.terminal:
            listeners.append(tasks.create_task(_pass_sizes(handle, stream)))
        says: list[Coroutine[Any, Any, None]] = [_pump(handle, stream, channel) for channel in stream.outputs]
        async with asyncio.TaskGroup() as sayers:
            for say in (*says, _tell_exit(handle, stream)):
                sayers.create_task(say)
        for listener in listeners:
            listener.cancel()


async def _pump(handle: ProcessHandle, stream: Stream, channel: int) -> None:
    """Carry one output channel to its END. Nothing is read before there is credit: a handle alone is no reader."""
    window = stream.outputs[channel]
    output = handle.output(channel)
    if output.end > window.sent or not output.ended:
        await window.wait()
    async with ended(output.follow(window.sent)) as chunks:
        async for offset, content in chunks:
            if offset > window.sent:
                window.jump(offset)
            await stream.send(channel, content)
    if output.end > window.sent:
        window.jump(output.end)
    await stream.send_end(channel)


async def _tell_exit(handle: ProcessHandle, stream: Stream) -> None:
    end = await handle.wait()
    told = native.Exit(code=end.code, signal=end.signal, reason=end.reason.value, evidence=escaped(end.evidence))
    await stream.say(FrameType.EXIT, told)


async def _feed(handle: ProcessHandle, stream: Stream) -> None:
    """Carry stdin to the process; what it cannot take any more is acknowledged and dropped.

    What a client has written before a lost connection it sends again. Beyond that all bytes are this stream's own, or
    somebody else writes too, and who comes second is told.
    """
    window = stream.input
    assert window is not None
    known = handle.stdin_sent
    closed = False
    while (chunk := await window.take()) is not None:
        taken = window.taken
        if not closed:
            try:
                taken = await handle.write_stdin(window.taken - len(chunk), memoryview(chunk), known=known)
                known = max(known, window.taken)
            except ConflictError as exc:
                if "writer" in exc.details:
                    raise
                closed = True
        await stream.acknowledge(min(taken, window.taken))
    if not closed:
        await handle.end_stdin()


async def _pass_signals(handle: ProcessHandle, stream: Stream) -> None:
    while True:
        for number in await stream.next_signals():
            await handle.signal(number)


async def _pass_sizes(handle: ProcessHandle, stream: Stream) -> None:
    while True:
        rows, columns = await stream.next_size()
        await handle.resize(rows, columns)


def _exec_spec(opened: native.OpenExec) -> ExecSpec:
    return ExecSpec(
        argv=opened.argv,
        env=opened.env,
        workdir=opened.workdir,
        user=opened.user,
        timeout_s=opened.timeout_s,
        stdin=opened.stdin,
        stdout=opened.stdout,
        stderr=opened.stderr,
        no_new_privileges=opened.no_new_privileges,
        terminal=None if opened.terminal is None else _terminal(opened.terminal),
    )


def _terminal(terminal: native.Terminal) -> Terminal:
    return Terminal(rows=terminal.rows, columns=terminal.columns, term=terminal.term)
