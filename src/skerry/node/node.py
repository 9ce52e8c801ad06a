"""A node: this machine as one that runs sandboxes. Matches the engine's `NodeHandle`."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Collection, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final

from skerry.model.errors import NotFoundError, SandboxEndedError
from skerry.model.events import Events
from skerry.model.exits import SandboxExit, SandboxReason
from skerry.model.ids import NodeId, ProcessId, SandboxId
from skerry.model.nodes import Launch, NodeView, SandboxEnded, Started
from skerry.model.secrets import NO_SECRETS, Hidden
from skerry.model.specs import ExecSpec
from skerry.model.text import escaped
from skerry.model.usage import SandboxUsage
from skerry.node.files import SandboxFiles
from skerry.node.happenings import Asked, Leave
from skerry.node.kept import KeptSandboxes
from skerry.node.machinery import Machinery
from skerry.node.processes import NodeProcess
from skerry.node.records import SandboxRecord
from skerry.node.supervisor import Supervisor
from skerry.node.table import ProcessTable

log = Events("skerry.node")

SWEEP_EVERY_S: Final = 60.0
SANDBOXES_MAX: Final = 1000
TAKEN_OVER_AT_ONCE: Final = 8
MEASURED_AT_ONCE: Final = 8
_SWEEP: Final = "sweep"


class Node:
    """This machine as a node. `open` first; at the end `close`, which leaves running sandboxes to a successor."""

    def __init__(self, *, id: NodeId, machinery: Machinery, sandboxes_max: int = SANDBOXES_MAX) -> None:
        self._id = id
        self._machinery = machinery
        self._sandboxes_max = sandboxes_max
        self._live: dict[SandboxId, Supervisor] = {}
        self._kept = KeptSandboxes(machinery.output_folder, machinery.quota)
        self._tasks: set[asyncio.Task[None]] = set()
        self._ends: asyncio.Queue[SandboxEnded] = asyncio.Queue()

    async def open(self) -> None:
        """Take over what an earlier node left, remove what belongs to nobody, and keep doing that."""
        machinery = self._machinery
        machinery.records.open()
        for folder in (machinery.output_folder, machinery.build_folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        await machinery.network.start()
        try:
            await self._take_over_all()
            self._remove_half_starts()
            await self._kept.find(self._live)
            await self._sweep()
        except BaseException:
            await self.close()
            raise
        self._own(self._keep_sweeping(), name=_SWEEP)

    async def close(self) -> None:
        """Let go. Sandboxes that run go on, and are found again by the next node; without any, nothing is left."""
        for supervisor in self._live.values():
            supervisor.happen(Leave())
        for task in self._tasks:
            if task.get_name() == _SWEEP:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._live:  # what has ended is out of it
            await self._machinery.network.leave()
        else:
            await self._machinery.network.stop()
            self._machinery.cgroups.close()

    # Sandboxes

    def view(self) -> NodeView:
        """Return what placement needs to know."""
        asked = [supervisor.resources for supervisor in self._live.values()]
        return NodeView(
            id=self._id,
            cpus=self._machinery.cpus,
            memory_mib=self._machinery.memory_mib,
            reserved_cpus=sum(each.cpu for each in asked),
            reserved_memory_mib=sum(each.memory_mib for each in asked),
            sandboxes=len(asked),
            sandboxes_max=self._sandboxes_max,
        )

    async def start(self, launch: Launch, secrets: Hidden = NO_SECRETS) -> Started:
        """Return when the sandbox runs; on any failure nothing of it is left."""
        supervisor = self._supervisor(launch, secrets)
        self._live[launch.sandbox] = supervisor
        try:
            started = await supervisor.start()
        except BaseException:
            del self._live[launch.sandbox]
            raise
        self._supervise(supervisor)
        return started

    async def terminate(self, sandbox: SandboxId, reason: SandboxReason = SandboxReason.TERMINATED) -> SandboxExit:
        """End it; the exit that it had already, if it had one."""
        supervisor = self._live.get(sandbox)
        if supervisor is not None:
            supervisor.happen(Asked(reason))
        return (await self.wait_ended(sandbox)).exit

    async def wait_ended(self, sandbox: SandboxId) -> SandboxEnded:
        supervisor = self._live.get(sandbox)
        if supervisor is not None:
            return await asyncio.shield(supervisor.ended)
        end = self._kept.table(sandbox).end
        if end is None:
            raise NotFoundError(f"node {self._id} does not know how sandbox {sandbox} ended")
        return SandboxEnded(sandbox=sandbox, exit=end.exit, at=end.at)

    async def ended_since_start(self) -> AsyncIterator[SandboxEnded]:
        """Yield each end, those found at the node's own start first; for one listener."""
        while True:
            yield await self._ends.get()

    def use(self, sandbox: SandboxId) -> AbstractContextManager[None]:
        """Keep it from being idle while the block lasts."""
        supervisor = self._live.get(sandbox)
        return nullcontext() if supervisor is None else supervisor.idle.use()

    def idle_since(self, sandbox: SandboxId) -> float | None:
        supervisor = self._live.get(sandbox)
        return None if supervisor is None else supervisor.idle.since

    async def usage(self, sandboxes: Collection[SandboxId]) -> Sequence[SandboxUsage]:
        """Return a sample of each that runs here, some at a time."""
        turns = asyncio.Semaphore(MEASURED_AT_ONCE)

        async def measured(supervisor: Supervisor) -> SandboxUsage | None:
            async with turns:
                return await supervisor.usage()

        asked = [supervisor for sandbox in sandboxes if (supervisor := self._live.get(sandbox)) is not None]
        return [one for one in await asyncio.gather(*map(measured, asked)) if one is not None]

    def running(self) -> Mapping[SandboxId, Started]:
        return {
            identifier: supervisor.started
            for identifier, supervisor in self._live.items()
            if supervisor.started is not None and supervisor.build is None
        }

    def volumes_lost(self, sandbox: SandboxId) -> bool:
        """Tell whether the volumes of a running sandbox answer only errors any more."""
        supervisor = self._live.get(sandbox)
        return supervisor is not None and supervisor.volumes_lost

    def kept(self) -> Collection[SandboxId]:
        """The ended sandboxes whose output is kept."""
        return self._kept.ids()

    def output_bytes(self, sandbox: SandboxId) -> int:
        """How much output is kept of a sandbox."""
        supervisor = self._live.get(sandbox)
        return self._kept.output_bytes(sandbox) if supervisor is None else supervisor.table.output_bytes

    def forget(self, sandbox: SandboxId) -> None:
        """Delete the output of an ended sandbox."""
        self._kept.forget(sandbox)

    async def pack_build(self, sandbox: SandboxId, into: Path) -> Sequence[str]:
        """Write the whole root file system of a build sandbox as an EROFS file to `into`; return what was left out."""
        return await self._running(sandbox).pack(into)

    # What runs in them

    async def exec(self, sandbox: SandboxId, process: ProcessId, spec: ExecSpec) -> NodeProcess:
        """Return the process once it has started; a process id that exists returns that process."""
        return await self._running(sandbox).exec(process, spec)

    def process(self, sandbox: SandboxId, process: ProcessId) -> NodeProcess:
        found = self._table_of(sandbox).get(process)
        if found is None:
            raise NotFoundError(f"sandbox {sandbox} has no process {escaped(process, limit=64)!r}; see its processes")
        return found

    def processes(self, sandbox: SandboxId) -> Sequence[NodeProcess]:
        return self._table_of(sandbox).all()

    def files(self, sandbox: SandboxId) -> SandboxFiles:
        return SandboxFiles(self._running(sandbox))

    # The inside

    def _running(self, sandbox: SandboxId) -> Supervisor:
        supervisor = self._live.get(sandbox)
        if supervisor is not None:
            return supervisor
        end = self._kept.table(sandbox).end
        reason = f" ({end.exit.reason})" if end else ""
        raise SandboxEndedError(f"sandbox {sandbox} has ended{reason}; create another one")

    def _table_of(self, sandbox: SandboxId) -> ProcessTable:
        supervisor = self._live.get(sandbox)
        return supervisor.table if supervisor is not None else self._kept.table(sandbox)

    def _supervisor(self, launch: Launch, secrets: Hidden = NO_SECRETS) -> Supervisor:
        return Supervisor(launch, self._machinery, secrets, on_ended=self._settle)

    def _supervise(self, supervisor: Supervisor) -> None:
        self._own(self._watch(supervisor), name=f"watch {supervisor.id}")

    async def _watch(self, supervisor: Supervisor) -> None:
        try:
            await supervisor.watch()
        except Exception as exc:
            log.error("sandbox.supervisor_failed", exc=exc, sandbox=supervisor.id)
            raise

    def _settle(self, ended: SandboxEnded) -> None:
        """Keep what stays of an ended sandbox, and tell of its end."""
        supervisor = self._live.pop(ended.sandbox)
        self._kept.add(supervisor.table)
        if supervisor.build is None:
            self._ends.put_nowait(ended)

    async def _take_over_all(self) -> None:
        """Take over what an earlier node left, some at a time: one that does not answer must not hold up the others."""
        turns = asyncio.Semaphore(TAKEN_OVER_AT_ONCE)

        async def take_over(record: SandboxRecord | SandboxId) -> None:
            async with turns:
                await self._take_over(record)

        await asyncio.gather(*map(take_over, list(self._machinery.records.all())))

    async def _take_over(self, record: SandboxRecord | SandboxId) -> None:
        if not isinstance(record, SandboxRecord):
            log.warning("sandbox.record_unreadable", sandbox=record)
            self._machinery.records.remove(record)  # the sweep removes the sandbox itself
            return
        supervisor = self._supervisor(record.launch)
        self._live[record.sandbox] = supervisor
        try:
            runs = await supervisor.take_over(record)
        except Exception as exc:  # one sandbox must not keep the node, and all others, from coming up
            log.error("sandbox.take_over_failed", exc=exc, sandbox=record.sandbox)
            await supervisor.abandon(exc)
            return
        if not runs:
            return
        self._supervise(supervisor)
        if supervisor.build is not None:  # whoever built died with the earlier server
            await self.terminate(record.sandbox, SandboxReason.EVICTED)
            self.forget(record.sandbox)

    async def _keep_sweeping(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            await self._sweep()

    async def _sweep(self) -> None:
        """Remove what belongs to no live sandbox, and say what it was."""
        machinery = self._machinery
        # Each asks anew who lives, and looks at the machine before it waits for anything: a start may come in between.
        for sweep in (machinery.backend.sweep, machinery.network.sweep, self._sweep_cgroups, self._sweep_volumes):
            try:
                lines = await sweep(set(self._live))
            except Exception as exc:
                log.error("node.sweep_failed", exc=exc)
                continue
            for line in lines:
                log.warning("node.swept", what=line)

    async def _sweep_cgroups(self, keep: Collection[SandboxId]) -> Sequence[str]:
        return self._machinery.cgroups.sweep(keep)

    async def _sweep_volumes(self, _keep: Collection[SandboxId]) -> Sequence[str]:
        return await self._machinery.volumes.sweep()

    def _remove_half_starts(self) -> None:
        """Remove the folders of starts that a kill cut off: no record tells of them, and no journal was begun."""
        for folder in self._machinery.output_folder.iterdir():
            if folder.name not in self._live and not (folder / "journal").exists():
                shutil.rmtree(folder, ignore_errors=True)

    def _own(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
