"""The socket in the runtime folder: who may use it, and whose it is."""

from __future__ import annotations

import contextlib
import grp
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from skerry.apps.folders import own_runtime_folder
from skerry.model.errors import ConflictError, InvalidError

_SOCKET_MODE: Final = 0o660
_CONNECT_S: Final = 1.0


@contextlib.contextmanager
def bound_socket(path: Path, *, group: str | None) -> Iterator[socket.socket]:
    """Yield a socket bound to `path` for owner and group; it is removed at the end, if it is still ours.

    Raises ConflictError if another server listens there, InvalidError if the folder is not the server's own.
    """
    gid = os.getegid() if group is None else group_id(group)
    own_runtime_folder(path.parent, group=gid)
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(path))  # refuses connections until the door listens on it
        os.chown(path, -1, gid)
        path.chmod(_SOCKET_MODE)
        own = path.stat().st_ino
        yield sock
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == own:
                path.unlink()
    finally:
        sock.close()


def group_id(name: str) -> int:
    """Return the id of a group given by name or number; raises InvalidError."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        if name.isdecimal():
            return int(name)
    raise InvalidError(f"there is no group {name!r} on this machine; make it with `groupadd {name}`, or name another")


def _remove_stale(path: Path) -> None:
    if not path.exists():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_CONNECT_S)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()  # its server was killed
        else:
            raise ConflictError(
                f"another skerry server listens on {path}; stop that one, or set SKERRY_RUNTIME_DIR to another folder"
            )
