"""What is known of a sandbox and of its processes, for everyone who asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from skerry.model.errors import AlreadyExistsError
from skerry.model.exits import ProcessExit, SandboxExit
from skerry.model.ids import AppId, ImageId, NodeId, ProcessId, SandboxId
from skerry.model.specs import SandboxSpec


class SandboxState(StrEnum):
    """pending -> starting -> running -> stopping -> stopped; `failed` is the end of a start that did not succeed."""

    PENDING = "pending"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        return self in (SandboxState.STOPPED, SandboxState.FAILED)


_NEXT: Mapping[SandboxState, tuple[SandboxState, ...]] = {
    SandboxState.PENDING: (SandboxState.STARTING, SandboxState.FAILED),
    SandboxState.STARTING: (SandboxState.RUNNING, SandboxState.STOPPING, SandboxState.FAILED),
    SandboxState.RUNNING: (SandboxState.STOPPING, SandboxState.STOPPED),
    SandboxState.STOPPING: (SandboxState.STOPPED, SandboxState.FAILED),
    SandboxState.STOPPED: (),
    SandboxState.FAILED: (),
}


def may_follow(current: SandboxState, following: SandboxState) -> bool:
    """Tell whether a sandbox may go from `current` to `following`."""
    return following in _NEXT[current]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stretch of a start: its name and its length, in milliseconds."""

    name: str
    ms: float


@dataclass(frozen=True, kw_only=True)
class SandboxView:
    """A sandbox as its owner sees it. Times are Unix seconds.

    Two are what its node says at this moment, and never stored: `idle_since`, None while somebody uses it, or once it
    ended; `volumes_lost`, that its volumes answer only errors any more since the process that served them has ended.
    """

    id: SandboxId
    spec: SandboxSpec
    state: SandboxState
    node: NodeId
    created_at: float
    app_name: str | None = None
    started_at: float | None = None
    ended_at: float | None = None
    exit: SandboxExit | None = None
    entrypoint: ProcessId | None = None
    stages: tuple[Stage, ...] = ()
    idle_since: float | None = None
    volumes_lost: bool = False

    @property
    def deadline(self) -> float | None:
        """When its lifetime is over, in Unix seconds; None before it has started."""
        return None if self.started_at is None else self.started_at + self.spec.lifetime_s

    @property
    def idle_deadline(self) -> float | None:
        """When it ends if nobody uses it before, in Unix seconds; None while it is in use, or without such a bound."""
        if self.idle_since is None or self.spec.idle_timeout_s is None:
            return None
        return self.idle_since + self.spec.idle_timeout_s


@dataclass(frozen=True, kw_only=True)
class SandboxFilter:
    """Which sandboxes to list: newest first, created strictly before `before`, with at least these tags."""

    app: AppId | None = None
    name: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    include_ended: bool = False
    before: float | None = None
    limit: int = 100


def name_taken(wanted: SandboxView, holder: SandboxId) -> AlreadyExistsError:
    """Return the error for a sandbox whose name another one has that has not ended."""
    where = "outside all apps" if wanted.app_name is None else f"in app {wanted.app_name!r}"
    return AlreadyExistsError(
        f"the name {wanted.spec.name!r} is in use {where} by sandbox {holder}; terminate that one or take another name",
        sandbox=holder,
    )


@dataclass(frozen=True, kw_only=True)
class EndedRow:
    """What retention needs to know of an ended sandbox."""

    id: SandboxId
    node: NodeId
    ended_at: float


@dataclass(frozen=True, kw_only=True)
class ProcessView:
    """A process as its owner sees it."""

    id: ProcessId
    sandbox: SandboxId
    argv: tuple[str, ...]
    started_at: float
    terminal: bool = False
    exit: ProcessExit | None = None


@dataclass(frozen=True, kw_only=True)
class KeptOutput:
    """One output channel of a process as it is kept at a moment: 1 is stdout, 2 stderr.

    `start` is where what was asked for begins, at `base` or behind it; `cut` says that it is in the middle of a line
    because the line is longer than is looked for. `times` tells when the bytes from `start` on came, as pairs of offset
    and Unix seconds.
    """

    channel: int
    base: int
    start: int
    end: int
    ended: bool
    cut: bool = False
    times: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One entry of a sandbox's file system. `mode` is the whole st_mode; `modified` Unix seconds."""

    name: str
    path: str
    type: str
    size: int
    mode: int
    owner: str
    group: str
    modified: float
    target: str | None = None

    @property
    def permissions(self) -> str:
        """The permission bits as four octal digits."""
        return f"{self.mode & 0o7777:04o}"


@dataclass(frozen=True, kw_only=True)
class Unpacked:
    """A tree that was copied into a sandbox: where its root is, its entries, and the bytes of its files."""

    path: str
    entries: int
    size: int


FILE_CHANGES = frozenset({"create", "modify", "remove", "move", "access"})
"""The kinds of changes that a watch can be asked for."""


@dataclass(frozen=True, kw_only=True)
class FileChange:
    """A change in a watched tree: one of FILE_CHANGES, or `overflow` for what was lost.

    `paths` is what changed, for a move the old and the new path as far as they are watched, for an overflow what is
    watched.
    """

    kind: str
    paths: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ImageView:
    """An image that can be started: its file, its configuration, its size in bytes."""

    id: ImageId
    definition_key: str
    size: int
    created_at: float
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "root"
    command: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StoredImage:
    """The file of an image, as it lies on the disk. Images with the same file have the same inode."""

    id: ImageId
    inode: int
    size: int
    used_at: float
