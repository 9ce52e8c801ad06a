"""What a node asks of an isolation backend and of the machine's control groups."""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Sequence
from pathlib import Path
from typing import Protocol

from skerry.model.ids import SandboxId, VolumeId
from skerry.model.members import AgentPipes, Claim, MemberRecord, MemberSpec, MountedVolume, Nic
from skerry.model.secrets import Sealed
from skerry.model.usage import MemberUsage


class Vault(Protocol):
    """Encrypts what is written down, with keys that lie elsewhere."""

    def seal(self, plain: bytes, context: str) -> Sealed: ...

    def open(self, sealed: Sealed, context: str) -> bytes:
        """Raises ConflictError if the key is gone, or if it was changed."""


class Member(Protocol):
    """A booted sandbox. Every call is bounded in time by the backend and raises StartFailedError or an Error."""

    @property
    def record(self) -> MemberRecord: ...

    async def set_lifetime(self, seconds: float) -> None:
        """Let the keeper end the sandbox in `seconds` from now, whether or not a server is there."""

    async def plug(self, nic: Nic) -> None:
        """Give the sandbox a network card."""

    async def claim(self, claim: Claim, hello: bytes = b"") -> AgentPipes:
        """Start the user's container and return the pipes to its agent; at most once.

        `hello`, at most `select.PIPE_BUF` bytes, is in the first already, so that the agent need not wait for it.
        """

    async def attach(self, hello: bytes) -> AgentPipes:
        """Return new pipes to the agent of a claimed member, with `hello` already written to the first."""

    async def save_upper(self, archive_fd: int) -> None:
        """Write the writable layer of the user's container, as a tar archive, to an open file or a pipe."""

    async def wait_ended(self) -> None:
        """Return when the sentry is gone, whatever ended it."""

    async def wait_volumes_lost(self) -> None:
        """Return when the volumes answer only errors any more, though the sandbox lives; never where it has none."""

    async def usage(self) -> MemberUsage:
        """Return what it holds, within a second; raises Error if it cannot tell, or tells what cannot be."""

    def last_words(self) -> str:
        """Return the last lines that its kernel and its agent said on stderr, escaped; empty if nothing."""

    def alive(self) -> bool:
        """Tell whether the sentry is there, from the process and not from memory."""

    async def destroy(self) -> None:
        """End it and leave nothing behind: no process, mount, file or state. May be repeated."""


class Backend(Protocol):
    """One way to isolate."""

    async def probe(self) -> None:
        """Raise IsolationUnavailableError, with the cause and the next step, if it cannot run here."""

    async def boot(self, spec: MemberSpec, volumes: Awaitable[Sequence[MountedVolume]] | None = None) -> Member:
        """Return a member that may be claimed; `set_lifetime` returns once its keeper has answered.

        `volumes` are there for its claim. They are awaited while it boots, since mounting them takes time too.
        """

    async def adopt(self, record: MemberRecord) -> Member | None:
        """Return the member of an earlier node, or None if it has ended (what it left is then removed)."""

    async def sweep(self, keep: Collection[SandboxId]) -> Sequence[str]:
        """Remove what belongs to no sandbox in `keep`, and say what it was, a line each."""


class VolumeMounts(Protocol):
    """The volumes of this machine, each mounted while anyone holds it."""

    async def hold(self, volume: VolumeId, holder: str) -> Path:
        """Return the root of a volume, which stays there until `holder` lets go of it; raises ConflictError."""

    async def release(self, volume: VolumeId, holder: str) -> None:
        """Let go of it; may be repeated."""

    async def sweep(self) -> Sequence[str]:
        """Unmount what nobody holds, and say what it was, a line each."""


class Cgroup(Protocol):
    """The control group of one sandbox."""

    @property
    def procs(self) -> tuple[Path, ...]:
        """The files in which a process joins by writing 0, as long as it has one thread."""

    def limit(self, *, memory_mib: int, cpus: float, processes: int) -> None:
        """Set the limits. `processes` counts host processes and is only a backstop."""

    def oom_kills(self) -> int:
        """How many processes the kernel has killed here for lack of memory."""

    def memory_bytes(self) -> int: ...

    def memory_peak_bytes(self) -> int: ...

    def cpu_seconds(self) -> float: ...

    def members(self) -> Collection[int]:
        """The pids in it."""

    def remove(self) -> None:
        """Kill what is left in it and remove it; raises InternalError if it does not go within two seconds."""


class Cgroups(Protocol):
    """The machine's control groups, whatever their version."""

    def make(self, sandbox: SandboxId) -> Cgroup: ...

    def find(self, sandbox: SandboxId) -> Cgroup | None: ...

    def sweep(self, keep: Collection[SandboxId]) -> Sequence[str]: ...

    def close(self) -> None:
        """Remove what all sandboxes shared; to be called when none is left."""
