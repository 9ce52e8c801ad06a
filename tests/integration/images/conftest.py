from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from realserver import Server, real_server


@pytest.fixture(scope="module")
def server(base_image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real server for the tests of a module; at the end nothing of it is left."""
    with real_server(base_image, tmp_path_factory.mktemp("server") / "run") as running:
        yield running


@pytest.fixture(scope="session")
def python_index(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skip the test where this machine itself reaches no Python package index."""
    folder = tmp_path_factory.mktemp("index")
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), "six==1.16.0"]
    told = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    if told.returncode != 0:
        pytest.skip(f"this machine's pip reaches no index: {told.stderr[-300:]}")
