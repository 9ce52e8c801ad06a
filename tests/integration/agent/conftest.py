"""Agents to talk to: in namespaces for every rule, in gVisor for what only gVisor can show."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from agent_driver import Host
from agent_places import AGENT, RUNSC, Sandbox, in_gvisor, namespaced


@pytest.fixture(scope="session", autouse=True)
def agent_binary() -> Path:
    if os.geteuid() != 0:
        pytest.skip("needs root: an agent is PID 1 of namespaces of its own")
    if not AGENT.exists():
        pytest.skip(f"needs {AGENT}: run python3 tools/build_agent.py")
    return AGENT


@pytest.fixture
def boxed(tmp_path: Path) -> Iterator[Sandbox]:
    """An agent in Linux namespaces, for one test."""
    with namespaced(tmp_path) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def shared_guest(tmp_path_factory: pytest.TempPathFactory, base_image: Path) -> Iterator[Sandbox]:
    if not RUNSC.exists():
        pytest.skip(f"needs {RUNSC}: run python3 tools/build_runtime.py")
    with in_gvisor(tmp_path_factory.mktemp("guest"), base_image) as sandbox:
        yield sandbox


@pytest.fixture
def guest(shared_guest: Sandbox) -> Sandbox:
    """An agent in gVisor, shared by the tests of a file: a test leaves no process behind."""
    return shared_guest


@pytest.fixture
def own_guest(tmp_path: Path, base_image: Path) -> Iterator[Sandbox]:
    """An agent in gVisor, for one test that may do anything to it."""
    if not RUNSC.exists():
        pytest.skip(f"needs {RUNSC}: run python3 tools/build_runtime.py")
    with in_gvisor(tmp_path, base_image) as sandbox:
        yield sandbox


@pytest.fixture(params=["namespaces", "gvisor"])
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    """The same test in both places."""
    return request.getfixturevalue("boxed" if request.param == "namespaces" else "guest")


@pytest.fixture
def host(sandbox: Sandbox) -> Host:
    return sandbox.host


@pytest.fixture
def folder(host: Host) -> Iterator[str]:
    """A folder inside the sandbox, gone at the end."""
    path = f"/tmp/tests-{os.getpid()}"
    assert host.request("mkdir", path=path.encode(), mode=0o755, parents=False).result == {}
    yield path
    host.request("remove", path=path.encode(), recursive=True)
