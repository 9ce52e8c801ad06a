"""Copies of files and trees between this machine and a volume.

What a volume holds was written by guests. On this machine a copy goes only where it was told to go: each folder is made
here and now, each file under a new name, links come last and only those that stay within what is copied.
"""

from __future__ import annotations

import os
import posixpath
import secrets
from collections.abc import Sequence
from pathlib import Path

from skerry import Volume
from skerry.client.copies.writing import stays_inside
from skerry.client.fileinfo import FileInfo
from skerry.model.errors import InvalidError
from skerry.model.text import printable


def put_tree(volume: Volume, source: Path, target: str) -> int:
    """Copy a file or a folder into a volume; return how many things in it cannot be copied."""
    if source.is_file():
        _put_file(volume, source, target)
        return 0
    if not source.is_dir():
        raise InvalidError(f"{printable(str(source))} is no file and no folder")
    left_out = 0
    for folder, folders, names in os.walk(source):
        base = posixpath.join(target, os.path.relpath(folder, source))
        left_out += sum(os.path.islink(os.path.join(folder, name)) for name in folders)
        for name in names:
            path = Path(folder, name)
            if path.is_symlink() or not path.is_file():
                left_out += 1
            else:
                _put_file(volume, path, posixpath.normpath(posixpath.join(base, name)))
    return left_out


def _put_file(volume: Volume, path: Path, target: str) -> None:
    with path.open("rb") as file:
        volume.write_file(target, file, mode=os.fstat(file.fileno()).st_mode & 0o777)


def get_tree(volume: Volume, path: str, target: Path, *, commit: str | None) -> int:
    """Copy a file or a folder of a volume here; return how much in it was left out."""
    path = _absolute(path)
    is_root = path == "/"
    if not is_root and volume.stat(path, commit=commit).type != "directory":
        into = target / posixpath.basename(path) if target.is_dir() else target
        _get_file(volume, path, into, commit=commit)
        return 0
    found = volume.listdir(path, recursive=True, commit=commit)
    if target.is_dir():
        target = target / (volume.name if is_root else posixpath.basename(path))
    if os.path.lexists(target):
        raise InvalidError(f"{printable(str(target))} exists already; remove it, or name another target")
    target.mkdir()
    prefix = path if is_root else path + "/"
    links: list[FileInfo] = []
    left_out = 0
    for one in found:
        here = target / _below(one.path, prefix)
        if one.type == "directory":
            here.mkdir()
        elif one.type == "file":
            _get_file(volume, one.path, here, commit=commit, mode=one.mode)
        elif one.type == "symlink" and _stays_within(one, prefix):
            links.append(one)
        else:
            left_out += 1
    _make_links(links, target, prefix)
    return left_out


def _make_links(links: Sequence[FileInfo], target: Path, prefix: str) -> None:
    for one in links:
        os.symlink(one.symlink_target or "", target / _below(one.path, prefix))


def _stays_within(link: FileInfo, prefix: str) -> bool:
    return stays_inside(os.fsencode(_below(link.path, prefix)), os.fsencode(link.symlink_target or ""))


def _absolute(path: str) -> str:
    """Return a path of a volume as the server tells it: `.` and double slashes mean nothing; raises InvalidError."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise InvalidError(f"path {printable(path)} holds '..'; a path in a volume starts at the volume's root")
    return "/" + "/".join(parts)


def _below(path: str, prefix: str) -> str:
    """Return a path below the folder that is copied. One that is not below it would be one of this machine."""
    if not path.startswith(prefix) or path == prefix:
        raise InvalidError(f"the server told {printable(path)}, which is not below {printable(prefix)}")
    return path.removeprefix(prefix)


def _get_file(volume: Volume, path: str, into: Path, *, commit: str | None, mode: int = 0o666) -> None:
    draft = into.with_name(f".{secrets.token_hex(8)}.part")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode & 0o777)
    try:
        with open(descriptor, "wb") as file:
            volume.read_file_into_fileobj(path, file, commit=commit)
        os.replace(draft, into)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
