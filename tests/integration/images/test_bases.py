"""A base as a server builds it at its first use, given up in the middle."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from realserver import Server, wait_for

from skerry.images.debian import available_python_versions
from skerry.images.mirrors import machine_suite

pytestmark = pytest.mark.timeout(120)

# Any base but the machine's own, which the server has.
OTHERS = {"bookworm": "3.13"}


def test_a_base_whose_client_goes_away_leaves_nothing(server: Server) -> None:
    version = OTHERS.get(machine_suite() or "", "3.11")
    if version not in available_python_versions():
        pytest.skip(f"this machine's mirror has no Python {version}")
    child = subprocess.Popen(
        [sys.executable, "-c", f"import skerry; skerry.Image.debian_slim({version!r}).build()"],
        env=os.environ | {"SKERRY_URL": server.url},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stderr is not None
    assert any("base image: " in line for line in child.stderr)
    assert builders(server)
    child.kill()
    child.wait()
    child.stderr.close()
    server.check_nothing_of_a_build_left()
    wait_for(lambda: not builders(server), "the end of mmdebstrap")


def builders(server: Server) -> list[str]:
    """Return the processes that work in the server's folder for bases."""
    mark = os.fsencode(server.data / "bases")
    return [path.parent.name for path in Path("/proc").glob("[0-9]*/cmdline") if mark in _read(path)]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
