"""The processes of one sandbox: started, found again after a restart, and told how they ended."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from signal import SIGKILL
from typing import Final

from skerry.model.exits import ProcessExit, ProcessReason, SandboxExit
from skerry.model.ids import ProcessId, SandboxId
from skerry.model.sandboxes import ProcessView
from skerry.node.agent_link import AgentLink
from skerry.node.agent_stream import AgentStream, StreamError
from skerry.node.ends import ended_with_sandbox, process_exit
from skerry.node.failures import process_error
from skerry.node.output import ProcessOutput
from skerry.node.output_quota import NodeQuota
from skerry.node.processes import NodeProcess, channels_of
from skerry.node.records import Entry, Journal, ProcessEnded, ProcessStarted, SandboxEnd
from skerry.wire.frames import STDERR, STDOUT
from skerry.wire.messages import Exit, OpenExec, Ready

ENDED_KEPT: Final = 1000
"""Ended processes kept in a sandbox; beyond it the one that started first goes, and its output with it."""

# A kill between the agent's last word and the journal's line leaves this much.
_UNRECORDED: Final = ProcessExit(
    reason=ProcessReason.SANDBOX_ENDED, evidence="it ended as the server was killed; how was not recorded"
)

OnExit = Callable[[ProcessId, ProcessExit], None]


class ProcessTable:
    """Every process of one sandbox, and the folder of their output."""

    def __init__(self, sandbox: SandboxId, folder: Path, quota: NodeQuota) -> None:
        self.sandbox = sandbox
        self.folder = folder
        self.end: SandboxEnd | None = None
        """How the sandbox ended, once the journal says so."""
        self._quota = quota.sandbox()
        self._journal = Journal(folder / "journal")
        self._processes: dict[ProcessId, NodeProcess] = {}
        self._streams: dict[int, ProcessId] = {}
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def all(self) -> list[NodeProcess]:
        return list(self._processes.values())

    def get(self, process: ProcessId) -> NodeProcess | None:
        return self._processes.get(process)

    async def start(
        self, link: AgentLink, view: ProcessView, op: OpenExec, *, oom_kills: Callable[[], int], on_exit: OnExit
    ) -> NodeProcess:
        """Return the process once the agent has started it; raises an Error if it could not."""
        channels = channels_of(op)
        output = self._output(view.id, channels)
        process = NodeProcess(view, output)
        self._processes[view.id] = process
        # Before the agent hears of it, so that a successor of ours knows every stream that the agent may tell.
        number = link.streams.last_stream + 1
        self._journal.add(
            ProcessStarted(
                process=view.id,
                stream=number,
                argv=view.argv,
                at=view.started_at,
                channels=channels,
                stdin=op.stdin == "pipe",
            )
        )
        self._streams[number] = view.id
        stream = link.open(op, sink=output)
        process.bind(stream)
        self._watch(process, stream, oom_kills, on_exit)
        try:
            await stream.started()
        except StreamError as refusal:
            self._drop(view.id)
            raise process_error(refusal) from refusal
        self._drop_oldest()
        return process

    def _output(self, process: ProcessId, channels: Sequence[int]) -> ProcessOutput:
        """Return the output of a process, of which channels that it does not have have ended."""
        output = ProcessOutput(self.folder, process, quota=self._quota)
        for channel in {STDOUT, STDERR} - set(channels):
            output.end(channel)
        return output

    def _watch(self, process: NodeProcess, stream: AgentStream, oom_kills: Callable[[], int], on_exit: OnExit) -> None:
        before = oom_kills()
        stream.exit.add_done_callback(partial(self._on_exit, process, before, oom_kills, on_exit))

    def _on_exit(
        self,
        process: NodeProcess,
        before: int,
        oom_kills: Callable[[], int],
        on_exit: OnExit,
        told: asyncio.Future[Exit],
    ) -> None:
        if told.cancelled() or told.exception() is not None:
            return  # the link was lost: an attach or the end of the sandbox says more
        seen = told.result()
        end = process_exit(
            code=seen.code,
            signal=seen.signal,
            reason=seen.reason,
            evidence=seen.evidence,
            oom_kills_before=before,
            # Only a SIGKILL can have been the kernel's; a file of a control group is slow to read.
            oom_kills=oom_kills() if seen.signal == SIGKILL else before,
        )
        if process.settle(end):
            self._journal.add(ProcessEnded(process=process.view.id, exit=end))
            on_exit(process.view.id, end)

    # After a restart

    def read(self) -> None:
        """Take up what the journal tells."""
        for entry in self._journal.read():
            self._take_up(entry)

    def _take_up(self, entry: Entry) -> None:
        if isinstance(entry, ProcessStarted):
            view = ProcessView(id=entry.process, sandbox=self.sandbox, argv=entry.argv, started_at=entry.at)
            output = self._output(entry.process, entry.channels)
            self._processes[entry.process] = NodeProcess(view, output)
            self._streams[entry.stream] = entry.process
        elif isinstance(entry, SandboxEnd):
            self.end = entry
            self._end_outputs()
        elif process := self._processes.get(entry.process):
            process.settle(entry.exit)

    def resume(self, link: AgentLink, ready: Ready, *, oom_kills: Callable[[], int], on_exit: OnExit) -> None:
        """Go on with the streams of an agent that was attached to again."""
        told = {state.stream: state for state in ready.streams}
        sinks = {
            number: self._processes[process].log
            for number, process in self._streams.items()
            if number in told and process in self._processes
        }
        for number, sink in sinks.items():
            for channel in told[number].channels:
                sink.log(channel.channel).skip_to(channel.acknowledged)
        for number, stream in link.resume(sinks).items():
            process = self._processes[self._streams[number]]
            process.bind(stream)
            self._watch(process, stream, oom_kills, on_exit)
        self._settle_untold(set(told))

    def _settle_untold(self, told: set[int]) -> None:
        """End what the agent has forgotten: it does so only after the end of a process was told."""
        for number, identifier in self._streams.items():
            process = self._processes.get(identifier)
            if process is not None and number not in told:
                _end_output(process)
                process.settle(_UNRECORDED)

    # The end

    def settle_all(self, end: SandboxExit, at: float) -> None:
        """Tell every process that is still running how its sandbox ended, and write that down."""
        for process in self._processes.values():
            rest = ended_with_sandbox(end)
            if process.settle(rest):
                self._journal.add(ProcessEnded(process=process.view.id, exit=rest))
        self._end_outputs()
        self.end = SandboxEnd(exit=end, at=at)
        self._journal.add(self.end)
        self._journal.close()

    def remove(self) -> None:
        """Delete the output and the journal."""
        for process in self._processes.values():
            process.log.remove()
        self._quota.close()
        self._journal.close()
        self._processes.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end_outputs(self) -> None:
        for process in self._processes.values():
            _end_output(process)

    def _drop_oldest(self) -> None:
        if len(self._processes) <= ENDED_KEPT:
            return
        ended = [identifier for identifier, process in self._processes.items() if process.ended]
        for identifier in ended[: len(self._processes) - ENDED_KEPT]:
            self._drop(identifier)

    def _drop(self, identifier: ProcessId) -> None:
        self._processes.pop(identifier).log.remove()


def _end_output(process: NodeProcess) -> None:
    process.log.end(STDOUT)
    process.log.end(STDERR)
