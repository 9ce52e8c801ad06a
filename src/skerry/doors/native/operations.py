"""The operations on sandboxes that can be opened: each says STARTED, what it has to say, and a last word."""

from __future__ import annotations

from skerry.doors.native import files
from skerry.doors.native.following import follow
from skerry.doors.native.secrets import asks
from skerry.doors.native.streams import Stream
from skerry.doors.native.windows import SendWindow
from skerry.engine.engine import Engine
from skerry.model.ids import SandboxId
from skerry.model.specs import ExecSpec, Terminal
from skerry.wire import native
from skerry.wire.frames import STDERR, STDOUT


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
        secrets = asks(opened.secrets)
        handle = await engine.processes.exec(sandbox, opened.process, _exec_spec(opened), secrets=secrets)
        await follow(handle, stream, stdin=opened.stdin == "pipe")
    elif isinstance(opened, native.OpenProcess):
        handle = engine.processes.get(sandbox, opened.process)
        await follow(handle, stream, stdin=opened.stdin, fresh=opened.fresh)
    else:
        await files.run(opened, stream, engine.files)


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
