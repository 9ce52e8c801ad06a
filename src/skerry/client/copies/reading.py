"""A file or a tree of this machine, read as one stream of records."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Final

from skerry.client.copies.report import Report
from skerry.wire.trees import CONTENT_BYTES, DEPTH, ENCODED_DONE, PATH_BYTES, Entry, encode_content_head, encode_entry

BATCH_BYTES: Final = 512 << 10
"""How much is read before it is sent."""
MODE: Final = 0o777
"""What travels of a mode: not the bits that give somebody the owner's rights."""

_OPEN: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


class LocalTree:
    """Reads what a path leads to. Links in it are told as links, and nothing is opened through one.

    What cannot be read, or is no file, folder or link, is left out and reported.
    """

    def __init__(self, path: Path, report: Report) -> None:
        self._report = report
        # Without waiting: a pipe would have us wait for somebody at its other end.
        self._root = os.open(path, _OPEN & ~os.O_NOFOLLOW)
        found = os.fstat(self._root)
        self._kind = stat.S_IFMT(found.st_mode)
        if self._kind not in (stat.S_IFREG, stat.S_IFDIR):
            os.close(self._root)
            raise OSError(errno.EINVAL, "it is neither a file nor a folder", str(path))
        if self._kind == stat.S_IFREG:
            report.total = found.st_size

    @property
    def is_folder(self) -> bool:
        return self._kind == stat.S_IFDIR

    def batches(self) -> Generator[bytearray, None, None]:
        """Yield the stream in pieces, from the beginning to the end; may be done once."""
        batch = bytearray()
        walk = self._folder(self._root, b"", 0) if self.is_folder else self._file(self._root, b"")
        for piece in walk:
            batch += piece
            if len(batch) >= BATCH_BYTES:
                yield batch
                batch = bytearray()
        yield batch

    def _folder(self, fd: int, path: bytes, depth: int) -> Iterator[bytes]:
        """Yield a folder and all that is in it; the descriptor is closed at the end."""
        try:
            yield self._said(path, "directory", os.fstat(fd))
            with os.scandir(fd) as entries:
                for entry in entries:
                    name = os.fsencode(entry.name)
                    below = path + b"/" + name if path else name
                    try:
                        yield from self._entry(entry, fd, below, depth)
                    except OSError as exc:
                        self._leave_out(below, exc)
        finally:
            os.close(fd)

    def _entry(self, entry: os.DirEntry[str], above: int, path: bytes, depth: int) -> Iterator[bytes]:
        if len(path) > PATH_BYTES:
            self._report.leave_out(path, f"its path is longer than {PATH_BYTES:,} bytes")
        elif entry.is_symlink():
            target = os.fsencode(os.readlink(entry.name, dir_fd=above))
            yield self._said(path, "symlink", entry.stat(follow_symlinks=False), target)
        elif entry.is_dir(follow_symlinks=False):
            if depth + 1 >= DEPTH:
                self._report.leave_out(path, f"it lies deeper than {DEPTH} folders")
            else:
                yield from self._folder(os.open(entry.name, _OPEN | os.O_DIRECTORY, dir_fd=above), path, depth + 1)
        elif entry.is_file(follow_symlinks=False):
            yield from self._file(os.open(entry.name, _OPEN, dir_fd=above), path)
        else:
            self._report.leave_out(path, "it is a pipe, a socket or a device")

    def _file(self, fd: int, path: bytes) -> Iterator[bytes]:
        """Yield a file, as much of it as there was when it was opened, so that one that grows has an end."""
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "something else has taken its place")
            yield self._said(path, "file", found)
            left = found.st_size
            while left and (content := os.read(fd, min(left, CONTENT_BYTES))):
                left -= len(content)
                self._report.size += len(content)
                yield encode_content_head(len(content))
                yield content
            yield ENCODED_DONE
        finally:
            os.close(fd)

    def _said(self, path: bytes, kind: str, found: os.stat_result, target: bytes | None = None) -> bytes:
        self._report.entries += 1
        entry = Entry(
            path=path,
            type=kind,  # type: ignore[arg-type]  # one of the three, as the callers have it
            mode=found.st_mode & MODE,
            modified_ns=max(0, found.st_mtime_ns),
            size=found.st_size,
            target=target,
        )
        return encode_entry(entry)

    def _leave_out(self, path: bytes, error: OSError) -> None:
        if error.errno != errno.ENOENT:  # what went away in between is not there
            self._report.leave_out(path, error.strerror or str(error))
