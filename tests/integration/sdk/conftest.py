"""The public SDK and the command line against a real server with real sandboxes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from realserver import Server, real_server


@pytest.fixture
def server(base_image: Path, tmp_path: Path) -> Iterator[Server]:
    """A server of the test's own, to be killed and started again; at the end nothing of it is left."""
    with real_server(base_image, tmp_path / "run") as running:
        yield running


@pytest.fixture(scope="module")
def shared(base_image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for the tests of a module that leave it alone."""
    with real_server(base_image, tmp_path_factory.mktemp("shared") / "run") as running:
        yield running
