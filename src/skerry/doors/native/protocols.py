"""uvicorn's connections with what it lacks: the peer's identity, a place for each, and bounds while a request comes.

uvicorn bounds requests in all (`limit_concurrency`) and the pause after an answer (`timeout_keep_alive`). It lets a
client connect and say nothing, say it without end, or take every connection there is.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any, Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from skerry.doors.native.callers import PEER, Peer
from skerry.doors.native.calls import error_response
from skerry.doors.native.errors import tell
from skerry.doors.native.places import PLACE, Place, Places
from skerry.model.errors import ResourceExhaustedError
from skerry.model.events import Events

HEAD_BYTES: Final = 64 << 10
HEAD_S: Final = 10.0
"""How long the head of a request may take, from the connection or from its first byte."""
BODY_S: Final = 30.0
"""How long a body may stand still."""
REFUSED: Final = 128
"""Refused clients that wait for their answer; beyond it a connection is closed without one."""
REFUSED_S: Final = 1.0
NOBODY: Final = -1

_UCRED: Final = struct.Struct("iII")
# The kernel's default holds less than one frame of 256 KiB, so that each would be written in two turns of the loop.
_SEND_BUFFER: Final = 1 << 20

log = Events("skerry.door")


class Refusals:
    """What is told to those who get no place, and how many of them are being told."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.waiting = 0

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer any request with the refusal."""
        full = ResourceExhaustedError(
            f"the server has no more connections for this user: {self.places.each} at a time, of "
            f"{self.places.total} for all, and all at work; end some programs, or wait"
        )
        response = error_response(tell(full))
        response.headers["connection"] = "close"
        await response(scope, receive, send)


class HttpProtocol(HttpToolsProtocol):
    """A connection from its acceptance to its end, or to its upgrade."""

    def __init__(self, *, refusals: Refusals, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._refusals = refusals
        self._place: Place | None = None
        self._refused = False
        self._head_bytes = 0
        self._in_head = True
        self._overdue: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        peer = _known_peer(transport)
        user = NOBODY if peer is None else peer.uid
        place = Place(user, idle=self._waits, close=transport.abort, since=self.loop.time())
        self.app_state = {**self.app_state, PEER: peer, PLACE: place}
        if self._refusals.places.take(place):
            self._place = place
            self._expect(HEAD_S)
        else:
            self._refuse(user)

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect(None)
        if self._place is not None:
            self._refusals.places.leave(self._place)
        if self._refused:
            self._refusals.waiting -= 1
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._place is not None:
            self._place.since = self.loop.time()
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"the head of the request has more than {HEAD_BYTES} bytes")

    def handle_websocket_upgrade(self) -> None:
        self._expect(None)
        super().handle_websocket_upgrade()

    # Called by the parser.

    def on_message_begin(self) -> None:
        self._in_head = True
        if not self._refused:
            self._expect(HEAD_S)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head, self._head_bytes = False, 0
        if not self._refused:
            self._expect(BODY_S)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._refused:
            self._expect(BODY_S)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._refused:
            self._expect(None)
        super().on_message_complete()

    # Inside.

    def _waits(self) -> bool:
        cycle = self.cycle
        return cycle is None or cycle.response_complete or cycle.more_body or self.flow.write_paused

    def _should_upgrade_to_ws(self) -> bool:
        return not self._refused and super()._should_upgrade_to_ws()

    def _refuse(self, user: int) -> None:
        """Answer the first request with the refusal: an answer before it would be lost to a client that still sends."""
        log.warning("connection.refused", uid=user)
        if self._refusals.waiting >= REFUSED:
            self.transport.abort()
            return
        self._refused = True
        self._refusals.waiting += 1
        self.app = cast(Any, self._refusals.app)
        self._expect(REFUSED_S)

    def _expect(self, seconds: float | None) -> None:
        """Close the connection unless this is called again in time; with None there is nothing to wait for."""
        if self._overdue is not None:
            self._overdue.cancel()
        self._overdue = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)


class StreamProtocol(WebSocketsSansIOProtocol):
    """The same connection after its upgrade."""

    def __init__(self, *, places: Places, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._places = places
        self._place: Place = self.app_state[PLACE]
        self._place.idle = self._waits

    def connection_lost(self, exc: Exception | None) -> None:
        self._places.leave(self._place)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._place.since = self.loop.time()
        super().data_received(data)

    def _waits(self) -> bool:
        return not self._place.streams


def peer_of(sock: socket.socket) -> Peer:
    """Return who connected, as the kernel knows it."""
    pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return Peer(pid=pid, uid=uid, gid=gid)


def _known_peer(transport: asyncio.Transport) -> Peer | None:
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family != socket.AF_UNIX:
        return None
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    return peer_of(sock)
