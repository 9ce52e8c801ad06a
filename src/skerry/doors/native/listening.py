"""The door on a unix socket, served by uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any, Final, cast

import uvicorn

from skerry.doors.native.app import Asgi
from skerry.doors.native.places import TOTAL, Places
from skerry.doors.native.protocols import HttpProtocol, Refusals, StreamProtocol
from skerry.wire.frames import MAX_DATA

# A message that is too long for any frame still gets in, so that the rule it breaks can be named.
_MESSAGE_MAX: Final = 2 * MAX_DATA
_GRACE_S: Final = 3
FILES_SHARE: Final = 4
"""Connections may take one in so many of the files that the server may open: each sandbox holds a handful."""


class _Server(uvicorn.Server):
    """uvicorn without its signal handling: the composition decides when to stop."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self.leave = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    async def main_loop(self) -> None:
        # uvicorn's own wakes up ten times a second, to look whether it is to stop and to write a date that is off here.
        await self.leave.wait()


class Listener:
    """A door that listens. `clients` is the number of connections that are open."""

    def __init__(self, server: uvicorn.Server) -> None:
        self._server = server

    @property
    def clients(self) -> int:
        return len(self._server.server_state.connections)

    @property
    def requests(self) -> int:
        """How many requests have come so far."""
        return self._server.server_state.total_requests


@contextlib.asynccontextmanager
async def listening(door: Asgi, sock: socket.socket, *, places: Places | None = None) -> AsyncIterator[Listener]:
    """Serve `door` on a bound socket while the block lasts; at its end open calls get three seconds.

    `places` bounds the connections; without it they may take a quarter of the files that this process may open.
    """
    places = places or Places(min(TOTAL, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // FILES_SHARE))
    config = uvicorn.Config(
        cast(Any, door),
        http=cast(Any, partial(HttpProtocol, refusals=Refusals(places))),
        ws=cast(Any, partial(StreamProtocol, places=places)),
        ws_max_size=_MESSAGE_MAX,
        ws_per_message_deflate=False,
        ws_ping_interval=None,  # the kernel tells when a local client goes away
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=_GRACE_S,
    )
    server = _Server(config)
    serving = asyncio.ensure_future(server.serve(sockets=[sock]))
    ready = asyncio.ensure_future(server.ready.wait())
    try:
        await asyncio.wait((serving, ready), return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if serving.done():
            await serving  # what kept it from listening
        yield Listener(server)
    finally:
        server.leave.set()
        await serving
