"""What a sandbox may use up: processes, memory, disk. The bound is told for what it is, and no neighbour notices."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from realserver import Server, wait_for

from skerry import ProcessReason, Sandbox, SandboxReason
from skerry.exception import SandboxEndedError
from skerry.model import limits

GROW = "b = []\nwhile True: b.append(bytearray(b'x' * (8 << 20)))"
FORK_BOMB = ":(){ :|:& };:"


@pytest.fixture(scope="module", autouse=True)
def served(shared: Server) -> Server:
    return shared


@pytest.fixture
def neighbour() -> Iterator[Sandbox]:
    """Another sandbox, which must be well at the end."""
    with Sandbox.create(block_network=True) as sandbox:
        yield sandbox
        assert alive(sandbox)


def alive(box: Sandbox) -> bool:
    return box.exec("echo", "alive").stdout.read() == "alive\n"


@pytest.mark.parametrize("user", ["root", "user"])
def test_a_fork_bomb_meets_its_bound_and_the_sandbox_goes_on(neighbour: Sandbox, user: str) -> None:
    with Sandbox.create(block_network=True) as box:
        bomb = box.exec("bash", "-c", f"{FORK_BOMB}; sleep 1000", user=user)
        count = lambda: int(box.exec("sh", "-c", "set -- /proc/[0-9]*; echo $#").stdout.read())  # noqa: E731
        highest = 0

        def stands() -> bool:
            nonlocal highest
            before, highest = highest, max(highest, count())
            return highest > limits.PROCESSES_DEFAULT // 2 and highest <= before * 1.02

        wait_for(stands, lambda: f"the bound; there were {highest} processes", seconds=90)
        assert highest <= limits.PROCESSES_DEFAULT
        assert alive(box)
        assert alive(neighbour)
        bomb.kill()
        assert bomb.wait() == 137


def test_one_growing_process_dies_alone_for_lack_of_memory(neighbour: Sandbox) -> None:
    with Sandbox.create(block_network=True, memory=(128, 128)) as box:
        process = box.exec("python3", "-c", GROW)
        assert process.wait() == 137
        assert process.exit is not None
        assert process.exit.reason is ProcessReason.OUT_OF_MEMORY
        assert "memory limit" in process.exit.evidence
        # The kernel chose the process or the sandbox's kernel; either is told as what it is.
        if box.poll() is None:
            assert alive(box)
        else:
            assert box.exit is not None
            assert box.exit.reason is SandboxReason.OUT_OF_MEMORY


def test_eight_growing_processes_are_out_of_memory_each(neighbour: Sandbox) -> None:
    with Sandbox.create(block_network=True, memory=(128, 128)) as box:
        bombs = []
        try:
            for _ in range(8):
                bombs.append(box.exec("python3", "-c", GROW))
        except SandboxEndedError:
            assert bombs  # the first ones were quick
        for bomb in bombs:
            assert bomb.wait() == 137
            assert bomb.exit is not None
            assert bomb.exit.reason is ProcessReason.OUT_OF_MEMORY, bomb.exit
        assert alive(neighbour)
        if box.poll() is not None:
            assert box.exit is not None
            assert box.exit.reason is SandboxReason.OUT_OF_MEMORY
            assert "the memory limit was reached" in box.exit.evidence


def test_an_entrypoint_that_grows_ends_its_sandbox_out_of_memory() -> None:
    box = Sandbox.create("python3", "-c", GROW, block_network=True, memory=(128, 128))
    box.wait()  # no exception: the program ended it itself
    assert box.returncode == 137
    assert box.exit is not None
    assert box.exit.reason is SandboxReason.OUT_OF_MEMORY


@pytest.mark.parametrize(
    ("folder", "mib"),
    [
        ("/root", limits.DISK_DEFAULT_MIB),
        ("/tmp", limits.TMP_DEFAULT_MIB),
        ("/dev/shm", limits.SHM_DEFAULT_MIB),
        ("/run", 64),
    ],
)
def test_a_folder_that_is_filled_is_full_at_its_size_and_the_sandbox_goes_on(
    neighbour: Sandbox, folder: str, mib: int
) -> None:
    with Sandbox.create(block_network=True) as box:
        process = box.exec("dd", "if=/dev/zero", f"of={folder}/fill", "bs=1M")
        assert process.wait() == 1
        assert "No space left on device" in process.stderr.read()
        assert box.filesystem.stat(f"{folder}/fill").size <= mib << 20
        assert box.filesystem.stat(f"{folder}/fill").size > (mib - 2) << 20
        box.filesystem.remove(f"{folder}/fill")
        box.filesystem.write_text("room again", f"{folder}/note")
        assert alive(box)
