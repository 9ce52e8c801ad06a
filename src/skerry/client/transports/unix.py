"""Connections to a server's unix socket, and who is on the other side."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from skerry.model.errors import PermissionDeniedError

_UCRED = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))

P = TypeVar("P", bound=asyncio.BaseProtocol)


async def connect(path: Path, protocol: Callable[[], P]) -> P:
    """Return the protocol of a new connection; raises OSError, or PermissionDeniedError for a foreign server."""
    loop = asyncio.get_running_loop()
    endpoint = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        endpoint.setblocking(False)
        await loop.sock_connect(endpoint, str(path))
        check_peer(endpoint, path)
        _, made = await loop.create_unix_connection(protocol, sock=endpoint)
    except BaseException:
        endpoint.close()
        raise
    return made


def check_peer(endpoint: socket.socket, path: Path) -> None:
    """Raise PermissionDeniedError unless the socket was bound by root or by the caller's own user.

    Whoever listens there gets the caller's commands and files, so another user's program must not.
    """
    _, uid, _ = _UCRED.unpack(endpoint.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    if uid not in (0, os.geteuid()):
        raise PermissionDeniedError(
            f"the server on {path} runs as uid {uid}, neither root nor you (uid {os.geteuid()}), so it is not trusted; "
            "set SKERRY_RUNTIME_DIR to the folder of a server that root runs, or unset it"
        )
