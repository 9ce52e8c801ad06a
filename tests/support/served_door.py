"""The real door in a thread of its own, for synchronous clients; it can be cut off as by kill -9 and come back."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from skerry.doors.native.app import native_door
from skerry.doors.native.callers import LocalCallers
from skerry.doors.native.listening import listening
from skerry.engine.engine import Engine, assemble
from skerry.testing.clock import VirtualClock
from skerry.testing.ids import CountingIds
from skerry.testing.images import MemoryImages
from skerry.testing.node import FakeNode
from skerry.testing.store import MemoryStore
from skerry.testing.vault import MemoryVault
from skerry.testing.volumes import MemoryVolumes

T = TypeVar("T")
PATIENCE_S = 10


@dataclass
class ServedDoor:
    """Engine and node live on in `loop` while the door is away."""

    path: Path
    loop: asyncio.AbstractEventLoop
    engine: Engine
    node: FakeNode
    clock: VirtualClock
    images: MemoryImages
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _door: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what `work` returns in the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE_S)

    def call(self, function: Callable[[], T]) -> T:
        async def work() -> T:
            return function()

        return self.do(work())

    def cut(self) -> None:
        """Cut every connection in the middle and stop listening."""
        self.do(self.close())

    def listen(self) -> None:
        self.do(self.open())

    async def open(self) -> None:
        """Listen on the path; connections come when this returns."""
        self._stop = asyncio.Event()
        ready: asyncio.Future[None] = self.loop.create_future()
        self._door = asyncio.ensure_future(self._serve(ready))
        await ready

    async def close(self) -> None:
        self._stop.set()
        if self._door is not None:
            await self._door

    async def _serve(self, ready: asyncio.Future[None]) -> None:
        app = native_door(self.engine, LocalCallers(), started_at=self.clock.now())
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(self.path))
        async with listening(app, sock) as listener:
            ready.set_result(None)
            await self._stop.wait()
            self.path.unlink()
            for connection in list(listener._server.server_state.connections):
                connection.transport.abort()  # type: ignore[union-attr]


@contextlib.contextmanager
def served_door(folder: Path) -> Iterator[ServedDoor]:
    """Serve a door in `folder` while the block lasts."""
    made: list[ServedDoor] = []
    ready = threading.Event()
    ending = asyncio.Event()

    async def main() -> None:
        async with _world(folder) as served:
            await served.open()
            made.append(served)
            ready.set()
            await ending.wait()
            await served.close()

    thread = threading.Thread(target=lambda: asyncio.run(main()), name="door", daemon=True)
    thread.start()
    assert ready.wait(PATIENCE_S), "the door did not open"
    try:
        yield made[0]
    finally:
        made[0].loop.call_soon_threadsafe(ending.set)
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "the door did not close"


@contextlib.asynccontextmanager
async def _world(folder: Path) -> AsyncIterator[ServedDoor]:
    clock, ids = VirtualClock(), CountingIds()
    images = MemoryImages(clock=clock, ids=ids)
    async with FakeNode(clock=clock) as node:
        engine = assemble(
            store=MemoryStore(ids=ids),
            nodes={node.view().id: node},
            images=images,
            volume_disk=MemoryVolumes(clock),
            clock=clock,
            ids=ids,
            vault=MemoryVault(),
        )
        async with engine.running():
            yield ServedDoor(folder / "v1.sock", asyncio.get_running_loop(), engine, node, clock, images)
