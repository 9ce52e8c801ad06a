"""A fake process: a program as a task, with real offsets, exits and deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from skerry.engine.interfaces import Clock
from skerry.model.errors import ConflictError
from skerry.model.exits import SIGKILL, ProcessExit, ProcessReason
from skerry.model.sandboxes import ProcessView
from skerry.model.specs import ExecSpec
from skerry.testing.outputs import MemoryOutput
from skerry.testing.programs import Program

_STDIN_BYTES = 64 << 10
# Signals whose default action ends a process; the others leave a fake program alone.
_DEADLY = {1, 2, 3, 6, 9, 13, 14, 15}


class FakeProcess:
    """Matches the engine's `ProcessHandle`, and is what its program sees."""

    def __init__(
        self, view: ProcessView, spec: ExecSpec, *, env: Mapping[str, str], files: Mapping[str, bytes], clock: Clock
    ) -> None:
        self.view = view
        self.spec = spec
        self.terminal = spec.terminal
        self.env = env if spec.terminal is None else {"TERM": spec.terminal.term, **env}
        self.workdir = spec.workdir or "/"
        self._files = files
        self._clock = clock
        self._outputs = {channel: MemoryOutput(now=clock.now) for channel in (1, 2)}
        self._stdin = bytearray()
        self._stdin_taken = 0
        self._stdin_ended = spec.stdin == "null"
        self._changed = asyncio.Condition()
        self._exited: asyncio.Future[ProcessExit] = asyncio.get_running_loop().create_future()
        self._program: asyncio.Task[int] | None = None

    # As the engine sees it

    def output(self, channel: int) -> MemoryOutput:
        return self._outputs[channel]

    @property
    def stdin_acknowledged(self) -> int:
        return self._stdin_taken

    @property
    def stdin_sent(self) -> int:
        return self._stdin_taken + len(self._stdin)

    async def write_stdin(self, offset: int, data: bytes | memoryview, *, known: int | None = None) -> int:
        end = offset + len(data)
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._stdin) < _STDIN_BYTES or self._exited.done())
            received = self._stdin_taken + len(self._stdin)
            if self._exited.done():
                self._stdin_taken = max(self._stdin_taken, end)
            elif known is not None and received > known:
                raise ConflictError(f"somebody else has written to the stdin of {self.view.id}", writer="other")
            elif self._stdin_ended or offset > received:
                raise ConflictError(f"stdin of {self.view.id} is closed, or bytes before {offset} are missing")
            else:
                self._stdin += data[max(0, received - offset) :]
            self._changed.notify_all()
            await self._changed.wait_for(lambda: self._stdin_taken >= end or self._exited.done())
        return max(self._stdin_taken, end) if self._exited.done() else self._stdin_taken

    async def end_stdin(self) -> None:
        async with self._changed:
            self._stdin_ended = True
            self._changed.notify_all()

    async def signal(self, number: int) -> None:
        if number in _DEADLY and not self._exited.done():
            reason = ProcessReason.KILLED if number == SIGKILL else ProcessReason.SIGNALED
            await self.stop(ProcessExit(reason=reason, signal=number))

    async def resize(self, rows: int, columns: int) -> None:
        if self.terminal is None:
            raise ConflictError(f"process {self.view.id} has no terminal to resize; start it with one (pty=True)")
        self.terminal = replace(self.terminal, rows=rows, columns=columns)

    async def wait(self) -> ProcessExit:
        return await asyncio.shield(self._exited)

    async def drain(self, still_s: float) -> None:
        """Nothing is on its way here."""

    # As its program sees it

    async def read(self) -> bytes:
        async with self._changed:
            await self._changed.wait_for(lambda: self._stdin or self._stdin_ended)
            data = bytes(self._stdin)
            self._stdin.clear()
            self._stdin_taken += len(data)
            self._changed.notify_all()
        return data

    async def write(self, data: bytes, channel: int = 1) -> None:
        kind = self.spec.stdout if channel == 1 else self.spec.stderr
        if kind == "stdout":
            channel, kind = 1, self.spec.stdout
        if self.terminal is not None:
            data = data.replace(b"\n", b"\r\n")
        if kind == "pipe" and data:
            await self._outputs[channel].write(data)

    async def sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)

    def file(self, path: str) -> bytes | None:
        return self._files.get(path)

    # As the node runs it

    async def run(self, program: Program) -> None:
        """Run the program to its end, whatever ends it."""
        self._program = asyncio.ensure_future(program(self))
        deadline = asyncio.ensure_future(self._deadline())
        try:
            await asyncio.wait((self._program, deadline, self._exited), return_when=asyncio.FIRST_COMPLETED)
            if self._program.done() and not self._program.cancelled():
                await self.stop(ProcessExit(reason=ProcessReason.EXITED, code=self._program.result()))
            elif not self._exited.done():
                await self.stop(ProcessExit(reason=ProcessReason.TIMEOUT, signal=SIGKILL))
        finally:
            deadline.cancel()
            self._program.cancel()

    async def stop(self, end: ProcessExit) -> None:
        """End it with this exit, unless it has one."""
        if self._exited.done():
            return
        self.view = replace(self.view, exit=end)
        self._exited.set_result(end)
        if self._program is not None:
            self._program.cancel()
        async with self._changed:
            self._changed.notify_all()
        for output in self._outputs.values():
            await output.finish()

    async def _deadline(self) -> None:
        if self.spec.timeout_s is None:
            await self._exited
        else:
            await self._clock.sleep(self.spec.timeout_s)
