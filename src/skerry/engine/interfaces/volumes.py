"""What the engine asks of the disk of volumes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from skerry.engine.interfaces.files import FileReading
from skerry.model.ids import CommitId, VolumeId
from skerry.model.sandboxes import FileEntry
from skerry.model.volumes import VolumeView


class CommitSize(Protocol):
    """How many files, folders and links a commit has, and the bytes of its files."""

    @property
    def files(self) -> int: ...

    @property
    def size(self) -> int: ...


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
