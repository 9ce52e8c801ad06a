from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from engine_world import World

from skerry.model.errors import (
    InvalidError,
    SandboxEndedError,
    SandboxFilesystemFileTooLargeError,
    SandboxFilesystemIsADirectoryError,
)
from skerry.testing.files import MemoryFiles, MemoryReading


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_what_was_written_is_read(world: World) -> None:
    async with world.engine() as engine:
        view = await engine.sandboxes.create(world.spec())
        assert await engine.files.write(view.id, "/a/../b", chunks(b"x", b"yz")) == 3
        reading = await engine.files.read(view.id, b"/b")
        assert [bytes(part) async for part in reading.chunks()] == [b"xyz"]


async def test_relative_paths_are_refused_before_anything_happens(world: World) -> None:
    async with world.engine() as engine:
        view = await engine.sandboxes.create(world.spec())
        with pytest.raises(InvalidError, match="relative"):
            await engine.files.read(view.id, "b")


async def test_the_root_can_be_listed_but_not_written_made_or_removed(world: World) -> None:
    async with world.engine() as engine:
        view = await engine.sandboxes.create(world.spec())
        names = [entry.name async for entry in await engine.files.list(view.id, "/")]
        assert names == ["root", "tmp"]
        with pytest.raises(InvalidError, match="itself"):
            await engine.files.write(view.id, "/", chunks())
        with pytest.raises(InvalidError, match="itself"):
            await engine.files.remove(view.id, "/..", recursive=True)
        with pytest.raises(InvalidError, match="itself"):
            await engine.files.make_directory(view.id, "//")


async def test_a_directory_cannot_be_read(world: World) -> None:
    async with world.engine() as engine:
        view = await engine.sandboxes.create(world.spec())
        with pytest.raises(SandboxFilesystemIsADirectoryError):
            await engine.files.read(view.id, "/tmp")


async def test_a_file_beyond_the_bound_is_refused_with_the_next_step(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skerry.model.limits.FILE_READ_BYTES", 4)
    async with world.engine() as engine:
        view = await engine.sandboxes.create(world.spec())
        await engine.files.write(view.id, "/big", chunks(b"12345"))
        with pytest.raises(SandboxFilesystemFileTooLargeError, match="in parts"):
            await engine.files.read(view.id, "/big")
        reading = await engine.files.read(view.id, "/big", offset=1, length=4)
        assert reading.size == 4


async def test_a_file_that_grows_while_it_is_read_carries_no_more_than_the_bound(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skerry.model.limits.FILE_READ_BYTES", 4)
    asked: list[int | None] = []

    async def endless(self: MemoryFiles, path: str, *, offset: int = 0, length: int | None = None) -> MemoryReading:
        asked.append(length)
        reading = MemoryReading(b"123")
        monkeypatch.setattr(reading, "chunks", lambda: chunks(b"123", b"4", b"5"))
        return reading

    monkeypatch.setattr(MemoryFiles, "read", endless)
    async with world.engine() as engine:
        view = await engine.sandboxes.create(world.spec())
        reading = await engine.files.read(view.id, "/growing")
        content = aiter(reading.chunks())
        assert [await anext(content), await anext(content)] == [b"123", b"4"]
        with pytest.raises(SandboxFilesystemFileTooLargeError, match="in parts"):
            await anext(content)
    assert asked == [5]


async def test_files_of_an_ended_sandbox_are_gone_with_it(world: World) -> None:
    async with world.engine() as engine:
        view = await engine.sandboxes.create(world.spec())
        await engine.sandboxes.terminate(view.id)
        with pytest.raises(SandboxEndedError):
            await engine.files.stat(view.id, "/tmp")
