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
    IDLE_TIMEOUT = "idle_timeout"
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
class _Exit:
    """What every exit has: `code` or `signal`, where a process had one, and the evidence for the reason."""

    code: int | None = None
    signal: int | None = None
    evidence: str = ""

    def _own_returncode(self) -> int | None:
        """The exit code, or 128 + signal; None if there is neither."""
        if self.code is not None:
            return self.code
        return None if self.signal is None else 128 + self.signal


@dataclass(frozen=True, kw_only=True)
class SandboxExit(_Exit):
    """The end of a sandbox. `code` or `signal` is the entrypoint's, where it had an end of its own."""

    reason: SandboxReason

    @property
    def returncode(self) -> int:
        """The exit code, 128 + signal, 124 at the end of the lifetime, else 137."""
        own = self._own_returncode()
        return _RETURNCODES.get(self.reason, 128 + SIGKILL) if own is None else own


@dataclass(frozen=True, kw_only=True)
class ProcessExit(_Exit):
    """The end of a process: `code` or `signal`, and the reason."""

    reason: ProcessReason

    @property
    def returncode(self) -> int:
        """The exit code, or 128 + signal."""
        own = self._own_returncode()
        return 128 + SIGKILL if own is None else own
