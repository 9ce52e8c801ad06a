"""A file or a tree written to this machine from records that come out of a sandbox, and are hostile.

Nothing is written outside the destination: every folder of the tree is opened by its name in the folder above, never
through a link, and files are made under a name of their own and get theirs when they are whole.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from skerry.client.copies.report import Report
from skerry.model import limits
from skerry.model.errors import SandboxFilesystemError
from skerry.wire.trees import DEPTH, Done, Entry, Record, Skipped

T = TypeVar("T")

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# After these nothing that follows could be written either.
_FATAL: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EFBIG}
)


@dataclass
class _Level:
    """A folder of the tree that may still get entries; one that was there before keeps its mode and time."""

    path: bytes
    fd: int
    entry: Entry | None


@dataclass
class _Draft:
    """A file on its way into place."""

    entry: Entry
    above: int
    name: bytes
    temporary: bytes
    fd: int
    size: int = 0


class LocalPlace:
    """Takes the records of one tree, whose root becomes `target`. Close it at the end, whatever happened."""

    def __init__(self, target: Path, report: Report) -> None:
        self._target = target
        self._report = report
        self._above = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._levels: list[_Level] = []
        self._draft: _Draft | None = None
        self._lost: bytes | None = None
        """What was left out: what is in it is left out with it, without a word of its own."""
        self._lost_is_folder = False

    def take(self, record: Record) -> None:
        """Write what a record says; raises OSError where nothing more can be written."""
        if isinstance(record, memoryview):
            self._write(record)
        elif isinstance(record, Done):
            self._commit()
        elif isinstance(record, Skipped):
            self._drop()
            self._report.leave_out(record.path, record.reason)
        else:
            self._begin(record)

    def finish(self) -> None:
        """Note that the tree is whole."""
        if self._draft is not None:
            raise _hostile("a file has no end")
        if not self._report.entries:
            raise _hostile("it is empty")
        self._leave_to(None)

    def close(self) -> None:
        """Let go of everything; a file that is not whole goes."""
        self._drop()
        for level in self._levels:
            os.close(level.fd)
        self._levels.clear()
        if self._above >= 0:
            os.close(self._above)
            self._above = -1

    # Entries

    def _begin(self, entry: Entry) -> None:
        if self._draft is not None:
            raise _hostile("a file has no end")
        if (self._report.entries == 0) != (not entry.path):
            raise _hostile("its root is not its first entry")
        self._report.entries += 1
        if self._report.entries > limits.COPY_ENTRIES:
            raise SandboxFilesystemError(
                f"the tree has more than {limits.COPY_ENTRIES:,} entries, which one copy carries; copy its parts"
            )
        if self._is_lost(entry.path):
            return
        try:
            self._make(entry)
        except OSError as exc:
            self._left_out(entry, exc)

    def _make(self, entry: Entry) -> None:
        above, name = self._find(entry)
        if entry.type == "directory":
            self._make_folder(above, name, entry)
        elif entry.type == "symlink":
            self._make_link(above, name, entry)
        else:
            temporary, fd = _new(lambda temporary: os.open(temporary, _NEW, 0o600, dir_fd=above))
            self._draft = _Draft(entry=entry, above=above, name=name, temporary=temporary, fd=fd)

    def _find(self, entry: Entry) -> tuple[int, bytes]:
        """Return the folder in which an entry belongs, after finishing those that are complete, and its name there."""
        if not entry.path:
            return self._above, os.fsencode(self._target.name)
        above, _, name = entry.path.rpartition(b"/")
        self._leave_to(above)
        if not self._levels:
            raise _hostile("an entry comes before the folder that it lies in")
        return self._levels[-1].fd, name

    def _leave_to(self, path: bytes | None) -> None:
        while self._levels and self._levels[-1].path != path:
            level = self._levels.pop()
            try:
                if level.entry is not None:
                    os.fchmod(level.fd, level.entry.mode)
                    os.utime(level.fd, ns=(level.entry.modified_ns, level.entry.modified_ns))
            finally:
                os.close(level.fd)

    def _make_folder(self, above: int, name: bytes, entry: Entry) -> None:
        if len(self._levels) >= DEPTH:
            raise _hostile(f"it is deeper than {DEPTH} folders")
        made = True
        try:
            os.mkdir(name, 0o700, dir_fd=above)
        except FileExistsError:
            made = False
        # What the destination leads to is the caller's to say; below it no link is followed.
        flags = _FOLDER if entry.path else _FOLDER & ~os.O_NOFOLLOW
        self._levels.append(_Level(entry.path, os.open(name, flags, dir_fd=above), entry if made else None))

    def _make_link(self, above: int, name: bytes, entry: Entry) -> None:
        assert entry.target is not None
        if not entry.path or not stays_inside(entry.path, entry.target):
            self._report.leave_out(entry.path, "it is a link that leads out of the tree")
            return
        target = entry.target
        temporary, _ = _new(lambda temporary: os.symlink(target, temporary, dir_fd=above))
        with contextlib.suppress(OSError):  # not every file system keeps the time of a link
            os.utime(temporary, ns=(entry.modified_ns, entry.modified_ns), dir_fd=above, follow_symlinks=False)
        try:
            os.replace(temporary, name, src_dir_fd=above, dst_dir_fd=above)
        except OSError:
            os.unlink(temporary, dir_fd=above)
            raise

    # Content

    def _write(self, content: memoryview) -> None:
        draft = self._draft
        if draft is None:
            if self._lost is None:
                raise _hostile("content belongs to no file")
            return
        draft.size += len(content)
        self._report.size += len(content)
        if self._report.size > limits.COPY_BYTES:
            raise SandboxFilesystemError(
                f"the tree has more than {limits.COPY_BYTES:,} bytes, which one copy carries; copy its parts"
            )
        if draft.size > limits.FILE_READ_BYTES:
            self._give_up(draft.entry, f"it has more than {limits.FILE_READ_BYTES:,} bytes")
            return
        try:
            while content:
                content = content[os.write(draft.fd, content) :]
        except OSError as exc:
            self._left_out(draft.entry, exc)

    def _commit(self) -> None:
        draft = self._draft
        if draft is None:
            if self._lost is None:
                raise _hostile("an end belongs to no file")
            self._forget_lost_file()
            return
        entry = draft.entry
        try:
            os.fchmod(draft.fd, entry.mode)
            os.utime(draft.fd, ns=(entry.modified_ns, entry.modified_ns))
            os.replace(draft.temporary, draft.name, src_dir_fd=draft.above, dst_dir_fd=draft.above)
        except OSError as exc:
            self._left_out(entry, exc)
            return
        os.close(draft.fd)
        self._draft = None

    def _drop(self) -> None:
        """Remove a file that will not be whole."""
        draft, self._draft = self._draft, None
        if draft is not None:
            os.close(draft.fd)
            with contextlib.suppress(OSError):
                os.unlink(draft.temporary, dir_fd=draft.above)
        self._forget_lost_file()

    # What is left out

    def _left_out(self, entry: Entry, error: OSError) -> None:
        """Report an entry that cannot be written; raise where that goes for the others too."""
        where = self._target / os.fsdecode(entry.path) if entry.path else self._target
        if error.errno in _FATAL or not entry.path:
            self._drop()
            raise OSError(error.errno, error.strerror, str(where)) from error
        reason = "a link is in the way" if error.errno == errno.ELOOP else error.strerror or str(error)
        self._give_up(entry, reason)

    def _give_up(self, entry: Entry, reason: str) -> None:
        self._drop()
        self._report.leave_out(entry.path, reason)
        if entry.type != "symlink":
            self._lost = entry.path
            self._lost_is_folder = entry.type == "directory"

    def _is_lost(self, path: bytes) -> bool:
        if self._lost is not None and not (self._lost_is_folder and path.startswith(self._lost + b"/")):
            self._lost = None
        return self._lost is not None

    def _forget_lost_file(self) -> None:
        if self._lost is not None and not self._lost_is_folder:
            self._lost = None


def stays_inside(path: bytes, target: bytes) -> bool:
    """Tell whether a link at `path` leads to something in its tree, whatever other links of the tree are on the way.

    `..` counts from the folder in which the link lies, and all folders of the tree are real ones; so it is harmless
    at the beginning, and as long as it does not go further up than the root. Behind a name it would count from where
    that name leads, which may be anywhere.
    """
    if not target or target.startswith(b"/"):
        return False
    names = [name for name in target.split(b"/") if name not in (b"", b".")]
    up = next((at for at, name in enumerate(names) if name != b".."), len(names))
    return up <= path.count(b"/") and b".." not in names[up:]


def _new(make: Callable[[bytes], T]) -> tuple[bytes, T]:
    """Make something under a name that nothing has."""
    while True:
        temporary = b".skerry-" + secrets.token_hex(8).encode()
        try:
            return temporary, make(temporary)
        except FileExistsError:
            continue


def _hostile(how: str) -> SandboxFilesystemError:
    return SandboxFilesystemError(f"the sandbox sent what is no tree: {how}; nothing more of it was written")
