"""A server as this program knows it, with one connection for each event loop that uses it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary, WeakSet

from skerry.client import loop as background
from skerry.client.connection import Connection
from skerry.client.settings import ServerAddress, server_address
from skerry.client.transports.socket import FrameSocket
from skerry.model.ids import RandomIds

T = TypeVar("T")

SETTLE_S: Final = 5.0
_live: WeakSet[Client] = WeakSet()
_left_to_parent: list[object] = []
_default: Client | None = None


class Client:
    """Which server is used. `skerry.connect()` makes one; without it there is one for the program."""

    def __init__(self, where: ServerAddress) -> None:
        self.address = where
        self.ids = RandomIds()
        self.created: dict[str, None] = {}
        self._connections: WeakKeyDictionary[asyncio.AbstractEventLoop, Connection] = WeakKeyDictionary()
        self._keepers: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncIterator[None]] = WeakKeyDictionary()
        self._tasks: set[asyncio.Task[Any]] = set()
        _live.add(self)

    async def connection(self) -> Connection:
        """Return the connection of the running loop; the end of the loop closes it."""
        loop = asyncio.get_running_loop()
        connection = self._connections.get(loop)
        if connection is None:
            connection = self._connections[loop] = Connection(self.address)
            # asyncio.run closes the asynchronous generators that are open at its end: the one hook a loop has.
            self._keepers[loop] = keeper = self._keep(connection)
            await anext(keeper)
        return connection

    @property
    def open_socket(self) -> FrameSocket | None:
        """The socket of the running loop, if it has one that is open."""
        connection = self._connections.get(asyncio.get_running_loop())
        return None if connection is None else connection.open_socket

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` on the running loop until it ends or the connection is closed."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def aclose(self) -> None:
        """Close the running loop's connection, once work under way (a cancelled create cleans up) has settled."""
        loop = asyncio.get_running_loop()
        mine = {task for task in self._tasks if task.get_loop() is loop and task is not asyncio.current_task()}
        if mine:
            _, late = await asyncio.wait(mine, timeout=SETTLE_S)
            for task in late:
                task.cancel()
        connection = self._connections.pop(loop, None)
        if connection is not None:
            await connection.aclose()
        keeper = self._keepers.pop(loop, None)
        if keeper is not None:
            with suppress(RuntimeError):
                await keeper.aclose()  # type: ignore[attr-defined]

    def close(self) -> None:
        """Close the connection that synchronous calls use."""
        background.run(self.aclose)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def _keep(self, connection: Connection) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await connection.aclose()

    def _forget_after_fork(self) -> None:
        for connection in self._connections.values():
            connection.leave_to_parent()
        # Kept alive: their finalizers would write to sockets that the parent uses.
        _left_to_parent.append((dict(self._connections), dict(self._keepers), self._tasks))
        self._connections, self._keepers, self._tasks = WeakKeyDictionary(), WeakKeyDictionary(), set()


def connect(url: str | None = None, *, autostart: bool | None = None) -> Client:
    """Return a client of the server at `url` (unix:///path), or of the local one; calls take it as `client=`.

    `autostart` says whether the local server may be started; unset, SKERRY_AUTOSTART decides.
    """
    return Client(server_address(url, autostart=autostart))


def resolve(client: Client | None) -> Client:
    """Return `client`, or the program's own, made from the environment at first use."""
    global _default
    if client is not None:
        return client
    if _default is None:
        _default = connect()
    return _default


def set_default(client: Client | None) -> None:
    """Let calls without `client=` use this one; None lets the environment decide again."""
    global _default
    _default = client


def close_background() -> None:
    """Close what synchronous calls have opened; called at the interpreter's exit."""
    for client in list(_live):
        with suppress(Exception):
            client.close()


def _after_fork() -> None:
    for client in list(_live):
        client._forget_after_fork()


background.at_exit(close_background)
os.register_at_fork(after_in_child=_after_fork)
