"""The local server with a node in memory: `python fake_server.py`, with the folders in the environment."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from skerry.apps.composition import EngineParts, Ground
from skerry.apps.local import run
from skerry.apps.settings import from_environment
from skerry.testing.images import MemoryImages
from skerry.testing.node import FakeNode
from skerry.testing.volumes import MemoryVolumes


@asynccontextmanager
async def fake_parts(ground: Ground) -> AsyncIterator[EngineParts]:
    """Yield a node and images in memory."""
    async with FakeNode(clock=ground.clock) as node:
        images = MemoryImages(clock=ground.clock, ids=ground.ids)
        images.add(command=("cat",))
        yield EngineParts(nodes={node.view().id: node}, images=images, volume_disk=MemoryVolumes(ground.clock))


if __name__ == "__main__":
    sys.exit(run(from_environment(foreground="--foreground" in sys.argv), fake_parts))
