"""The processes of one sandbox: started, found again after a restart, and told how they ended."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from signal import SIGKILL
from typing import Final

from skerry.model.events import Events
from skerry.model.exits import ProcessExit, ProcessReason, SandboxExit
from skerry.model.ids import ProcessId, SandboxId
from skerry.model.sandboxes import ProcessView
from skerry.node.agent_link import AgentLink
from skerry.node.agent_stream import StreamError
from skerry.node.ends import MemoryKills, ended_with_sandbox, process_exit
from skerry.node.outcome import Outcome
from skerry.node.output import ProcessOutput
from skerry.node.output_quota import NodeQuota
from skerry.node.processes import NodeProcess, channels_of
from skerry.node.records import Entry, Journal, ProcessDropped, ProcessEnded, ProcessStarted, SandboxEnd
from skerry.wire.frames import STDERR, STDOUT
from skerry.wire.messages import Exit, OpenExec, Ready, Started

ENDED_KEPT: Final = 1000
"""Ended processes kept in a sandbox; beyond it the one that started first goes, and its output with it."""

# A kill between the agent's last word and the journal's line leaves this much.
_UNRECORDED: Final = ProcessExit(
    reason=ProcessReason.SANDBOX_ENDED, evidence="it ended as the server was killed; how was not recorded"
)

OVERDUE_S: Final = 2.0
"""How long after its timeout a process may be told to have ended; then the node says so itself."""

_OVERDUE: Final = ProcessExit(
    reason=ProcessReason.TIMEOUT, signal=SIGKILL, evidence="its time is over, and its agent has not yet said so"
)
_NEVER_BEGAN: Final = ProcessExit(reason=ProcessReason.SANDBOX_ENDED, evidence="it was never started")

OnStart = Callable[[NodeProcess], None]
OnExit = Callable[[ProcessId, ProcessExit], None]

log = Events("skerry.node")


def _start_of_none(_process: NodeProcess) -> None:
    pass


def _tell_nobody(_process: ProcessId, _exit: ProcessExit) -> None:
    pass


class ProcessTable:
    """Every process of one sandbox, and the folder of their output.

    `oom_kills` counts what the kernel has killed in it for lack of memory; `on_start` is told of each process that is
    started here, before its agent hears of it, and `on_exit` of each end, once.
    """

    def __init__(
        self,
        sandbox: SandboxId,
        folder: Path,
        quota: NodeQuota,
        *,
        oom_kills: Callable[[], int] = lambda: 0,
        on_start: OnStart = _start_of_none,
        on_exit: OnExit = _tell_nobody,
    ) -> None:
        self.sandbox = sandbox
        self.kills = MemoryKills(oom_kills)
        self._on_process_start = on_start
        self._on_process_exit = on_exit
        self.folder = folder
        self.end: SandboxEnd | None = None
        """How the sandbox ended, once the journal says so."""
        self._quota = quota.sandbox()
        self._journal = Journal(folder / "journal")
        self._processes: dict[ProcessId, NodeProcess] = {}
        self._deadlines: dict[ProcessId, float | None] = {}  # of the journal, until `resume`
        self._complained = False
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def all(self) -> list[NodeProcess]:
        return list(self._processes.values())

    def get(self, process: ProcessId) -> NodeProcess | None:
        return self._processes.get(process)

    async def start(
        self, link: AgentLink, view: ProcessView, op: OpenExec, *, timeout_s: float | None = None
    ) -> NodeProcess:
        """Return the process once the agent has started it; raises an Error if it could not, LinkLost.

        Its timeout is the agent's to keep, as `op` says; `timeout_s` bounds how late that may be told.
        """
        channels = channels_of(op)
        link.check()
        number = link.streams.last_stream + 1
        process = NodeProcess(view, self._output(view.id, channels, view.started_at, fresh=True), number)
        self._processes[view.id] = process
        self._on_process_start(process)
        # Before the agent hears of it, so that a successor of ours knows every stream that the agent may tell.
        self._note(
            ProcessStarted(
                process=view.id,
                stream=number,
                argv=view.argv,
                at=view.started_at,
                channels=channels,
                stdin=op.stdin == "pipe",
                terminal=op.terminal is not None,
                deadline=None if timeout_s is None else view.started_at + timeout_s,
            )
        )
        if timeout_s is not None:
            self._tell_at_the_latest(process, timeout_s)
        stream = link.open(op, sink=process.log)
        process.begin(stream)
        stream.exit.then(partial(self._on_exit, process))
        stream.begun.then(partial(self._on_begun, process))
        await process.begun()
        return process

    def _on_begun(self, process: NodeProcess, told: Outcome[Started]) -> None:
        if isinstance(told.error, StreamError):
            self._drop(process)
        elif told.error is None:
            asyncio.get_running_loop().call_soon(self._drop_oldest)  # after those who wait for the new one

    def _output(
        self, process: ProcessId, channels: Sequence[int], began: float, *, fresh: bool = False
    ) -> ProcessOutput:
        """Return the output of a process, of which channels that it does not have have ended."""
        output = ProcessOutput(self.folder, process, quota=self._quota, began=began, fresh=fresh)
        for channel in {STDOUT, STDERR} - set(channels):
            output.end(channel)
        return output

    def _on_exit(self, process: NodeProcess, told: Outcome[Exit]) -> None:
        if told.error is not None:
            return  # the link was lost: an attach or the end of the sandbox says more
        if process.ended:
            return
        seen = told.result()
        # Only an unasked SIGKILL can have been the kernel's; a file of a control group is slow to read.
        out_of_memory = seen.signal == SIGKILL and seen.reason == "signaled" and self.kills.take()
        end = process_exit(
            code=seen.code, signal=seen.signal, reason=seen.reason, evidence=seen.evidence, out_of_memory=out_of_memory
        )
        process.settle(end)
        self._note(ProcessEnded(process=process.view.id, exit=end))
        self._on_process_exit(process.view.id, end)

    def _tell_at_the_latest(self, process: NodeProcess, timeout_s: float) -> None:
        """Say that a process reached its timeout even if its agent does not: a guest may have stopped or blocked it."""
        loop = asyncio.get_running_loop()
        overdue = loop.call_later(max(0.0, timeout_s) + OVERDUE_S, self._overdue, process)
        process.on_end(overdue.cancel)

    def _overdue(self, process: NodeProcess) -> None:
        if not process.ended:
            log.warning("process.overdue", sandbox=self.sandbox, process=process.view.id)
            process.settle(_OVERDUE)
            self._note(ProcessEnded(process=process.view.id, exit=_OVERDUE))
            self._on_process_exit(process.view.id, _OVERDUE)

    def _note(self, entry: Entry) -> None:
        """Write a line of the journal. Without it a successor knows less; that must not end what goes on now."""
        try:
            self._journal.add(entry)
        except OSError as exc:
            if not self._complained:
                log.error("sandbox.journal_failed", exc=exc, sandbox=self.sandbox)
            self._complained = True

    # After a restart

    def read(self) -> None:
        """Take up what the journal tells."""
        for entry in self._journal.read():
            self._take_up(entry)

    def _take_up(self, entry: Entry) -> None:
        if isinstance(entry, ProcessStarted):
            view = ProcessView(
                id=entry.process,
                sandbox=self.sandbox,
                argv=entry.argv,
                started_at=entry.at,
                terminal=entry.terminal,
            )
            output = self._output(entry.process, entry.channels, entry.at)
            self._processes[entry.process] = NodeProcess(view, output, entry.stream)
            self._deadlines[entry.process] = entry.deadline
        elif isinstance(entry, SandboxEnd):
            self.end = entry
            self._end_outputs()
        elif isinstance(entry, ProcessDropped):
            self._processes.pop(entry.process, None)
        else:
            if entry.exit.reason is ProcessReason.OUT_OF_MEMORY:
                self.kills.told += 1
            if process := self._processes.get(entry.process):
                process.settle(entry.exit)

    def resume(self, link: AgentLink, ready: Ready, *, now: float) -> None:
        """Go on with the streams of an agent that was attached to again."""
        self._drop_unbegun(ready.last_stream)
        told = {state.stream: state for state in ready.streams}
        known = {process.number: process for process in self._processes.values() if process.number in told}
        for number, process in known.items():
            for channel in told[number].channels:
                process.output(channel.channel).skip_to(channel.acknowledged)
        for number, stream in link.resume({number: process.log for number, process in known.items()}).items():
            process = known[number]
            process.bind(stream)
            stream.exit.then(partial(self._on_exit, process))
            deadline = self._deadlines.get(process.view.id)
            if deadline is not None and not process.ended:
                self._tell_at_the_latest(process, deadline - now)
        self._deadlines.clear()
        self._settle_untold(set(told))

    def _drop_unbegun(self, last_stream: int) -> None:
        """Forget what the agent never heard of: the line was written, the kill came before the frame."""
        for process in [process for process in self._processes.values() if process.number > last_stream]:
            self._drop(process)

    def _settle_untold(self, told: set[int]) -> None:
        """End what the agent has forgotten: it does so only after the end of a process was told."""
        for process in self._processes.values():
            if process.number not in told:
                _end_output(process)
                process.settle(_UNRECORDED)

    # The end

    def decide(self, end: SandboxExit, at: float) -> None:
        """Write down how the sandbox ends, once: before it is removed, so that a kill meanwhile does not change it."""
        if self.end is None:
            self.end = SandboxEnd(exit=end, at=at)
            self._note(self.end)

    def settle_all(self, end: SandboxExit, at: float) -> None:
        """Tell every process that is still running how its sandbox ended, and write that down."""
        for process in self._processes.values():
            rest = ended_with_sandbox(end)
            if process.settle(rest):
                self._note(ProcessEnded(process=process.view.id, exit=rest))
        self._end_outputs()
        self.decide(end, at)
        self._journal.close()

    def remove(self) -> None:
        """Delete the output and the journal."""
        for process in self._processes.values():
            process.log.remove()
        self._quota.close()
        self._journal.close()
        self._processes.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def output_bytes(self) -> int:
        """How much output is kept."""
        return sum(process.log.kept for process in self._processes.values())

    @property
    def pending(self) -> bool:
        """Whether there is output that the disk has not taken yet."""
        return any(process.log.pending for process in self._processes.values())

    def retire(self) -> int:
        """Count no more in the quota; return how much output is kept, which is for the caller to count."""
        kept = self.output_bytes
        self._quota.close()
        self.kills = MemoryKills(lambda: 0)
        self._on_process_start = _start_of_none
        self._on_process_exit = _tell_nobody  # or it would hold on to all that its sandbox was
        return kept

    def _end_outputs(self) -> None:
        for process in self._processes.values():
            _end_output(process)

    def _drop_oldest(self) -> None:
        surplus = max(0, len(self._processes) - ENDED_KEPT)
        ended = (process for process in self._processes.values() if process.ended)
        for process in list(islice(ended, surplus)):
            self._drop(process)

    def _drop(self, process: NodeProcess) -> None:
        identifier = process.view.id
        if self._processes.pop(identifier, None) is None:
            return
        process.settle(_NEVER_BEGAN)
        process.log.remove()
        self._note(ProcessDropped(process=identifier))


def _end_output(process: NodeProcess) -> None:
    process.log.end(STDOUT)
    process.log.end(STDERR)
