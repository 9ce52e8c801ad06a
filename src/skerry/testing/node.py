"""A node in memory. Matches the engine's `NodeHandle`; what runs in it are the commands of `programs`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from skerry.engine.interfaces import Clock, Launch, NodeView, SandboxEnded, Started
from skerry.engine.tasks import Tasks
from skerry.model.errors import NotFoundError, SandboxEndedError
from skerry.model.exits import ProcessExit, ProcessReason, SandboxExit, SandboxReason
from skerry.model.ids import NodeId, ProcessId, SandboxId
from skerry.model.sandboxes import ProcessView, Stage
from skerry.model.secrets import NO_SECRETS, Hidden
from skerry.model.specs import ExecSpec
from skerry.model.usage import SandboxUsage
from skerry.testing.files import MemoryFiles
from skerry.testing.processes import FakeProcess
from skerry.testing.programs import PROGRAMS, Program, not_found

NODE = NodeId("no_00000000000000000001")
CPUS = 8.0
MEMORY_MIB = 16 * 1024
SANDBOXES_MAX = 100


@dataclass
class FakeSandbox:
    """One sandbox of a fake node."""

    launch: Launch
    secrets: Hidden
    files: MemoryFiles
    ended: asyncio.Future[SandboxEnded]
    started: Started | None = None
    processes: dict[ProcessId, FakeProcess] = field(default_factory=dict)
    uses: int = 0
    idle_since: float | None = None


class FakeNode:
    """Runs sandboxes while its `async with` block lasts.

    `fail_next_start` is raised by the next start; `hold_starts` cleared lets starts wait until it is set.
    The volumes of sandboxes in `lost_volumes` are lost.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        id: NodeId = NODE,
        cpus: float = CPUS,
        memory_mib: int = MEMORY_MIB,
        sandboxes_max: int = SANDBOXES_MAX,
        programs: Mapping[str, Program] = PROGRAMS,
    ) -> None:
        self._id = id
        self._clock = clock
        self._size = (cpus, memory_mib, sandboxes_max)
        self._programs = programs
        self._tasks = Tasks()
        self._sandboxes: dict[SandboxId, FakeSandbox] = {}
        self._ends: list[SandboxEnded] = []
        self._told = 0
        self._changed = asyncio.Condition()
        self.fail_next_start: Exception | None = None
        self.lost_volumes: set[SandboxId] = set()
        self.hold_starts = asyncio.Event()
        self.hold_starts.set()

    async def __aenter__(self) -> FakeNode:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._tasks.__aexit__(kind, exc, trace)

    def view(self) -> NodeView:
        cpus, memory_mib, sandboxes_max = self._size
        asks = [one.launch.spec.resources for one in self._sandboxes.values() if not one.ended.done()]
        return NodeView(
            id=self._id,
            cpus=cpus,
            memory_mib=memory_mib,
            reserved_cpus=sum(ask.cpu for ask in asks),
            reserved_memory_mib=sum(ask.memory_mib for ask in asks),
            sandboxes=len(asks),
            sandboxes_max=sandboxes_max,
        )

    async def start(self, launch: Launch, secrets: Hidden = NO_SECRETS) -> Started:
        box = FakeSandbox(launch, secrets, MemoryFiles(self._clock), asyncio.get_running_loop().create_future())
        self._sandboxes[launch.sandbox] = box
        try:
            await self.hold_starts.wait()
            if self.fail_next_start is not None:
                failure, self.fail_next_start = self.fail_next_start, None
                raise failure
        except BaseException:
            del self._sandboxes[launch.sandbox]
            raise
        box.started = Started(started_at=self._clock.now(), stages=(Stage(name="claim", ms=1.0),))
        self._tasks.start(self._lifetime(box), name="lifetime")
        self._let_idle(box)
        if launch.entrypoint is not None:
            self._run_entrypoint(box, launch.entrypoint)
        return box.started

    async def terminate(self, sandbox: SandboxId, reason: SandboxReason = SandboxReason.TERMINATED) -> SandboxExit:
        box = self._find(sandbox)
        await self._end(box, SandboxExit(reason=reason))
        return box.ended.result().exit

    async def exec(self, sandbox: SandboxId, process: ProcessId, spec: ExecSpec) -> FakeProcess:
        box = self._alive(sandbox)
        return box.processes.get(process) or self._run(box, process, spec)

    def process(self, sandbox: SandboxId, process: ProcessId) -> FakeProcess:
        found = self._find(sandbox).processes.get(process)
        if found is None:
            raise NotFoundError(f"there is no process {process} in sandbox {sandbox}")
        return found

    def processes(self, sandbox: SandboxId) -> Sequence[FakeProcess]:
        return list(self._find(sandbox).processes.values())

    def files(self, sandbox: SandboxId) -> MemoryFiles:
        return self._alive(sandbox).files

    @contextmanager
    def use(self, sandbox: SandboxId) -> Iterator[None]:
        box = self._sandboxes.get(sandbox)
        if box is None or box.ended.done():
            yield
            return
        box.uses, box.idle_since = box.uses + 1, None
        try:
            yield
        finally:
            box.uses -= 1
            self._let_idle(box)

    def idle_since(self, sandbox: SandboxId) -> float | None:
        box = self._sandboxes.get(sandbox)
        return None if box is None or box.ended.done() else box.idle_since

    async def usage(self, sandboxes: Collection[SandboxId]) -> Sequence[SandboxUsage]:
        now = self._clock.now()
        boxes = [self._sandboxes[one] for one in sandboxes if one in self._sandboxes]
        return [
            SandboxUsage(
                id=box.launch.sandbox,
                at=now,
                cpu_seconds=0.0,
                memory_bytes=0,
                file_bytes=sum(map(len, box.files.contents.values())),
                processes=sum(process.view.exit is None for process in box.processes.values()),
            )
            for box in boxes
            if not box.ended.done()
        ]

    async def wait_ended(self, sandbox: SandboxId) -> SandboxEnded:
        return await asyncio.shield(self._find(sandbox).ended)

    def volumes_lost(self, sandbox: SandboxId) -> bool:
        return sandbox in self.lost_volumes

    def kept(self) -> Collection[SandboxId]:
        return {sandbox for sandbox, box in self._sandboxes.items() if box.ended.done()}

    def output_bytes(self, sandbox: SandboxId) -> int:
        box = self._sandboxes.get(sandbox)
        outputs = [process.output(channel) for process in box.processes.values() for channel in (1, 2)] if box else []
        return sum(output.end - output.base for output in outputs)

    def forget(self, sandbox: SandboxId) -> None:
        box = self._sandboxes.get(sandbox)
        if box is not None and box.ended.done():
            del self._sandboxes[sandbox]

    async def pack_build(self, sandbox: SandboxId, into: Path) -> Sequence[str]:
        self._alive(sandbox)
        into.write_bytes(b"")
        return ()

    async def ended_since_start(self) -> AsyncIterator[SandboxEnded]:
        at = self._told
        while True:
            async with self._changed:
                await self._changed.wait_for(partial(self._has_end, at))
            ended = self._ends[at]
            at += 1
            self._told = max(self._told, at)
            yield ended

    def running(self) -> Mapping[SandboxId, Started]:
        return {
            id: box.started for id, box in self._sandboxes.items() if box.started is not None and not box.ended.done()
        }

    async def end(self, sandbox: SandboxId, end: SandboxExit) -> None:
        """Let a sandbox end as if by itself."""
        await self._end(self._find(sandbox), end)

    def lose(self, sandbox: SandboxId) -> None:
        """Let the node know nothing of a sandbox any more."""
        del self._sandboxes[sandbox]

    # Inside

    def _has_end(self, index: int) -> bool:
        return len(self._ends) > index

    def _find(self, sandbox: SandboxId) -> FakeSandbox:
        box = self._sandboxes.get(sandbox)
        if box is None:
            raise NotFoundError(f"node {self._id} has no sandbox {sandbox}")
        return box

    def _alive(self, sandbox: SandboxId) -> FakeSandbox:
        box = self._find(sandbox)
        if box.ended.done():
            end = box.ended.result().exit
            raise SandboxEndedError(f"sandbox {sandbox} has ended ({end.reason}); create a new one")
        return box

    def _run_entrypoint(self, box: FakeSandbox, process: ProcessId) -> None:
        spec = box.launch.spec
        argv = spec.entrypoint or box.launch.image.config.command
        stderr = "pipe" if spec.terminal is None else "stdout"
        asked = ExecSpec(argv=argv, workdir=spec.workdir, user=spec.user, terminal=spec.terminal, stderr=stderr)
        entrypoint = self._run(box, process, asked)
        self._tasks.start(self._follow_entrypoint(box, entrypoint), name="entrypoint")

    def _run(self, box: FakeSandbox, process: ProcessId, spec: ExecSpec) -> FakeProcess:
        view = ProcessView(
            id=process,
            sandbox=box.launch.sandbox,
            argv=spec.argv,
            started_at=self._clock.now(),
            terminal=spec.terminal is not None,
        )
        env = {**box.launch.image.config.env, **box.secrets.reveal(), **box.launch.spec.env, **spec.env}
        made = box.processes[process] = FakeProcess(view, spec, env=env, files=box.files.contents, clock=self._clock)
        running = made.run(self._programs.get(spec.argv[0], not_found))
        if process != box.launch.entrypoint:
            running = self._as_use(box.launch.sandbox, running)
        self._tasks.start(running, name=f"process {process}")
        return made

    async def _as_use(self, sandbox: SandboxId, work: Coroutine[Any, Any, None]) -> None:
        with self.use(sandbox):
            await work

    def _let_idle(self, box: FakeSandbox) -> None:
        """Let the idle time of a sandbox run if nobody uses it."""
        if not box.uses and not box.ended.done():
            box.idle_since = self._clock.now()
            if box.launch.spec.idle_timeout_s is not None:
                self._tasks.start(self._idle(box, box.idle_since, box.launch.spec.idle_timeout_s), name="idle")

    async def _idle(self, box: FakeSandbox, since: float, timeout_s: float) -> None:
        await self._clock.sleep(timeout_s)
        if box.idle_since == since:
            await self._end(box, SandboxExit(reason=SandboxReason.IDLE_TIMEOUT))

    async def _follow_entrypoint(self, box: FakeSandbox, entrypoint: FakeProcess) -> None:
        end = await entrypoint.wait()
        reason = SandboxReason.EXITED if end.code is not None else SandboxReason.SIGNALED
        await self._end(box, SandboxExit(reason=reason, code=end.code, signal=end.signal))

    async def _lifetime(self, box: FakeSandbox) -> None:
        await self._clock.sleep(box.launch.spec.lifetime_s)
        await self._end(box, SandboxExit(reason=SandboxReason.LIFETIME))

    async def _end(self, box: FakeSandbox, end: SandboxExit) -> None:
        if box.ended.done():
            return
        ended = SandboxEnded(sandbox=box.launch.sandbox, exit=end, at=self._clock.now())
        box.ended.set_result(ended)
        for process in box.processes.values():
            await process.stop(ProcessExit(reason=ProcessReason.SANDBOX_ENDED, signal=9))
        async with self._changed:
            self._ends.append(ended)
            self._changed.notify_all()
