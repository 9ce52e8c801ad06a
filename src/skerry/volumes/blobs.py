"""The contents of files in the commits of one volume: each once, named by its digest, never changed.

A content is written under a draft's name, and named only once it is on the disk. Holes stay holes: a file of 16 TiB
that a guest has only made long costs nothing, and its digest is that of its data and where they lie.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from skerry.model.limits import STAT_BLOCK

_CHUNK: Final = 1 << 20
_START_WRITING: Final = 2  # SYNC_FILE_RANGE_WRITE of linux/fs.h
_libc = ctypes.CDLL(None, use_errno=True)


class Blobs:
    """A folder of contents, and the drafts of a commit that is being made. Every call blocks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._drafts: dict[str, Path] = {}
        self._found: set[Path] = set()

    def path(self, digest: str) -> Path:
        return self._folder / digest[:2] / digest[2:]

    def add(self, source: int) -> str:
        """Return the digest of an open file, whose content is a draft unless it is here; raises OSError."""
        self._folder.mkdir(exist_ok=True, mode=0o700)
        draft = self._folder / f"{secrets.token_hex(8)}.new"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
        try:
            digest = _copy(source, descriptor)
            if digest in self._drafts or self.path(digest).exists():
                draft.unlink()
                self._found.add(self.path(digest).parent)
            else:
                # All of them begin to be written now, so that syncing each later waits for little.
                _libc.sync_file_range(descriptor, ctypes.c_int64(0), ctypes.c_int64(0), _START_WRITING)
                self._drafts[digest] = draft
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        return digest

    def size(self, digest: str) -> int:
        """How long a content is."""
        return (self._drafts.get(digest) or self.path(digest)).stat().st_size

    def drafted_bytes(self) -> int:
        return sum(draft.stat().st_blocks * STAT_BLOCK for draft in self._drafts.values())

    def keep(self) -> None:
        """Name all drafts; each, and each folder, is on the disk when this returns."""
        for draft in self._drafts.values():
            sync(draft)
        # What is there may have been named by a commit that a kill cut off before it synced the names.
        folders = {folder for folder in self._found if folder.exists()}
        for digest, draft in self._drafts.items():
            path = self.path(digest)
            path.parent.mkdir(exist_ok=True, mode=0o700)
            draft.rename(path)
            folders.add(path.parent)
        self._drafts.clear()
        self._found.clear()
        for folder in folders:
            sync(folder)
        if folders:
            sync(self._folder)

    def drop_drafts(self) -> None:
        """Forget what was not kept, drafts of an earlier server included."""
        self._drafts.clear()
        for left in self._folder.glob("*.new"):
            left.unlink(missing_ok=True)

    def stored_bytes(self) -> int:
        """How much disk the contents take."""
        return sum(path.stat().st_blocks * STAT_BLOCK for path in self._folder.glob("??/*"))

    def keep_only(self, digests: set[str]) -> None:
        """Remove what no commit needs."""
        for path in self._folder.glob("??/*"):
            if path.parent.name + path.name not in digests:
                path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Return when a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file_system(descriptor: int) -> None:
    """Return when all that was written to the file system of an open folder is on the disk."""
    if _libc.syncfs(descriptor):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _copy(source: int, into: int) -> str:
    """Copy a file as long as it is now, and return its digest; what is appended meanwhile is left out."""
    digest = hashlib.sha256()
    size = os.fstat(source).st_size
    for start, end in _extents(source, size):
        at = start
        while at < end:
            chunk = os.pread(source, min(_CHUNK, end - at), at)
            if not chunk:
                break  # it was cut, and reads as zeros from here on
            digest.update(b"%d:%d;" % (at, len(chunk)))
            digest.update(chunk)
            _write_at(into, chunk, at)
            at += len(chunk)
    os.ftruncate(into, size)
    digest.update(b"=%d" % size)
    return digest.hexdigest()


def _extents(source: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield where a file has data: the offsets of its begin and end, up to `size`."""
    at = 0
    while at < size:
        try:
            start = os.lseek(source, at, os.SEEK_DATA)
            at = os.lseek(source, start, os.SEEK_HOLE)
        except OSError as exc:
            if exc.errno == errno.ENXIO:  # no data behind `at`
                return
            raise
        yield start, min(at, size)


def _write_at(descriptor: int, content: bytes, at: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, at)
        view, at = view[written:], at + written
