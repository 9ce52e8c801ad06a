"""Processes in sandboxes: started, found again, followed, signalled."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Final

from skerry.engine.admission import admit_exec, check_size
from skerry.engine.interfaces import NodeHandle, ProcessHandle
from skerry.engine.sandboxes import Sandboxes
from skerry.engine.secrets import Secrets
from skerry.model.errors import InvalidError, NotFoundError
from skerry.model.ids import PROCESS, ProcessId, SandboxId, is_id
from skerry.model.sandboxes import ProcessView
from skerry.model.secrets import SecretAsk
from skerry.model.specs import ExecSpec
from skerry.model.text import escaped

ENTRYPOINT: Final = "entrypoint"
"""The name by which the first process of a sandbox can be asked for."""
SIGNAL_MAX: Final = 64
SENT_MAX: Final = 10_000
"""How many keys of signals are remembered; beyond it the oldest go."""


class Processes:
    """The processes of all sandboxes. What a process has written outlives it, and its sandbox, until retention."""

    def __init__(self, *, sandboxes: Sandboxes, secrets: Secrets) -> None:
        self._sandboxes = sandboxes
        self._secrets = secrets
        self._sent = _Recent(SENT_MAX)

    async def exec(
        self, sandbox: SandboxId, process: str, spec: ExecSpec, *, secrets: Sequence[SecretAsk] = ()
    ) -> ProcessHandle:
        """Return the process once it has started; an id that was used before finds that process.

        It has the variables of `secrets` too, below those of the spec.

        Raises InvalidError, NotFoundError, SandboxEndedError.
        """
        if not is_id(process, PROCESS):
            raise InvalidError(f"{escaped(process, limit=64)} is no process id; make one as `pr_` and 20 characters")
        node = await self._sandboxes.running_node(sandbox)
        if secrets and not _knows(node, sandbox, ProcessId(process)):
            hidden = await self._secrets.resolve(secrets)
            spec = replace(spec, env={**hidden.reveal(), **spec.env})
        return await node.exec(sandbox, ProcessId(process), admit_exec(spec))

    def get(self, sandbox: SandboxId, process: str) -> ProcessHandle:
        """Return a process by its id, or the entrypoint by that name; raises NotFoundError."""
        view = self._sandboxes.get(sandbox)
        if process == ENTRYPOINT:
            if view.entrypoint is None:
                raise NotFoundError(
                    f"sandbox {sandbox} has no entrypoint, it was created without a command; name one of its processes"
                )
            process = view.entrypoint
        return self._sandboxes.node_of(sandbox).process(sandbox, ProcessId(process))

    def list(self, sandbox: SandboxId) -> Sequence[ProcessView]:
        """Return what is known of the processes of a sandbox, in the order of their start."""
        handles = self._sandboxes.node_of(sandbox).processes(sandbox)
        return sorted((handle.view for handle in handles), key=lambda view: view.started_at)

    async def wait(self, sandbox: SandboxId, process: str) -> ProcessView:
        """Return the process once it has ended."""
        handle = self.get(sandbox, process)
        await handle.wait()
        return handle.view

    async def signal(
        self, sandbox: SandboxId, process: str, number: int, *, idempotency_key: str | None = None
    ) -> None:
        """Send a signal to the process group, once for each key; a process that has ended is left alone."""
        if not 1 <= number <= SIGNAL_MAX:
            raise InvalidError(f"signal {number} does not exist; give a number from 1 to {SIGNAL_MAX}")
        handle = self.get(sandbox, process)
        if idempotency_key is None or self._sent.add((sandbox, handle.view.id, idempotency_key)):
            await handle.signal(number)

    async def resize(self, sandbox: SandboxId, process: str, *, rows: int, columns: int) -> None:
        """Resize the terminal of a process; one that has ended is left alone. Raises ConflictError if it has none."""
        check_size(rows, columns)
        await self.get(sandbox, process).resize(rows, columns)


def _knows(node: NodeHandle, sandbox: SandboxId, process: ProcessId) -> bool:
    """Tell whether a request is repeated: its process is found, whatever has become of its secrets meanwhile."""
    try:
        node.process(sandbox, process)
    except NotFoundError:
        return False
    return True


class _Recent:
    """The newest things that were added, up to a bound."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._things: dict[Hashable, None] = {}

    def add(self, thing: Hashable) -> bool:
        """Remember a thing; tell whether it is new."""
        if thing in self._things:
            return False
        self._things[thing] = None
        if len(self._things) > self._bound:
            del self._things[next(iter(self._things))]
        return True
