"""Opening what a guest has written, and nothing else: names are resolved beneath a volume's root only.

`openat2` of the kernel refuses to leave the root, to follow a link and to cross a mount, for every step of a path and
without a moment between the check and the use. What is opened is looked at before it is read, by its descriptor.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from skerry.model import limits
from skerry.model.errors import (
    ConflictError,
    InvalidError,
    SandboxFilesystemError,
    SandboxFilesystemIsADirectoryError,
    SandboxFilesystemNoSpaceError,
    SandboxFilesystemNotADirectoryError,
    SandboxFilesystemNotFoundError,
    SandboxFilesystemNotRegularError,
    SandboxFilesystemPathAlreadyExistsError,
)
from skerry.model.text import escaped

_OPENAT2: Final = 437  # the same on every architecture: include/uapi/asm-generic/unistd.h
_RESOLVE: Final = 0x01 | 0x02 | 0x04 | 0x08  # NO_XDEV, NO_MAGICLINKS, NO_SYMLINKS, BENEATH: linux/openat2.h
_TRIES: Final = 16  # a rename in the tree makes the kernel say EAGAIN
_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_beneath(root: int, path: bytes, flags: int, mode: int = 0) -> int:
    """Return a descriptor of `path` below the folder `root`; raises OSError, ELOOP for a link in it."""
    how = _OpenHow(flags | os.O_CLOEXEC | os.O_NOFOLLOW, mode, _RESOLVE)
    for _ in range(_TRIES):
        opened = _libc.syscall(_OPENAT2, root, path or b".", ctypes.byref(how), ctypes.sizeof(how))
        if opened >= 0:
            return int(opened)
        number = ctypes.get_errno()
        if number != errno.EAGAIN:
            break
    raise OSError(number, os.strerror(number))


@contextmanager
def opened(root: int, path: bytes, flags: int) -> Iterator[int]:
    descriptor = open_beneath(root, path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_regular(root: int, path: bytes) -> tuple[int, os.stat_result]:
    """Return a regular file, open for reading, and what is known of it; a pipe or a device is never opened.

    Raises SandboxFilesystemNotRegularError, and SandboxFilesystemIsADirectoryError.
    """
    with opened(root, path, os.O_PATH) as found:
        status = os.fstat(found)
        if stat.S_ISDIR(status.st_mode):
            raise SandboxFilesystemIsADirectoryError(f"{shown(path)} is a folder; name a file in it")
        if not stat.S_ISREG(status.st_mode):
            raise SandboxFilesystemNotRegularError(
                f"{shown(path)} is no regular file but a {kind_of(status.st_mode)}; it can only be used in a sandbox"
            )
        # The same inode, whatever its name leads to by now.
        return os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), status


def parse(path: str | bytes) -> bytes:
    """Return a path in a volume without its leading slashes, `b""` for the root; raises InvalidError."""
    raw = path.encode("utf-8", "surrogateescape") if isinstance(path, str) else path
    parts = [part for part in raw.split(b"/") if part not in (b"", b".")]
    if b"\0" in raw:
        raise InvalidError(f"path {shown(raw)} holds a NUL character; no file system allows one")
    if b".." in parts:
        raise InvalidError(f"path {shown(raw)} holds '..'; a path in a volume starts at the volume's root")
    clean = b"/".join(parts)
    if len(clean) > limits.PATH_BYTES:
        raise InvalidError(f"a path of {len(clean):,} bytes; Linux allows at most {limits.PATH_BYTES:,}")
    return clean


def kind_of(mode: int) -> str:
    """Return the word for a kind of file, as `FileEntry` has it."""
    kinds = {stat.S_IFDIR: "directory", stat.S_IFREG: "file", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo"}
    kinds |= {stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}
    return kinds[stat.S_IFMT(mode)]


def shown(path: bytes) -> str:
    """Return a path of a volume as a message may show it."""
    return escaped("/" + path.decode("utf-8", "surrogateescape").lstrip("/"), limit=256)


def failure(path: bytes, exc: OSError) -> Exception:
    """Return the error of the model for what the kernel said about a path."""
    name = shown(path)
    if isinstance(exc, FileNotFoundError):
        return SandboxFilesystemNotFoundError(f"there is no {name} in this volume; `skerry volume ls NAME` shows it")
    if isinstance(exc, NotADirectoryError):
        return SandboxFilesystemNotADirectoryError(f"{name}, or something above it, is no folder")
    if isinstance(exc, IsADirectoryError):
        return SandboxFilesystemIsADirectoryError(f"{name} is a folder; name a file in it, or remove it recursively")
    if isinstance(exc, FileExistsError):
        return SandboxFilesystemPathAlreadyExistsError(f"{name} exists already")
    number = exc.errno
    if number == errno.ELOOP:
        return SandboxFilesystemNotRegularError(f"{name} is, or leads through, a symbolic link, which is not followed")
    if number in (errno.ENOSPC, errno.EDQUOT):
        return SandboxFilesystemNoSpaceError(f"{name}: the volume is full; remove something from it")
    if number == errno.ENOTEMPTY:
        return ConflictError(f"{name} is a folder that is not empty; remove it recursively")
    return SandboxFilesystemError(f"{name}: {exc.strerror}")
