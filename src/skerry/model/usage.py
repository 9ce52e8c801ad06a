"""What a sandbox takes from the machine at a moment."""

from __future__ import annotations

from dataclasses import dataclass

from skerry.model.ids import SandboxId


@dataclass(frozen=True, kw_only=True)
class SandboxUsage:
    """One sample. What counts up (CPU time, traffic) does so from its start; two samples make a rate.

    `memory_bytes` is what the machine holds for it: its files in memory, which are `file_bytes`, and gVisor's kernel go
    along. `processes` counts those inside, its agent left out. None is what could not be found out: gVisor did not
    answer in time, or there is no network.
    """

    id: SandboxId
    at: float
    cpu_seconds: float
    memory_bytes: int
    file_bytes: int | None = None
    processes: int | None = None
    received_bytes: int | None = None
    sent_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class MemberUsage:
    """What the backend knows of a member: the size of its writable files, and how many processes run in it."""

    file_bytes: int
    processes: int
