"""The line to the keeper, with the test as the keeper."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from skerry.isolation.gvisor.keeper import Keeper, KeeperError


class OtherEnd:
    """What the sandbox holds: both pipes, for reading and writing."""

    def __init__(self, folder: Path) -> None:
        self.paths = folder / "in", folder / "out"
        for path in self.paths:
            os.mkfifo(path)
        self.reader, self.writer = (os.open(path, os.O_RDWR | os.O_NONBLOCK) for path in self.paths)

    async def heard(self) -> bytes:
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self.reader, readable.set)
        await readable.wait()
        loop.remove_reader(self.reader)
        return os.read(self.reader, 100)

    def say(self, text: bytes) -> None:
        os.write(self.writer, text)

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[OtherEnd]:
    end = OtherEnd(tmp_path)
    yield end
    end.close()


@pytest.fixture
def keeper(other: OtherEnd) -> Iterator[Keeper]:
    line = Keeper(*other.paths, new=False)
    yield line
    line.close()


async def test_a_line_is_answered_by_a_line(keeper: Keeper, other: OtherEnd) -> None:
    asking = asyncio.create_task(keeper.ask("lifetime 5"))
    assert await other.heard() == b"lifetime 5\n"
    other.say(b"o")
    await asyncio.sleep(0)
    assert not asking.done()
    other.say(b"k\n")
    await asyncio.wait_for(asking, 10)


async def test_a_new_keeper_is_asked_once_it_has_greeted(other: OtherEnd) -> None:
    line = Keeper(*other.paths, new=True)
    asking = asyncio.create_task(line.ask("lifetime 5"))
    await asyncio.sleep(0)
    with pytest.raises(BlockingIOError):
        os.read(other.reader, 1)
    other.say(b"ready\n")
    assert await other.heard() == b"lifetime 5\n"
    other.say(b"ok\n")
    await asyncio.wait_for(asking, 10)
    line.close()


async def test_another_answer_is_an_error(keeper: Keeper, other: OtherEnd) -> None:
    asking = asyncio.create_task(keeper.ask("ping"))
    await other.heard()
    other.say(b"error\n")
    with pytest.raises(KeeperError, match="error"):
        await asyncio.wait_for(asking, 10)


async def test_what_was_said_to_an_earlier_node_is_forgotten(keeper: Keeper, other: OtherEnd) -> None:
    other.say(b"ok\nok\n")
    asking = asyncio.create_task(keeper.ask("ping"))
    await other.heard()
    assert not asking.done()
    other.say(b"ok\n")
    await asyncio.wait_for(asking, 10)


async def test_questions_wait_for_each_other(keeper: Keeper, other: OtherEnd) -> None:
    first, second = asyncio.create_task(keeper.ask("a")), asyncio.create_task(keeper.ask("b"))
    assert await other.heard() == b"a\n"
    other.say(b"ok\n")
    await asyncio.wait_for(first, 10)
    assert await other.heard() == b"b\n"
    other.say(b"ok\n")
    await asyncio.wait_for(second, 10)


async def test_a_keeper_that_reads_nothing_any_more_is_told(keeper: Keeper, other: OtherEnd) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(other.reader, bytes(4096))
    with pytest.raises(KeeperError, match="reads nothing"):
        await asyncio.wait_for(keeper.ask("ping"), 10)


async def test_the_pipes_survive_the_node(other: OtherEnd) -> None:
    Keeper(*other.paths, new=True).close()
    line = Keeper(*other.paths, new=False)
    asking = asyncio.create_task(line.ask("ping"))
    assert await other.heard() == b"ping\n", "no end of file came in between"
    other.say(b"ok\n")
    await asyncio.wait_for(asking, 10)
    line.close()
