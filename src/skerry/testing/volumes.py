"""Volumes in memory: where they lie for an engine, and who holds them for a node."""

from __future__ import annotations

import copy
import posixpath
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from skerry.engine.interfaces import Clock
from skerry.model.errors import ConflictError, InvalidError, SandboxFilesystemNoSpaceError
from skerry.model.ids import CommitId, VolumeId
from skerry.model.sandboxes import FileEntry
from skerry.model.volumes import VolumeView
from skerry.testing.files import MemoryFiles, MemoryReading


@dataclass(frozen=True)
class MemoryCommitSize:
    """Matches the engine's `CommitSize`."""

    files: int
    size: int


@dataclass
class MemoryVolumes:
    """Matches the engine's `VolumeDisk`. A volume in `busy` is held by somebody."""

    clock: Clock
    trees: dict[VolumeId, MemoryFiles] = field(default_factory=dict)
    sizes: dict[VolumeId, int] = field(default_factory=dict)
    commits: dict[CommitId, MemoryFiles] = field(default_factory=dict)
    busy: set[VolumeId] = field(default_factory=set)

    async def make(self, volume: VolumeView) -> None:
        self.trees[volume.id] = _empty(self.clock)
        self.sizes[volume.id] = volume.size_bytes

    async def remove(self, volume: VolumeId) -> None:
        if volume in self.busy:
            raise ConflictError(f"volume {volume} is in use; try again when that is over")
        self.trees.pop(volume, None)

    def disk_bytes(self, volume: VolumeId) -> int:
        return sum(map(len, self.trees[volume].contents.values()))

    async def commit(self, volume: VolumeView, commit: CommitId, *, previous: CommitId | None) -> MemoryCommitSize:
        files = self.trees[volume.id]
        kept = self.commits[commit] = _empty(self.clock)
        kept.contents, kept.directories = dict(files.contents), set(files.directories)
        kept.modes = copy.copy(files.modes)
        count = len(files.contents) + len(files.directories) - 1
        return MemoryCommitSize(count, sum(map(len, files.contents.values())))

    async def remove_commit(self, volume: VolumeId, commit: CommitId) -> None:
        self.commits.pop(commit, None)

    async def list(
        self, volume: VolumeId, path: str, *, recursive: bool = False, commit: CommitId | None = None
    ) -> AsyncIterator[FileEntry]:
        files = self._files(volume, commit)
        async for one in files.list(_path(path)):
            yield one
            if recursive and one.type == "directory":
                async for inner in self.list(volume, one.path, recursive=True, commit=commit):
                    yield inner

    async def stat(self, volume: VolumeId, path: str, *, commit: CommitId | None = None) -> FileEntry:
        return await self._files(volume, commit).stat(_path(path))

    async def read(self, volume: VolumeId, path: str, *, commit: CommitId | None = None) -> MemoryReading:
        return await self._files(volume, commit).read(_path(path))

    async def write(
        self, volume: VolumeId, path: str, chunks: AsyncIterator[bytes | memoryview], *, mode: int | None = None
    ) -> int:
        if self.disk_bytes(volume) >= self.sizes[volume]:
            raise SandboxFilesystemNoSpaceError(f"{path}: the volume is full; remove something from it")
        return await self.trees[volume].write(_path(path), chunks, mode=mode)

    async def remove_file(self, volume: VolumeId, path: str, *, recursive: bool = False) -> None:
        await self.trees[volume].remove(_path(path), recursive=recursive)

    def _files(self, volume: VolumeId, commit: CommitId | None) -> MemoryFiles:
        return self.trees[volume] if commit is None else self.commits[commit]


class FakeMounts:
    """Matches `skerry.node.interfaces.VolumeMounts`; `holders` outlive a node as mounts do."""

    def __init__(self, folder: Path = Path("/volumes")) -> None:
        self._folder = folder
        self.holders: dict[VolumeId, set[str]] = {}

    async def hold(self, volume: VolumeId, holder: str) -> Path:
        self.holders.setdefault(volume, set()).add(holder)
        return self._folder / volume

    async def release(self, volume: VolumeId, holder: str) -> None:
        self.holders.get(volume, set()).discard(holder)

    async def sweep(self) -> Sequence[str]:
        return ()


def _empty(clock: Clock) -> MemoryFiles:
    files = MemoryFiles(clock)
    files.directories = {"/"}
    return files


def _path(path: str) -> str:
    if ".." in path.split("/"):
        raise InvalidError(f"path {path} holds '..'; a path in a volume starts at the volume's root")
    return posixpath.normpath("/" + path.lstrip("/"))
