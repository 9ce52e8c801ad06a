"""One process of a sandbox, live or ended: its output by offset, its stdin, its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace

from skerry.model.errors import ConflictError, InvalidError, NotFoundError
from skerry.model.exits import ProcessExit
from skerry.model.limits import ENV_BYTES
from skerry.model.sandboxes import ProcessView
from skerry.model.specs import ExecSpec, Terminal
from skerry.node.agent_stream import AgentStream, LinkLost, OtherWriter, StreamError
from skerry.node.environment import encoded
from skerry.node.failures import process_error
from skerry.node.outcome import Outcome
from skerry.node.output import ProcessOutput
from skerry.node.output_log import OutputLog
from skerry.wire import messages
from skerry.wire.messages import OpenExec


class NodeProcess:
    """Matches the engine's `ProcessHandle`. It outlives the link to its agent, and its sandbox."""

    def __init__(self, view: ProcessView, output: ProcessOutput, number: int) -> None:
        """`number` is that of the stream by which its agent knows it."""
        self.view = view
        self.number = number
        self.log = output
        self._stream: AgentStream | None = None
        self._beginning: AgentStream | None = None
        self._exit: Outcome[ProcessExit] = Outcome()
        self._stdin_acknowledged = 0
        self._stdin_sent = 0
        if view.exit is not None:
            self._exit.resolve(view.exit)

    def output(self, channel: int) -> OutputLog:
        """Channel 1 is stdout, 2 stderr; raises NotFoundError for another."""
        try:
            return self.log.log(channel)
        except KeyError:
            raise NotFoundError(f"process {self.view.id} has no channel {channel}; there are 1 and 2") from None

    @property
    def stdin_acknowledged(self) -> int:
        if self._stream is not None:
            self._stdin_acknowledged = max(self._stdin_acknowledged, self._stream.stdin_acknowledged)
        return self._stdin_acknowledged

    @property
    def stdin_sent(self) -> int:
        if self._stream is not None:
            self._stdin_sent = max(self._stdin_sent, self._stream.stdin_sent)
        return self._stdin_sent

    async def write_stdin(self, offset: int, data: bytes | memoryview, *, known: int | None = None) -> int:
        """Send bytes whose first has this offset; see the engine's `ProcessHandle`."""
        stream = self._live()
        try:
            await stream.send_stdin(bytes(data), offset, known=known)
            await stream.stdin_mostly_acknowledged()
        except OtherWriter as exc:
            raise ConflictError(
                f"somebody else has written to the stdin of process {self.view.id} since; attach to it anew",
                writer="other",
            ) from exc
        except ValueError as exc:
            raise ConflictError(f"stdin of process {self.view.id}: {exc}; go on at {stream.stdin_sent}") from exc
        except (BrokenPipeError, LinkLost) as exc:
            raise self._closed() from exc
        return self.stdin_acknowledged

    async def end_stdin(self) -> None:
        if self._stream is not None:
            self._stream.end_stdin()

    async def signal(self, number: int) -> None:
        """Send a signal to the process group; a process that has ended is left alone."""
        if self._stream is not None and not self._exit.done():
            self._stream.signal(number)

    async def resize(self, rows: int, columns: int) -> None:
        """Resize the terminal; that of a process that has ended is left alone."""
        if not self.view.terminal:
            raise ConflictError(f"process {self.view.id} has no terminal to resize; start it with one (pty=True)")
        if self._stream is not None and not self._exit.done():
            self._stream.resize(rows, columns)

    async def wait(self) -> ProcessExit:
        return await self._exit

    # For the supervisor

    def begin(self, stream: AgentStream) -> None:
        """Take the stream by which it is started, whether or not anyone waits for that."""
        self._beginning = stream
        self.bind(stream)

    async def begun(self) -> None:
        """Return once it has started; raise what kept it from that. One that was found again has."""
        if self._beginning is None:
            return
        try:
            await self._beginning.started()
        except StreamError as refusal:
            raise process_error(refusal) from refusal

    async def drain(self, still_s: float) -> None:
        """Let the output of an ended process arrive, until its channels end or nothing more comes for so long."""
        if self._stream is None:
            return
        while not all(self.output(channel).ended for channel in (1, 2)):
            before = sum(self.output(channel).end for channel in (1, 2))
            ends = [self._stream.ended(channel) for channel in (1, 2) if not self.output(channel).ended]
            with contextlib.suppress(TimeoutError, LinkLost, StreamError):
                async with asyncio.timeout(still_s):
                    await asyncio.gather(*ends)
            if before == sum(self.output(channel).end for channel in (1, 2)):
                return

    def bind(self, stream: AgentStream) -> None:
        """Take the stream of the link in use."""
        self._stream = stream

    def on_end(self, call: Callable[[], None]) -> None:
        """Have something called when it has ended."""
        self._exit.then(lambda _: call())

    def settle(self, end: ProcessExit) -> bool:
        """Take the end, once; return whether this was the first."""
        if self._exit.done():
            return False
        self.view = replace(self.view, exit=end)
        return self._exit.resolve(end)

    @property
    def ended(self) -> bool:
        return self._exit.done()

    def _live(self) -> AgentStream:
        if self._stream is None or self._exit.done():
            raise self._closed()
        return self._stream

    def _closed(self) -> ConflictError:
        end = f": it {self._exit.result().reason}" if self._exit.done() else ""
        return ConflictError(f"process {self.view.id} takes no more input{end}")


def open_exec(spec: ExecSpec, *, env: dict[str, str], workdir: str, user: str) -> OpenExec:
    """Return what the agent is asked for. `env`, `workdir` and `user` are the sandbox's own; raises InvalidError."""
    environment = encoded({**env, **spec.env})
    size = sum(len(pair) + 1 for pair in environment)
    if size > ENV_BYTES:
        raise InvalidError(
            f"the environment of {spec.argv[0]!r} has {size:,} bytes together with the image's, the machine's and the "
            f"sandbox's own, and at most {ENV_BYTES:,} are allowed; write large values to a file"
        )
    return OpenExec(
        argv=tuple(argument.encode("utf-8", "surrogateescape") for argument in spec.argv),
        env=environment,
        cwd=(spec.workdir or workdir).encode("utf-8", "surrogateescape"),
        user=spec.user or user,
        stdin="pipe" if spec.stdin == "pipe" else "null",
        stdout="pipe" if spec.stdout == "pipe" else "null",
        stderr=spec.stderr if spec.stderr in ("pipe", "null", "stdout") else "pipe",  # type: ignore[arg-type]
        timeout_ms=0 if spec.timeout_s is None else max(1, round(spec.timeout_s * 1000)),
        no_new_privileges=spec.no_new_privileges,
        terminal=None if spec.terminal is None else _terminal(spec.terminal),
    )


def exec_spec(argv: tuple[str, ...], terminal: Terminal | None) -> ExecSpec:
    """Return the spec of a command that runs as its sandbox says, at a terminal or not."""
    return ExecSpec(argv=argv, terminal=terminal, stderr="pipe" if terminal is None else "stdout")


def _terminal(terminal: Terminal) -> messages.Terminal:
    return messages.Terminal(rows=terminal.rows, columns=terminal.columns, term=terminal.term)


def channels_of(op: OpenExec) -> tuple[int, ...]:
    """Return the channels to the host that a process has."""
    return (*((1,) if op.stdout == "pipe" else ()), *((2,) if op.stderr == "pipe" else ()))
