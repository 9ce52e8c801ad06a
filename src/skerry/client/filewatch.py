"""Changes of files in a sandbox, in Modal's words."""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from skerry.wire import native


class FileWatchEventType(enum.Enum):
    """What has happened. `Overflow` is ours: changes were lost, and what is watched has to be looked at anew."""

    Unknown = "Unknown"
    Access = "Access"
    Create = "Create"
    Modify = "Modify"
    Remove = "Remove"
    Overflow = "Overflow"


@dataclass
class FileWatchEvent:
    """A change. `paths` is what it concerns: for a move, told as `Modify`, the old path and the new one.

    Of a move only one path is there where the other is not watched.
    """

    paths: list[str]
    type: FileWatchEventType


_TYPES: Final = {
    "create": FileWatchEventType.Create,
    "modify": FileWatchEventType.Modify,
    "move": FileWatchEventType.Modify,
    "remove": FileWatchEventType.Remove,
    "access": FileWatchEventType.Access,
    "overflow": FileWatchEventType.Overflow,
}


def kinds_of(wanted: Collection[FileWatchEventType] | None) -> tuple[str, ...] | None:
    """Return what to ask for; what is lost is told unasked."""
    if wanted is None:
        return None
    types = {FileWatchEventType(one) for one in wanted}
    return tuple(kind for kind, told in _TYPES.items() if told in types and kind != "overflow")


def from_change(change: native.Change) -> FileWatchEvent:
    """Return what the socket told, in Modal's words."""
    paths = [native.decode_name(path) for path in change.paths]
    return FileWatchEvent(paths=paths, type=_TYPES.get(change.kind, FileWatchEventType.Unknown))
