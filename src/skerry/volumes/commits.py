"""Commits of one volume: a list of all that was in it, and the contents of its files as blobs.

What a commit has told nobody can change: it lies beside the volume, not in it, and is only ever removed as a whole.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from skerry.model.errors import (
    ResourceExhaustedError,
    SandboxFilesystemIsADirectoryError,
    SandboxFilesystemNotADirectoryError,
    SandboxFilesystemNotFoundError,
    SandboxFilesystemNotRegularError,
)
from skerry.model.ids import CommitId
from skerry.model.limits import FILE_READ_BYTES, GIB, VOLUME_COMMITS_BYTES_RATIO
from skerry.model.sandboxes import FileEntry
from skerry.volumes.beneath import kind_of, open_regular, shown
from skerry.volumes.blobs import Blobs, sync, sync_file_system
from skerry.volumes.trees import VANISHED, Found, entry, too_large, walk

# A file that changed so shortly before a commit may change again within one tick of the clock by which inodes tell
# their time, so its time alone does not prove that it is the same at the next commit.
_TICK_NS: Final = 2_000_000_000


class Record(msgspec.Struct, frozen=True, array_like=True):
    """One file, folder or link. `inode` and `changed_ns` tell whether it is still the same at the next commit."""

    path: bytes
    mode: int
    owner: int
    group: int
    modified_ns: int
    size: int
    target: bytes
    blob: str
    inode: int
    changed_ns: int

    def entry(self) -> FileEntry:
        return entry(
            self.path,
            mode=self.mode,
            size=self.size,
            owner=self.owner,
            group=self.group,
            modified=self.modified_ns / 1e9,
            target=self.target,
        )


@dataclass(frozen=True)
class CommitSize:
    """How many files, folders and links a commit has, and the bytes of its files."""

    files: int
    size: int


_decoder = msgspec.msgpack.Decoder(list[Record])


class Commits:
    """The commits of one volume, in its folder. Every call blocks; one at a time makes or removes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "commits"
        self._blobs = Blobs(folder / "blobs")

    def make(self, commit: CommitId, root: int, *, previous: CommitId | None, size_bytes: int) -> CommitSize:
        """Return once every file of a tree, and every folder, is on disk as this commit; raises Error and OSError.

        Each file is as it was when it was read. Unchanged ones are shared with the previous commit.
        """
        self._folder.mkdir(exist_ok=True, mode=0o700)
        self._blobs.drop_drafts()
        sync_file_system(root)  # what guests have written through mappings has its time of change now
        known = self._by_path(previous)
        room = VOLUME_COMMITS_BYTES_RATIO * size_bytes - self._blobs.stored_bytes()
        try:
            records = []
            for found in walk(root, recursive=True):
                record = self._record(root, found, known.get(found.path), time.time_ns())
                if record is not None:
                    records.append(record)
            if self._blobs.drafted_bytes() > room:
                raise ResourceExhaustedError(
                    f"the commits of this volume would take more than {VOLUME_COMMITS_BYTES_RATIO} times its size of "
                    f"{size_bytes / GIB:g} GiB; remove some: `skerry volume commits NAME`, then "
                    "`skerry volume rm NAME --commit ID`"
                )
            self._blobs.keep()
            self._write(commit, records)
        except BaseException:
            self._blobs.drop_drafts()
            raise
        return CommitSize(len(records), sum(one.size for one in records if stat.S_ISREG(one.mode)))

    def remove(self, commit: CommitId) -> None:
        """Remove a commit, and the contents that no other one has."""
        self._path(commit).unlink(missing_ok=True)
        self.collect()

    def collect(self) -> None:
        """Remove contents that no commit has."""
        self._blobs.drop_drafts()
        needed = set()
        for path in self._folder.glob("vc_*"):
            needed |= {one.blob for one in _decoder.decode(path.read_bytes()) if one.blob}
        self._blobs.keep_only(needed)

    def sweep(self, known: set[CommitId]) -> int:
        """Remove drafts, and commits of which no row tells: a kill came before they were told."""
        unknown = [path for path in self._folder.glob("*") if CommitId(path.name) not in known]
        for path in unknown:
            path.unlink()
        if unknown:
            self.collect()
        return len(unknown)

    def files(self, commit: CommitId, path: bytes, *, recursive: bool) -> Iterator[FileEntry]:
        """Yield what is in a folder of a commit."""
        records = self._read(commit)
        if path:
            folder = _at(records, path)
            if not stat.S_ISDIR(folder.mode):
                raise SandboxFilesystemNotADirectoryError(f"{shown(path)} is no folder")
        prefix = path + b"/" if path else b""
        for one in records:
            rest = one.path[len(prefix) :]
            if one.path.startswith(prefix) and (recursive or b"/" not in rest):
                yield one.entry()

    def look(self, commit: CommitId, path: bytes) -> FileEntry:
        return _at(self._read(commit), path).entry()

    def open_file(self, commit: CommitId, path: bytes) -> tuple[int, int]:
        """Return a file of a commit, open for reading, and its size."""
        record = _at(self._read(commit), path)
        if stat.S_ISDIR(record.mode):
            raise SandboxFilesystemIsADirectoryError(f"{shown(path)} is a folder; name a file in it")
        if not stat.S_ISREG(record.mode):
            raise SandboxFilesystemNotRegularError(f"{shown(path)} is no regular file but a {kind_of(record.mode)}")
        if record.size > FILE_READ_BYTES:
            raise too_large(path)
        return os.open(self._blobs.path(record.blob), os.O_RDONLY | os.O_CLOEXEC), record.size

    def _record(self, root: int, found: Found, before: Record | None, now_ns: int) -> Record | None:
        """Return what is told of something, its content drafted; None if it has vanished."""
        blob, status = "", found.status
        if stat.S_ISREG(status.st_mode):
            if before is not None and _is_unchanged(before, status):
                blob = before.blob
            else:
                try:
                    descriptor, status = open_regular(root, found.path)
                except (SandboxFilesystemNotRegularError, SandboxFilesystemIsADirectoryError):
                    return None  # something else has its name by now
                except OSError as exc:
                    if exc.errno not in VANISHED:
                        raise
                    return None
                try:
                    blob = self._blobs.add(descriptor)
                    status = os.fstat(descriptor)
                finally:
                    os.close(descriptor)
        return Record(
            path=found.path,
            mode=status.st_mode,
            owner=status.st_uid,
            group=status.st_gid,
            modified_ns=status.st_mtime_ns,
            size=self._blobs.size(blob) if blob else status.st_size,
            target=found.target,
            blob=blob,
            inode=status.st_ino,
            changed_ns=status.st_ctime_ns if status.st_ctime_ns < now_ns - _TICK_NS else 0,
        )

    def _by_path(self, commit: CommitId | None) -> dict[bytes, Record]:
        if commit is None or not self._path(commit).exists():
            return {}
        return {one.path: one for one in self._read(commit)}

    def _read(self, commit: CommitId) -> list[Record]:
        return _decoder.decode(self._path(commit).read_bytes())

    def _write(self, commit: CommitId, records: list[Record]) -> None:
        path = self._path(commit)
        draft = path.with_suffix(".new")
        draft.write_bytes(msgspec.msgpack.encode(records))
        sync(draft)
        draft.rename(path)
        sync(self._folder)
        sync(self._folder.parent)

    def _path(self, commit: CommitId) -> Path:
        return self._folder / commit


def _is_unchanged(before: Record, status: os.stat_result) -> bool:
    return (before.inode, before.changed_ns, before.modified_ns, before.size) == (
        status.st_ino,
        status.st_ctime_ns,
        status.st_mtime_ns,
        status.st_size,
    )


def _at(records: list[Record], path: bytes) -> Record:
    for one in records:
        if one.path == path:
            return one
    raise SandboxFilesystemNotFoundError(f"there is no {shown(path)} in this commit")
