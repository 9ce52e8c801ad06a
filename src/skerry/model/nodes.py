"""What the engine and its nodes say to each other: a sandbox to start, what came of it, what a node has room for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from skerry.model.exits import SandboxExit
from skerry.model.ids import NodeId, ProcessId, SandboxId
from skerry.model.sandboxes import Stage
from skerry.model.specs import ImageConfig, SandboxSpec


@dataclass(frozen=True, kw_only=True)
class NodeView:
    """What placement knows of a node. CPU in cores, memory in MiB; `reserved` is the sum of requests."""

    id: NodeId
    cpus: float
    memory_mib: int
    reserved_cpus: float
    reserved_memory_mib: int
    sandboxes: int
    sandboxes_max: int


@dataclass(frozen=True, kw_only=True)
class RootImage:
    """An image as a node starts it: the EROFS file, and how processes start in it."""

    file: Path
    config: ImageConfig = field(default_factory=ImageConfig)


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A sandbox to start on a node. `build_disk` puts the writable layer on disk and keeps it for the builder."""

    sandbox: SandboxId
    spec: SandboxSpec
    image: RootImage
    entrypoint: ProcessId | None = None
    build_disk_mib: int | None = None


@dataclass(frozen=True, kw_only=True)
class Started:
    """A sandbox that runs. `started_at` in Unix seconds."""

    started_at: float
    stages: tuple[Stage, ...]


@dataclass(frozen=True, kw_only=True)
class SandboxEnded:
    """A node says that a sandbox has ended and that nothing of it is left."""

    sandbox: SandboxId
    exit: SandboxExit
    at: float
