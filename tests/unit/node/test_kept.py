"""What stays in memory of ended sandboxes, what of them counts, and what becomes of their readers."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest

from skerry.model.errors import NotFoundError
from skerry.model.exits import SandboxExit, SandboxReason
from skerry.model.ids import PROCESS, SANDBOX, ProcessId, RandomIds, SandboxId
from skerry.node.kept import KeptSandboxes
from skerry.node.output_quota import NodeQuota
from skerry.node.records import Journal, ProcessStarted
from skerry.node.table import ProcessTable

IDS = RandomIds()
ENDED = SandboxExit(reason=SandboxReason.TERMINATED)
WRITTEN = b"x" * 4096
IN_MEMORY = 3


class World:
    """A node's quota and output folder, and what it keeps of its ended sandboxes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.free = 1 << 40
        self.quota = NodeQuota(lambda: self.free)
        self.kept = KeptSandboxes(folder, self.quota, in_memory=IN_MEMORY)

    def ended(self) -> ProcessTable:
        """Return the table of a sandbox that has just ended and whose one process wrote a block."""
        sandbox = SandboxId(IDS.new(SANDBOX))
        table = self.written(sandbox)
        table.settle_all(ENDED, 2.0)
        return table

    def written(self, sandbox: SandboxId) -> ProcessTable:
        folder = self.folder / sandbox
        folder.mkdir()
        process = ProcessId(IDS.new(PROCESS))
        journal = Journal(folder / "journal")
        journal.add(ProcessStarted(process=process, stream=1, argv=("x",), at=1.0, channels=(1,), stdin=False))
        journal.close()
        (folder / f"{process}.1").write_bytes(WRITTEN)
        table = ProcessTable(sandbox, folder, self.quota)
        table.read()
        return table


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_only_those_used_last_are_in_memory(world: World) -> None:
    alive = []
    for _ in range(10):
        table = world.ended()
        alive.append(weakref.ref(table))
        world.kept.add(table)
        del table
    gc.collect()
    assert [each() is not None for each in alive] == [False] * (10 - IN_MEMORY) + [True] * IN_MEMORY
    assert len(world.kept.ids()) == 10


async def test_reading_old_ones_does_not_fill_the_memory_either(world: World) -> None:
    tables = [world.ended() for _ in range(10)]
    for table in tables:
        world.kept.add(table)
    ids = [table.sandbox for table in tables]
    del tables, table
    alive = [weakref.ref(world.kept.table(each)) for each in ids]
    gc.collect()
    assert sum(each() is not None for each in alive) == IN_MEMORY


async def test_one_that_left_the_memory_is_found_again_with_its_end_and_output(world: World) -> None:
    first = world.ended().sandbox
    world.kept.add(ProcessTable(first, world.folder / first, world.quota))
    for _ in range(IN_MEMORY):
        world.kept.add(world.ended())
    table = world.kept.table(first)
    assert table.end is not None
    assert table.end.exit == ENDED
    (process,) = table.all()
    assert process.output(1).read(0, 1 << 20) == (0, WRITTEN)


async def test_output_counts_the_same_in_memory_and_out_of_it(world: World) -> None:
    tables = [world.ended() for _ in range(2 * IN_MEMORY)]
    counted = world.quota.used
    for table in tables:
        world.kept.add(table)
    assert world.quota.used == counted == len(tables) * len(WRITTEN)
    assert {world.kept.output_bytes(table.sandbox) for table in tables} == {len(WRITTEN)}
    for table in tables:
        world.kept.table(table.sandbox)
    assert world.quota.used == counted
    for table in tables:
        world.kept.forget(table.sandbox)
    assert world.quota.used == 0
    assert not list(world.folder.iterdir())


async def test_a_successor_counts_what_it_finds_without_reading_it(world: World) -> None:
    ids = [world.ended().sandbox for _ in range(2)]
    lives = world.ended().sandbox
    successor = World(world.folder)
    await successor.kept.find([lives])
    assert set(successor.kept.ids()) == set(ids)
    assert successor.kept.output_bytes(ids[0]) >= len(WRITTEN)
    assert successor.quota.used == sum(map(successor.kept.output_bytes, ids))
    for each in ids:
        successor.kept.forget(each)
    assert successor.quota.used == 0


async def test_what_is_forgotten_is_not_found(world: World) -> None:
    tables = [world.ended() for _ in range(IN_MEMORY + 1)]
    for table in tables:
        world.kept.add(table)
    for table in (tables[0], tables[-1]):  # out of memory, and in it
        world.kept.forget(table.sandbox)
        with pytest.raises(NotFoundError):
            world.kept.table(table.sandbox)
        assert world.kept.output_bytes(table.sandbox) == 0
    with pytest.raises(NotFoundError):
        world.kept.table(SandboxId("../" + tables[1].sandbox))


async def test_a_reader_of_one_that_left_the_memory_reads_on(world: World) -> None:
    (process,) = (table := world.ended()).all()
    world.kept.add(table)
    follower = process.output(1).follow(0)
    for _ in range(IN_MEMORY):
        world.kept.add(world.ended())
    assert [content async for _, content in follower] == [WRITTEN]


async def test_a_reader_of_one_that_was_forgotten_meanwhile_comes_to_the_end(world: World) -> None:
    (process,) = (table := world.ended()).all()
    world.kept.add(table)
    follower = process.output(1).follow(0)
    for _ in range(IN_MEMORY):
        world.kept.add(world.ended())
    world.kept.forget(table.sandbox)
    assert [content async for _, content in follower] == []


async def test_output_that_waits_for_the_disk_keeps_its_sandbox_in_memory(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = world.written(SandboxId(IDS.new(SANDBOX)))
    (process,) = table.all()
    with monkeypatch.context() as full:
        full.setattr("os.pwritev", _no_space)
        process.log.store(1, [memoryview(b"late")])
        table.settle_all(ENDED, 2.0)
        world.kept.add(table)
        for _ in range(2 * IN_MEMORY):
            world.kept.add(world.ended())
        assert world.kept.table(table.sandbox) is table
    world.quota.tell()
    assert [content async for _, content in process.output(1).follow(len(WRITTEN))] == [b"late"]
    world.quota.close()


def _no_space(*_args: object) -> int:
    raise OSError(28, "No space left on device")
