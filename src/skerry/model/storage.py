"""What a server keeps on its disk, what it costs, and what may go."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class StoredKind(StrEnum):
    """What a stored thing is."""

    IMAGE = "image"
    OUTPUT = "output"
    VOLUME = "volume"
    TRUST = "trust"
    AGENT = "agent"
    BUILD = "build"
    SERVER = "server"


@dataclass(frozen=True, kw_only=True)
class StoredThing:
    """One thing on the disk. `goes` tells whether it may go now, and `why` says why, or why it stays."""

    kind: StoredKind
    id: str
    bytes: int
    used_at: float | None = None
    goes: bool = False
    why: str
