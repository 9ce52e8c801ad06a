"""What the engine asks of a node."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from skerry.engine.interfaces.files import NodeFiles
from skerry.engine.interfaces.processes import ProcessHandle
from skerry.model.exits import SandboxExit, SandboxReason
from skerry.model.ids import ProcessId, SandboxId
from skerry.model.nodes import Launch, NodeView, SandboxEnded, Started
from skerry.model.secrets import NO_SECRETS, Hidden
from skerry.model.specs import ExecSpec
from skerry.model.usage import SandboxUsage


class NodeHandle(Protocol):
    """One node, in this process or elsewhere."""

    def view(self) -> NodeView: ...

    async def start(self, launch: Launch, secrets: Hidden = NO_SECRETS) -> Started:
        """Return when the sandbox runs; its processes have `secrets` too, below the variables of the spec.

        On any failure nothing of it is left, and StartFailedError says the stage. What it asks for counts in `view()`
        before the call first waits for anything.
        """

    async def terminate(self, sandbox: SandboxId, reason: SandboxReason = SandboxReason.TERMINATED) -> SandboxExit:
        """End it; the exit that it had already, if it had one."""

    async def exec(self, sandbox: SandboxId, process: ProcessId, spec: ExecSpec) -> ProcessHandle:
        """Return the process once it has started. A process id that exists returns that process.

        Raises SandboxEndedError, NotFoundError, InvalidError.
        """

    def process(self, sandbox: SandboxId, process: ProcessId) -> ProcessHandle:
        """Raises NotFoundError."""

    def processes(self, sandbox: SandboxId) -> Sequence[ProcessHandle]: ...

    def files(self, sandbox: SandboxId) -> NodeFiles:
        """Raises NotFoundError or SandboxEndedError."""

    def use(self, sandbox: SandboxId) -> AbstractContextManager[None]:
        """Keep its idle time from running while the block lasts; of one that has ended nothing is kept.

        A running process other than the entrypoint does the same, whoever started it.
        """

    def idle_since(self, sandbox: SandboxId) -> float | None:
        """Since when nobody uses it, in Unix seconds; None while somebody does, and of one that does not run here."""

    async def usage(self, sandboxes: Collection[SandboxId]) -> Sequence[SandboxUsage]:
        """Return what each of them takes from the machine now; those that do not run here are left out."""

    async def wait_ended(self, sandbox: SandboxId) -> SandboxEnded: ...

    def volumes_lost(self, sandbox: SandboxId) -> bool:
        """Tell whether the volumes of a running sandbox answer only errors any more."""

    def kept(self) -> Collection[SandboxId]:
        """The ended sandboxes whose output is kept."""

    def output_bytes(self, sandbox: SandboxId) -> int:
        """How much output is kept of a sandbox, at once and without reading any; 0 of one that is not known."""

    def forget(self, sandbox: SandboxId) -> None:
        """Delete the output of an ended sandbox."""

    async def pack_build(self, sandbox: SandboxId, into: Path) -> Sequence[str]:
        """Write the whole root file system of a build sandbox as an EROFS file to `into`.

        Return what an image cannot hold (devices): each path in quotes, its control characters escaped.
        """

    def ended_since_start(self) -> AsyncIterator[SandboxEnded]:
        """Yield each end, those found at the node's own start first, for as long as the engine listens."""

    def running(self) -> Mapping[SandboxId, Started]:
        """The sandboxes that live here, adopted ones included."""
