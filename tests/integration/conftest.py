"""What the integration tests stand on: real runsc, the real agent, a real image, and proof that nothing is left."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from leftovers import Leftovers
from realnode import IDS, Node, make_machinery

from skerry.images.bases import DebianBases
from skerry.model.ids import NODE, NodeId
from skerry.node.host import Host

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: sandboxes have network devices and control groups")


@pytest.fixture(scope="session")
def base_image(as_root: None) -> Path:
    """The default image, built once for the checkout and kept under the key of what goes into it."""
    bases = DebianBases(CHECKOUT / "build" / "bases")
    image = CHECKOUT / "build" / "images" / f"{bases.key(None)[:20]}.erofs"
    if not image.exists():
        image.parent.mkdir(parents=True, exist_ok=True)
        asyncio.run(bases.make(None, image, print))
    return image


@pytest.fixture
def leftovers() -> Iterator[Leftovers]:
    """Compare what is on the machine before and after the test."""
    before = Leftovers.find()
    yield before
    before.check()


@pytest_asyncio.fixture
async def node(base_image: Path, tmp_path: Path, leftovers: Leftovers) -> AsyncIterator[Node]:
    """A host of its own; at the end all its sandboxes are gone, and so is it."""
    machinery = make_machinery(tmp_path)
    host = Host(id=NodeId(IDS.new(NODE)), machinery=machinery)
    await host.open()
    try:
        yield Node(host=host, machinery=machinery, image=base_image)
        for sandbox in list(host.running()):
            await host.terminate(sandbox)
    finally:
        await host.close()
        machinery.quota.close()
