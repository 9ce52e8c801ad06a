"""What the engine asks of a store, of nodes, of images and of the clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from skerry.engine.vaults import SecretStore
from skerry.model.exits import ProcessExit, SandboxExit, SandboxReason
from skerry.model.ids import AppId, CommitId, ImageId, ProcessId, SandboxId, VolumeId
from skerry.model.nodes import Launch as Launch
from skerry.model.nodes import NodeView as NodeView
from skerry.model.nodes import RootImage as RootImage
from skerry.model.nodes import SandboxEnded as SandboxEnded
from skerry.model.nodes import Started as Started
from skerry.model.sandboxes import (
    EndedRow,
    FileChange,
    FileEntry,
    ImageView,
    ProcessView,
    SandboxFilter,
    SandboxView,
    StoredImage,
    Unpacked,
)
from skerry.model.secrets import NO_SECRETS, Hidden
from skerry.model.specs import ExecSpec, HostAccess, ImageConfig, ImageDefinition
from skerry.model.storage import StoredThing
from skerry.model.usage import SandboxUsage
from skerry.model.volumes import CommitView, VolumeView


class Clock(Protocol):
    """Where time comes from."""

    def now(self) -> float:
        """Unix seconds."""

    def monotonic(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...


class Output(Protocol):
    """One output channel of a process: bytes addressed by offset."""

    @property
    def base(self) -> int:
        """The oldest offset still kept."""

    @property
    def end(self) -> int: ...

    @property
    def ended(self) -> bool: ...

    async def read_old(self, offset: int, limit: int) -> tuple[int, bytes]:
        """Return what is kept at `offset`, or at `base` if that is later, and the offset at which it begins."""

    def times(self, offset: int) -> Sequence[tuple[int, float]]:
        """Return when the bytes from `offset` on came: pairs of offset and Unix seconds, the first for `offset`."""

    def offset_at(self, when: float) -> int:
        """Return where the bytes begin that came at a time or later, to the second; `end` if none did."""

    def follow(self, offset: int) -> AsyncIterator[tuple[int, bytes | memoryview]]:
        """Yield `(offset, bytes)` from `offset`, or from `base` if that is later, until the channel has ended."""


class ProcessHandle(Protocol):
    """A process in a sandbox, live or ended, as long as its output is kept."""

    @property
    def view(self) -> ProcessView: ...

    def output(self, channel: int) -> Output:
        """Channel 1 is stdout, 2 stderr."""

    @property
    def stdin_acknowledged(self) -> int:
        """How many bytes of stdin the process has taken."""

    @property
    def stdin_sent(self) -> int:
        """How many bytes of stdin were written, by whoever did, whether or not they are taken yet."""

    async def write_stdin(self, offset: int, data: bytes | memoryview, *, known: int | None = None) -> int:
        """Send bytes whose first has this offset, waiting while the process takes none; return what is acknowledged.

        That may be less than what was sent: it is told in batches. Bytes already taken are dropped; a gap, or a closed
        stdin, raises ConflictError. So does, with `details["writer"]`, what somebody else has written beyond the
        `known` bytes: those of the caller would be taken for a repetition of it.
        """

    async def end_stdin(self) -> None: ...

    async def signal(self, number: int) -> None:
        """Send a signal to the process group; a process that has ended is left alone."""

    async def resize(self, rows: int, columns: int) -> None:
        """Resize the terminal, and tell its foreground process group; raises ConflictError if there is none."""

    async def wait(self) -> ProcessExit: ...

    async def drain(self, still_s: float) -> None:
        """Let the output of an ended process arrive, until its channels end or nothing more comes for so long."""


class FileReading(Protocol):
    """A file being read."""

    @property
    def size(self) -> int:
        """How many bytes will come."""

    def chunks(self) -> AsyncIterator[bytes | memoryview]: ...

    async def close(self) -> None: ...


class FileWatching(Protocol):
    """A path being watched."""

    def changes(self) -> AsyncIterator[FileChange]:
        """Yield the changes from the time of the watch on, until its timeout."""

    async def close(self) -> None: ...


class NodeFiles(Protocol):
    """The files of one running sandbox. Errors are those of `SandboxFilesystemError`."""

    async def read(self, path: str, *, offset: int = 0, length: int | None = None) -> FileReading: ...

    async def write(
        self,
        path: str,
        chunks: AsyncIterator[bytes | memoryview],
        *,
        mode: int | None = None,
        parents: bool = True,
        append: bool = False,
    ) -> int:
        """Return the size once the file is in place; on any failure the old file is untouched."""

    async def pack(self, path: str) -> FileReading:
        """Return a file or a tree as one stream of records (wire/trees.py)."""

    async def unpack(
        self, path: str, chunks: AsyncIterator[bytes | memoryview], *, name: str | None = None, parents: bool = True
    ) -> Unpacked:
        """Make a file or a tree of such a stream: at `path`, or with `name` in the folder that is there."""

    def list(self, path: str) -> AsyncIterator[FileEntry]: ...

    async def stat(self, path: str) -> FileEntry: ...

    async def make_directory(self, path: str, *, mode: int = 0o755, parents: bool = True) -> None: ...

    async def remove(self, path: str, *, recursive: bool = False) -> None: ...

    async def rename(self, path: str, target: str) -> None:
        """Give a file or folder another name, in place of a file or an empty folder that has it."""

    async def watch(
        self, path: str, *, recursive: bool = False, kinds: Collection[str], timeout_s: float | None = None
    ) -> FileWatching:
        """Return once changes are noticed; those of these kinds, and what is lost."""


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


@dataclass(frozen=True, kw_only=True)
class BuildStep:
    """A build has come to step `index` of `count`, counted from 1."""

    index: int
    count: int
    title: str


@dataclass(frozen=True, kw_only=True)
class BuildOutput:
    """What a build printed: bytes of a guest, as text with replacements."""

    text: str


BuildEvent = BuildStep | BuildOutput


class Images(Protocol):
    """Images that can be started, and the way to new ones."""

    async def resolve(
        self,
        definition: ImageDefinition,
        host_access: HostAccess,
        force_build: bool,
        on_event: Callable[[BuildEvent], None],
    ) -> ImageView:
        """Return the image of a definition, built now if there is none; ten callers share one build.

        A caller that is cancelled does not end the build for the others. `on_event` never blocks.
        Raises ImageBuildError, InvalidError.
        """

    def get(self, image: ImageId) -> ImageView:
        """Raises NotFoundError."""

    def root(self, image: ImageId) -> RootImage:
        """Raises NotFoundError."""

    def in_use(self) -> Collection[ImageId]:
        """The images that builds need at this moment."""


class Bases(Protocol):
    """Where the images without steps come from."""

    def key(self, python_version: str | None) -> str:
        """Return what changes when the base would come out differently. Raises InvalidError for an unknown version."""

    async def make(self, python_version: str | None, into: Path, progress: Callable[[str], None]) -> ImageConfig:
        """Write the base to the file `into`. Raises ImageBuildError, InvalidError."""


class ImageFiles(Protocol):
    """The folder of image files."""

    def path(self, image: ImageId) -> Path: ...

    def draft(self) -> AbstractContextManager[Path]:
        """Yield a path where a file may be made; what is still there at the end is removed."""

    def keep(self, draft: Path, image: ImageId) -> int:
        """Make the draft the file of an image, durably, and return its size in bytes."""

    def share(self, parent: ImageId, image: ImageId) -> int:
        """Let an image have the same file as its parent; return its size in bytes."""

    def touch(self, image: ImageId) -> None:
        """Note that an image is used now; of one that is gone there is nothing to note."""

    def remove(self, image: ImageId) -> None:
        """Remove the file of an image, if it is there. Whoever has it open reads on."""

    def stored(self) -> Sequence[StoredImage]:
        """Every file of an image, with the time at which it was used last."""

    def free_bytes(self) -> int:
        """How much space their disk has."""


class CommitSize(Protocol):
    """How many files, folders and links a commit has, and the bytes of its files."""

    @property
    def files(self) -> int: ...

    @property
    def size(self) -> int: ...


class DataFolders(Protocol):
    """What a server keeps beside images, output and volumes."""

    async def look(self) -> Sequence[StoredThing]: ...


class VolumeDisk(Protocol):
    """Where volumes lie. Paths start at a volume's root; errors about files are those of `SandboxFilesystemError`."""

    async def make(self, volume: VolumeView) -> None:
        """Make an empty volume, on disk when this returns."""

    async def remove(self, volume: VolumeId) -> None:
        """Remove a volume with all its commits; raises ConflictError while anyone uses it."""

    def disk_bytes(self, volume: VolumeId) -> int: ...

    async def commit(self, volume: VolumeView, commit: CommitId, *, previous: CommitId | None) -> CommitSize:
        """Return once every file of the volume, and every folder, is on disk as this commit."""

    async def remove_commit(self, volume: VolumeId, commit: CommitId) -> None: ...

    def list(
        self, volume: VolumeId, path: str, *, recursive: bool = False, commit: CommitId | None = None
    ) -> AsyncIterator[FileEntry]: ...

    async def stat(self, volume: VolumeId, path: str, *, commit: CommitId | None = None) -> FileEntry: ...

    async def read(self, volume: VolumeId, path: str, *, commit: CommitId | None = None) -> FileReading: ...

    async def write(
        self, volume: VolumeId, path: str, chunks: AsyncIterator[bytes | memoryview], *, mode: int | None = None
    ) -> int:
        """Return the size once the file is in place; on any failure the old file is untouched."""

    async def remove_file(self, volume: VolumeId, path: str, *, recursive: bool = False) -> None: ...


