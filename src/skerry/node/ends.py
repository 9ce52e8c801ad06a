"""Why a sandbox ended, decided from what its node saw. Pure: the supervisor collects, these functions judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from skerry.model.exits import SIGKILL, ProcessExit, ProcessReason, SandboxExit, SandboxReason

# A clock may be read a moment before the keeper's timer fires; the keeper itself is exact.
LIFETIME_SLACK_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a node saw of the end of a sandbox. Times are Unix seconds."""

    now: float
    deadline: float | None
    asked: SandboxReason | None = None  # somebody ended it on purpose
    entrypoint: ProcessExit | None = None
    violation: str | None = None  # the rule of the agent protocol that its agent broke
    silent: str | None = None  # why its agent was given up, though its pipes are open
    sentry_alive: bool = True
    oom_kills: int = 0


def sandbox_exit(seen: Seen) -> SandboxExit:
    """Return the exit of a sandbox. What was decided on purpose comes first, then the nearest cause."""
    if seen.asked is not None:
        return SandboxExit(reason=seen.asked, evidence=_asked(seen.asked))
    if seen.violation is not None:
        evidence = f"its agent broke the protocol: {seen.violation}"
        return SandboxExit(reason=SandboxReason.GUEST_BROKEN, evidence=evidence)
    if seen.entrypoint is not None:
        return _of_entrypoint(seen.entrypoint)
    if _lifetime_over(seen):
        return SandboxExit(reason=SandboxReason.LIFETIME, evidence="the lifetime was over")
    if seen.oom_kills:
        evidence = f"the memory limit was reached; the kernel killed {seen.oom_kills} of its processes"
        return SandboxExit(reason=SandboxReason.OUT_OF_MEMORY, evidence=evidence)
    if not seen.sentry_alive:
        return SandboxExit(reason=SandboxReason.GUEST_BROKEN, evidence="its gVisor kernel ended unexpectedly")
    if seen.silent is not None:
        return SandboxExit(reason=SandboxReason.GUEST_BROKEN, evidence=seen.silent)
    return SandboxExit(reason=SandboxReason.GUEST_BROKEN, evidence="its agent ended unexpectedly")


def _asked(reason: SandboxReason) -> str:
    return {
        SandboxReason.TERMINATED: "terminate was called",
        SandboxReason.LIFETIME: "the lifetime was over, and the node ended it",
        SandboxReason.IDLE_TIMEOUT: "nobody used it for its idle timeout",
        SandboxReason.EVICTED: "the node gave its place away",
    }.get(reason, "")


def _of_entrypoint(end: ProcessExit) -> SandboxExit:
    if end.reason is ProcessReason.OUT_OF_MEMORY:
        return SandboxExit(reason=SandboxReason.OUT_OF_MEMORY, signal=end.signal, evidence=end.evidence)
    if end.signal is not None:
        return SandboxExit(reason=SandboxReason.SIGNALED, signal=end.signal, evidence=end.evidence)
    return SandboxExit(reason=SandboxReason.EXITED, code=end.code, evidence=end.evidence)


def _lifetime_over(seen: Seen) -> bool:
    return seen.deadline is not None and seen.now >= seen.deadline - LIFETIME_SLACK_S


class MemoryKills:
    """Which of the kernel's kills for lack of memory have been told as the end of a process.

    The kernel only counts them. Each is told once, so that a process killed otherwise later is not taken for one.
    """

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count
        self.told = 0

    def take(self) -> bool:
        """Tell whether there is a kill that was not told yet, and count it as told."""
        if not self.untold():
            return False
        self.told += 1
        return True

    def untold(self) -> int:
        return max(0, self._count() - self.told)


def process_exit(
    *, code: int | None, signal: int | None, reason: str, evidence: str, out_of_memory: bool
) -> ProcessExit:
    """Return the exit of a process from what its agent told.

    A process that the kernel kills for memory looks to the agent like any other that got SIGKILL.
    """
    if out_of_memory:
        text = "the sandbox's memory limit was reached and the kernel killed it"
        return ProcessExit(reason=ProcessReason.OUT_OF_MEMORY, signal=signal, evidence=text)
    # An exit code speaks for itself.
    text = "" if reason == ProcessReason.EXITED else evidence
    return ProcessExit(reason=ProcessReason(reason), code=code, signal=signal, evidence=text)


def ended_with_sandbox(exit_: SandboxExit) -> ProcessExit:
    """Return the exit of a process that was still running when its sandbox ended."""
    evidence = f"the sandbox ended: {exit_.reason}" + (f" ({exit_.evidence})" if exit_.evidence else "")
    if exit_.reason is SandboxReason.OUT_OF_MEMORY:
        return ProcessExit(reason=ProcessReason.OUT_OF_MEMORY, signal=SIGKILL, evidence=evidence)
    return ProcessExit(reason=ProcessReason.SANDBOX_ENDED, signal=SIGKILL, evidence=evidence)
