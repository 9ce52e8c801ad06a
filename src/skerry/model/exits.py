"""Why a sandbox or a process ended. The lists are closed: every end has one of these reasons, with its evidence."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class SandboxReason(StrEnum):
    """Why a sandbox ended."""

    EXITED = "exited"
    SIGNALED = "signaled"
    OUT_OF_MEMORY = "out_of_memory"
    LIFETIME = "lifetime"
    IDLE = "idle"
    TERMINATED = "terminated"
    EVICTED = "evicted"
    GUEST_BROKEN = "guest_broken"
    START_FAILED = "start_failed"
    NODE_LOST = "node_lost"


class ProcessReason(StrEnum):
    """Why a process ended."""

    EXITED = "exited"
    SIGNALED = "signaled"
    KILLED = "killed"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    SANDBOX_ENDED = "sandbox_ended"


SIGKILL = 9
# What a caller sees as return code when there is no exit code of a program: the convention of Modal's clients.
_RETURNCODES = {SandboxReason.LIFETIME: 124}


@dataclass(frozen=True, kw_only=True)
class SandboxExit:
    """The end of a sandbox. `code` or `signal` is the entrypoint's, where it had an end of its own."""

    reason: SandboxReason
    code: int | None = None
    signal: int | None = None
    evidence: str = ""

    @property
    def returncode(self) -> int:
        """The exit code, 128 + signal, 124 at the end of the lifetime, else 137."""
        if self.code is not None:
            return self.code
        if self.signal is not None:
            return 128 + self.signal
        return _RETURNCODES.get(self.reason, 128 + SIGKILL)


@dataclass(frozen=True, kw_only=True)
class ProcessExit:
    """The end of a process: `code` or `signal`, and the reason."""

    reason: ProcessReason
    code: int | None = None
    signal: int | None = None
    evidence: str = ""

    @property
    def returncode(self) -> int:
        """The exit code, or 128 + signal."""
        if self.code is not None:
            return self.code
        return 128 + (self.signal or SIGKILL)
