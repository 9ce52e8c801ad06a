"""An engine over fakes, for tests of what it decides."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from skerry.engine.engine import Engine, assemble
from skerry.engine.retention import Bounds
from skerry.model.ids import SandboxId
from skerry.model.sandboxes import SandboxView
from skerry.model.specs import SandboxSpec
from skerry.testing.clock import VirtualClock
from skerry.testing.ids import CountingIds
from skerry.testing.images import MemoryImages
from skerry.testing.node import FakeNode
from skerry.testing.store import MemoryStore
from skerry.testing.vault import MemoryVault
from skerry.testing.volumes import MemoryVolumes


@dataclass
class World:
    """What outlives an engine: node, store, clock, images."""

    clock: VirtualClock = field(default_factory=VirtualClock)
    ids: CountingIds = field(default_factory=CountingIds)
    bounds: Bounds = field(default_factory=Bounds)
    vault: MemoryVault = field(default_factory=MemoryVault)
    node: FakeNode = field(init=False)
    store: MemoryStore = field(init=False)
    images: MemoryImages = field(init=False)
    volumes: MemoryVolumes = field(init=False)

    def __post_init__(self) -> None:
        self.node = FakeNode(clock=self.clock)
        self.store = MemoryStore(ids=self.ids)
        self.images = MemoryImages(clock=self.clock, ids=self.ids)
        self.volumes = MemoryVolumes(self.clock)

    @contextlib.asynccontextmanager
    async def engine(self) -> AsyncIterator[Engine]:
        """Run an engine: the first one, or the successor of one that has ended."""
        engine = assemble(
            store=self.store,
            nodes={self.node.view().id: self.node},
            images=self.images,
            volume_disk=self.volumes,
            clock=self.clock,
            ids=self.ids,
            vault=self.vault,
            bounds=self.bounds,
        )
        async with engine.running():
            yield engine

    def spec(self, *argv: str, **fields: object) -> SandboxSpec:
        return SandboxSpec(image=self.images.add().id, entrypoint=argv, **fields)  # type: ignore[arg-type]

    def row(self, sandbox: SandboxId) -> SandboxView:
        row = self.store.sandbox(sandbox)
        assert row is not None
        return row


@contextlib.asynccontextmanager
async def opened_world(bounds: Bounds | None = None) -> AsyncIterator[World]:
    world = World(bounds=bounds or Bounds())
    async with world.node:
        yield world
