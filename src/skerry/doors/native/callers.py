"""Who calls. The local server knows one tenant; what tenants and tokens need later is asked for here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

PEER: Final = "skerry.peer"
"""Where the listener leaves the credentials of a unix socket's peer in the state of the ASGI scope."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """The process at the other end of a unix socket, as the kernel tells it."""

    pid: int
    uid: int
    gid: int


@dataclass(frozen=True, kw_only=True)
class Caller:
    """On whose behalf a request runs."""

    tenant: str
    peer: Peer | None = None


class Callers(Protocol):
    """Tells who calls."""

    def resolve(self, scope: Mapping[str, Any]) -> Caller:
        """Return the caller of a request or a socket; raises AuthError."""


class LocalCallers:
    """One tenant: whoever may open the socket. Its mode and group are the check."""

    def resolve(self, scope: Mapping[str, Any]) -> Caller:
        return Caller(tenant="local", peer=scope.get("state", {}).get(PEER))
