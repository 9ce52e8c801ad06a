"""The real door, on a unix socket in a folder of its own, over an engine with fakes below."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from door_client import Http, Socket

from skerry.doors.native.app import native_door
from skerry.doors.native.callers import LocalCallers
from skerry.doors.native.listening import Listener, listening
from skerry.doors.native.places import Places
from skerry.engine.engine import Engine, assemble
from skerry.testing.clock import VirtualClock
from skerry.testing.ids import CountingIds
from skerry.testing.images import MemoryImages
from skerry.testing.node import FakeNode
from skerry.testing.store import MemoryStore
from skerry.testing.vault import MemoryVault
from skerry.testing.volumes import MemoryVolumes


@dataclass
class Door:
    """What a test needs: the socket's path, and what lies behind it."""

    path: Path
    listener: Listener
    engine: Engine
    node: FakeNode
    clock: VirtualClock
    images: MemoryImages

    @property
    def http(self) -> Http:
        return Http(self.path)

    def connect(self) -> contextlib.AbstractAsyncContextManager[Socket]:
        return Socket.connect(self.path)

    async def sandbox(self, *argv: str, **fields: object) -> str:
        """Return the id of a new sandbox."""
        body = {"image": self.images.add().id, "entrypoint": list(argv), **fields}
        answer = await self.http.post("/v1/sandboxes", body)
        assert answer.status == 200, answer.body
        identifier: str = answer.body["id"]
        return identifier


@contextlib.asynccontextmanager
async def opened_door(folder: Path, places: Places | None = None) -> AsyncIterator[Door]:
    """Serve a door in `folder` while the block lasts."""
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
        app = native_door(engine, LocalCallers(), started_at=clock.now())
        path = folder / "v1.sock"
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(path))
        async with engine.running(), listening(app, sock, places=places) as listener:
            yield Door(path, listener, engine, node, clock, images)
