"""The live tree of a volume: listed, read and changed from outside while guests write in it.

A guest may rename, replace or remove anything between two steps. So every name is opened beneath the root
(`beneath.py`), and what has vanished meanwhile is left out of a list.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from skerry.model import limits
from skerry.model.errors import InvalidError, SandboxFilesystemFileTooLargeError
from skerry.model.sandboxes import FileEntry
from skerry.volumes.beneath import kind_of, open_beneath, open_regular, opened, shown

# What a name in a live tree may answer when it was replaced or removed a moment ago.
VANISHED: Final = frozenset({errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ESTALE})
_FOLDER_MODE: Final = 0o755
_FILE_MODE: Final = 0o644


@dataclass(frozen=True)
class Found:
    """Something in a tree: its path from the root, what is known of it, and where a link points."""

    path: bytes
    status: os.stat_result
    target: bytes = b""

    def entry(self) -> FileEntry:
        return entry(
            self.path,
            mode=self.status.st_mode,
            size=self.status.st_size,
            owner=self.status.st_uid,
            group=self.status.st_gid,
            modified=self.status.st_mtime,
            target=self.target,
        )


def entry(
    path: bytes, *, mode: int, size: int, owner: int, group: int, modified: float, target: bytes = b""
) -> FileEntry:
    """Return a file of a volume as everyone is told of it. Users are numbers: their names are the sandbox's own."""
    text = "/" + path.decode("utf-8", "surrogateescape")
    return FileEntry(
        name=text.rpartition("/")[2],
        path=text,
        type=kind_of(mode),
        size=size,
        mode=mode,
        owner=str(owner),
        group=str(group),
        modified=modified,
        target=target.decode("utf-8", "surrogateescape") if stat.S_ISLNK(mode) else None,
    )


def walk(root: int, path: bytes = b"", *, recursive: bool) -> Iterator[Found]:
    """Yield what is in a folder, a folder before what is in it; raises OSError if `path` is none.

    A path longer than Linux takes is an InvalidError: leaving it out in silence would lose files.
    """
    folders = [path]
    while folders:
        folder = folders.pop()
        for found in _in_folder(root, folder, given=folder == path):
            yield found
            if recursive and stat.S_ISDIR(found.status.st_mode):
                folders.append(found.path)


def _in_folder(root: int, folder: bytes, *, given: bool) -> Iterator[Found]:
    try:
        descriptor = open_beneath(root, folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as exc:
        if exc.errno == errno.ENAMETOOLONG:
            raise InvalidError(
                f"the path {shown(folder)} is longer than {limits.PATH_BYTES:,} bytes; shorten it in a sandbox"
            ) from exc
        if given or exc.errno not in VANISHED:
            raise
        return
    try:
        with os.scandir(descriptor) as names:
            for one in names:
                name = os.fsencode(one.name)
                with contextlib.suppress(FileNotFoundError):
                    yield _look(descriptor, name, folder + b"/" + name if folder else name)
    finally:
        os.close(descriptor)


def _look(folder: int, name: bytes, path: bytes) -> Found:
    """Look at something by a descriptor, so that its status and its target are of one inode."""
    descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        status = os.fstat(descriptor)
        target = os.readlink(b"", dir_fd=descriptor) if stat.S_ISLNK(status.st_mode) else b""
        return Found(path, status, target)
    finally:
        os.close(descriptor)


def look(root: int, path: bytes) -> Found:
    """Return what is at a path; raises OSError."""
    with opened(root, path.rpartition(b"/")[0], os.O_PATH | os.O_DIRECTORY) as parent:
        return _look(parent, path.rpartition(b"/")[2] or b".", path)


def open_file(root: int, path: bytes) -> tuple[int, int]:
    """Return a regular file, open for reading, and its size; raises OSError and errors of the model."""
    descriptor, status = open_regular(root, path)
    if status.st_size > limits.FILE_READ_BYTES:
        os.close(descriptor)
        raise too_large(path)
    return descriptor, status.st_size


def too_large(path: bytes) -> SandboxFilesystemFileTooLargeError:
    return SandboxFilesystemFileTooLargeError(
        f"{shown(path)} has more than the {limits.FILE_READ_BYTES:,} bytes that one read carries; "
        "read it in a sandbox that mounts the volume"
    )


class Draft:
    """A file on its way into a volume: it has no name until `keep`, so a kill in the middle leaves nothing."""

    def __init__(self, root: int, path: bytes, *, mode: int | None = None) -> None:
        """Make the folders above it; raises OSError."""
        folder, _, self._name = path.rpartition(b"/")
        if not self._name:
            raise InvalidError("`/` is the volume's root and no file; name a file in it")
        self._parent = _make_folders(root, folder)
        try:
            self._file = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=self._parent)
        except BaseException:
            os.close(self._parent)
            raise
        self._mode = _FILE_MODE if mode is None else mode

    def write(self, content: bytes | memoryview) -> None:
        view = memoryview(content)
        while view:
            view = view[os.write(self._file, view) :]

    def keep(self) -> int:
        """Give it its name, in place of what has it, and return its size."""
        os.fchmod(self._file, self._mode)
        interim = f".skerry-{secrets.token_hex(8)}"
        os.link(f"/proc/self/fd/{self._file}", interim, dst_dir_fd=self._parent, follow_symlinks=True)
        try:
            os.rename(interim, self._name, src_dir_fd=self._parent, dst_dir_fd=self._parent)
        except OSError:
            os.unlink(interim, dir_fd=self._parent)
            raise
        return os.fstat(self._file).st_size

    def close(self) -> None:
        os.close(self._file)
        os.close(self._parent)


def _make_folders(root: int, path: bytes) -> int:
    """Return a folder, made with those above it where they are not there."""
    current = open_beneath(root, b"", os.O_PATH | os.O_DIRECTORY)
    for name in filter(None, path.split(b"/")):
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, _FOLDER_MODE, dir_fd=current)
                os.chmod(name, _FOLDER_MODE, dir_fd=current)  # the server's umask is its own
            inner = open_beneath(current, name, os.O_PATH | os.O_DIRECTORY)
        finally:
            os.close(current)
        current = inner
    return current


def remove(root: int, path: bytes, *, recursive: bool) -> None:
    """Remove a file, a link or a folder; raises OSError."""
    if not path:
        raise InvalidError("`/` is the volume's root, which stays; name something in it")
    folder, _, name = path.rpartition(b"/")
    with opened(root, folder, os.O_RDONLY | os.O_DIRECTORY) as parent:
        if not stat.S_ISDIR(_look(parent, name, path).status.st_mode):
            os.unlink(name, dir_fd=parent)
        elif recursive:
            _remove_tree(root, path, parent, name)
        else:
            os.rmdir(name, dir_fd=parent)


def _remove_tree(root: int, path: bytes, parent: int, name: bytes) -> None:
    """Remove what is in a folder from its depth upwards, each thing in a folder opened beneath the root."""
    found = list(walk(root, path, recursive=True))
    for one in reversed(found):
        folder, _, last = one.path.rpartition(b"/")
        try:
            with opened(root, folder, os.O_RDONLY | os.O_DIRECTORY) as inner:
                is_folder = stat.S_ISDIR(one.status.st_mode)
                (os.rmdir if is_folder else os.unlink)(last, dir_fd=inner)
        except OSError as exc:
            if exc.errno not in VANISHED:
                raise
    os.rmdir(name, dir_fd=parent)
