"""The two folders of a server: made, or checked to be the server's own before their mode is changed.

A setting may name any folder, `/run` or `/tmp` itself. Closing such a folder to others would harm the whole machine.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from skerry.model.errors import InvalidError
from skerry.model.places import START_LOCK, START_LOG
from skerry.store.sqlite.database import FILE

_RUNTIME_MODE: Final = 0o750
_DATA_MODE: Final = 0o700
_RUNTIME_NAMES: Final = re.compile(rf"{re.escape(START_LOCK)}|{re.escape(START_LOG)}|gvisor|records|v[0-9]+\.sock")


def own_runtime_folder(folder: Path, *, group: int | None = None) -> None:
    """Make the runtime folder, or close it to all but a group; raises InvalidError if it is not the server's own."""
    with _opened(folder, "SKERRY_RUNTIME_DIR", _RUNTIME_MODE) as descriptor:
        others = sorted(name for name in os.listdir(descriptor) if not _RUNTIME_NAMES.fullmatch(name))
        if others:
            raise _shared(folder, "SKERRY_RUNTIME_DIR", others[0])
        if group is not None:
            os.fchown(descriptor, -1, group)
        os.fchmod(descriptor, _RUNTIME_MODE)


def own_data_folder(folder: Path) -> None:
    """Make the data folder, or close it to others; raises InvalidError if it is not the server's own."""
    with _opened(folder, "SKERRY_DATA_DIR", _DATA_MODE) as descriptor:
        names = sorted(os.listdir(descriptor))
        if names and FILE not in names and os.fstat(descriptor).st_mode & 0o077:
            raise _shared(folder, "SKERRY_DATA_DIR", names[0])
        if not names or FILE in names:
            os.fchmod(descriptor, _DATA_MODE)


@contextlib.contextmanager
def _opened(folder: Path, variable: str, mode: int) -> Iterator[int]:
    """Yield a descriptor of a folder that belongs to us, and in which nobody else can put anything."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=mode)
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError as exc:
        raise InvalidError(f"{folder} is a link or no folder; remove it, or let {variable} name a folder") from exc
    try:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid():
            raise InvalidError(
                f"{folder} belongs to uid {found.st_uid} and the server runs as uid {os.geteuid()}; run "
                f"`chown {os.geteuid()} {folder}`, or let {variable} name a folder of its own"
            )
        if found.st_mode & 0o022:
            raise InvalidError(
                f"others can write to {folder} (mode {stat.S_IMODE(found.st_mode):04o}); run `chmod go-w {folder}` "
                f"if it is the server's alone, or let {variable} name a folder of its own"
            )
        yield descriptor
    finally:
        os.close(descriptor)


def _shared(folder: Path, variable: str, name: str) -> InvalidError:
    return InvalidError(
        f"{folder} holds {name!r}, which is not the server's, so it is not closed to others; let {variable} name a "
        f"folder of its own, such as {folder / 'skerry'}"
    )
