"""A file of a sandbox, in Modal's words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from skerry.wire import native

FileType = Literal["file", "directory", "symlink", "fifo", "socket", "device"]


@dataclass(frozen=True)
class FileInfo:
    """One file. `mode` is the whole st_mode, `permissions` its last four octal digits, `modified_time` Unix seconds."""

    name: str
    path: str
    type: str
    size: int
    mode: int
    permissions: str
    owner: str
    group: str
    modified_time: float
    symlink_target: str | None = None

    def is_file(self) -> bool:
        return self.type == "file"

    def is_dir(self) -> bool:
        return self.type == "directory"

    def is_symlink(self) -> bool:
        return self.type == "symlink"


def from_entry(entry: native.Entry) -> FileInfo:
    """Return what the socket told, in Modal's words."""
    return FileInfo(
        name=native.decode_name(entry.name),
        path=native.decode_name(entry.path),
        type=entry.type,
        size=entry.size,
        mode=entry.mode,
        permissions=f"{entry.mode & 0o7777:04o}",
        owner=entry.owner,
        group=entry.group,
        modified_time=entry.modified,
        symlink_target=None if entry.target is None else native.decode_name(entry.target),
    )
