"""What tests of real sandboxes stand on: real runsc, the real agent, a real image, and proof that nothing is left."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import pytest_asyncio
from benchmarks.base_image import made
from realnode import RealNode, real_node

CHECKOUT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: sandboxes have network devices and control groups")


@pytest.fixture(scope="session")
def base_image(as_root: None) -> Path:
    """The default image, built once for the checkout and kept under the key of what goes into it."""
    # In a thread: the first to ask may be a fixture of an event loop, in which no other loop can run.
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(made, CHECKOUT / "build").result()


@pytest_asyncio.fixture
async def node(base_image: Path, tmp_path: Path) -> AsyncIterator[RealNode]:
    """A host of its own; at the end all its sandboxes are gone, and so is it."""
    async with real_node(base_image, tmp_path) as real:
        yield real
