"""Control groups of this machine, under a name of the test's own."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from realbackend import new_sandbox

from skerry.model.errors import IsolationUnavailableError
from skerry.node.cgroups import CgroupsV1, CgroupV1, detect

pytestmark = pytest.mark.root
MEMORY_BOMB = "b = []\nwhile True: b.append(bytearray(1 << 20))"


@pytest.fixture
def groups(as_root: None) -> Iterator[CgroupsV1]:
    try:
        found = detect(f"skerry-test-{secrets.token_hex(4)}")
    except IsolationUnavailableError as exc:
        pytest.skip(str(exc))
    assert isinstance(found, CgroupsV1)
    yield found
    found.sweep([])
    found.close()


@pytest.fixture
def group(groups: CgroupsV1) -> CgroupV1:
    return groups.make(new_sandbox())


def joining(group: CgroupV1, *argv: str) -> subprocess.Popen[bytes]:
    """Start a program that has joined before its first instruction."""
    script = 'while [ "$1" != -- ]; do echo $$ >"$1"; shift; done; shift; exec "$@"'
    return subprocess.Popen(["/bin/sh", "-c", script, "sh", *map(str, group.procs), "--", *argv])


def wait_for_member(group: CgroupV1, process: subprocess.Popen[bytes]) -> None:
    while process.pid not in group.members():
        assert process.poll() is None


def test_a_process_that_grows_beyond_the_limit_is_killed_and_counted(group: CgroupV1) -> None:
    group.limit(memory_mib=64, cpus=1, processes=20)
    process = joining(group, sys.executable, "-c", MEMORY_BOMB)
    assert process.wait(60) == -9
    assert group.oom_kills() == 1
    assert 32 << 20 < group.memory_peak_bytes() <= 64 << 20
    assert group.cpu_seconds() > 0


def test_limits_may_be_raised_and_lowered_again(group: CgroupV1) -> None:
    for memory_mib in (64, 512, 128):
        group.limit(memory_mib=memory_mib, cpus=0.5, processes=20)
    process = joining(group, sys.executable, "-c", MEMORY_BOMB)
    assert process.wait(60) == -9
    assert group.memory_peak_bytes() <= 128 << 20


def test_processes_are_bounded(group: CgroupV1) -> None:
    group.limit(memory_mib=256, cpus=2, processes=5)
    script = "import os\nfor i in range(100):\n if os.fork() == 0: input()"
    process = joining(group, sys.executable, "-c", script)
    assert process.wait(60) == 1, "fork must have failed with EAGAIN"


def test_removing_kills_what_is_left_and_everything_it_started(groups: CgroupsV1, group: CgroupV1) -> None:
    script = "import os\nfor i in range(3): os.fork()\nimport time; time.sleep(600)"
    process = joining(group, sys.executable, "-c", script)
    wait_for_member(group, process)
    group.remove()
    assert process.wait(10) == -9
    assert not any(folder.exists() for folder in group.folders)
    group.remove()


def test_a_sweep_ends_what_runs_in_a_stray_group_and_says_so(groups: CgroupsV1) -> None:
    kept, stray = new_sandbox(), new_sandbox()
    groups.make(kept)
    process = joining(groups.make(stray), "sleep", "600")
    found = groups.find(stray)
    assert found is not None
    wait_for_member(found, process)
    (line,) = groups.sweep([kept])
    assert stray in line
    assert str(process.pid) in line
    assert process.wait(10) == -9
    assert groups.find(kept) is not None
    assert groups.find(stray) is None


def test_a_group_without_a_process_uses_nothing(group: CgroupV1) -> None:
    assert group.members() == set()
    assert group.oom_kills() == 0
    assert group.memory_bytes() < 1 << 20
    assert group.cpu_seconds() == 0
    assert all(Path(procs).exists() for procs in group.procs)