class Store(Protocol):
    """Rows that outlive the server. Calls are short and synchronous for reads, committed when a write returns."""

    async def put_sandbox(self, view: SandboxView, *, idempotency_key: str | None = None) -> SandboxView:
        """Insert it, or return the sandbox that was made with the same key. What `host_access` holds is not stored.

        Raises AlreadyExistsError if another sandbox of the app has the name and has not ended.
        """

    async def update_sandbox(self, view: SandboxView) -> None:
        """Replace the row, but for its tags; a sandbox without one raises NotFoundError."""

    async def set_tags(self, sandbox: SandboxId, tags: Mapping[str, str]) -> None:
        """Replace the tags; a sandbox without a row raises NotFoundError."""

    def sandbox(self, sandbox: SandboxId) -> SandboxView | None: ...

    def sandbox_by_key(self, idempotency_key: str) -> SandboxView | None: ...

    def sandboxes(self, which: SandboxFilter) -> Sequence[SandboxView]: ...

    def live_sandboxes(self) -> Sequence[SandboxView]:
        """Every sandbox that has not ended."""

    def ended_sandboxes(self) -> Sequence[EndedRow]:
        """Every ended sandbox, the one that ended first in front."""

    async def delete_sandbox(self, sandbox: SandboxId) -> None:
        """Delete the row, and with it the idempotency key; deleting it again changes nothing."""

    async def app(self, name: str, *, create: bool) -> AppId | None: ...

    def app_name(self, app: AppId) -> str | None: ...

    async def put_image(self, view: ImageView, definition: ImageDefinition) -> None: ...

    def image(self, image: ImageId) -> ImageView | None: ...

    def image_by_key(self, definition_key: str) -> ImageView | None:
        """Return the newest image of a definition."""

    def images(self) -> Sequence[ImageId]:
        """Every image."""

    async def delete_image(self, image: ImageId) -> None:
        """Delete the row; deleting it again changes nothing."""

    async def put_volume(self, volume: VolumeView) -> None:
        """Insert it; on disk when this returns, whatever becomes of the machine."""

    def volume(self, volume: VolumeId) -> VolumeView | None: ...

    def volume_by_name(self, name: str) -> VolumeView | None: ...

    def volumes(self) -> Sequence[VolumeView]:
        """Every volume, by name."""

    async def delete_volume(self, volume: VolumeId) -> None:
        """Delete the row and those of its commits; deleting it again changes nothing."""

    async def put_commit(self, commit: CommitView, *, idempotency_key: str | None = None) -> None:
        """Insert it; on disk when this returns, whatever becomes of the machine."""

    def commits(self, volume: VolumeId) -> Sequence[CommitView]:
        """The commits of a volume, the newest first."""

    def commit_by_key(self, idempotency_key: str) -> CommitView | None: ...

    async def delete_commit(self, commit: CommitId) -> None:
        """Delete the row; deleting it again changes nothing."""

    @property
    def secrets(self) -> SecretStore: ...
