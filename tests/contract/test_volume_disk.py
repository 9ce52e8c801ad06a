"""What the engine asks of the place where volumes lie, for each such place."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from skerry.engine.interfaces import VolumeDisk
from skerry.model.errors import Error, InvalidError, SandboxFilesystemIsADirectoryError, SandboxFilesystemNotFoundError
from skerry.model.ids import CommitId, RandomIds, VolumeId
from skerry.model.limits import MIB
from skerry.model.volumes import VolumeView
from skerry.testing.clock import VirtualClock
from skerry.testing.volumes import MemoryVolumes
from skerry.volumes.folder import VolumeFolder

ONE, TWO = CommitId("vc_1"), CommitId("vc_2")


@pytest.fixture(params=["memory", pytest.param("folder", marks=pytest.mark.root)])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> VolumeDisk:
    if request.param == "memory":
        return MemoryVolumes(VirtualClock())
    if os.geteuid() != 0:
        pytest.skip("needs root: volumes are mounted")
    folder = VolumeFolder(tmp_path / "volumes")
    folder.open()
    return folder


@pytest.fixture
async def volume(disk: VolumeDisk) -> AsyncIterator[VolumeView]:
    view = VolumeView(
        id=VolumeId(RandomIds().new("vo")), name="data", created_at=0.0, size_bytes=128 * MIB, files_max=8192
    )
    await disk.make(view)
    yield view
    await disk.remove(view.id)


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def content(disk: VolumeDisk, volume: VolumeView, path: str, commit: CommitId | None = None) -> bytes:
    reading = await disk.read(volume.id, path, commit=commit)
    try:
        return b"".join([bytes(part) async for part in reading.chunks()])
    finally:
        await reading.close()


async def paths(disk: VolumeDisk, volume: VolumeView, path: str = "/", **options: object) -> set[str]:
    return {one.path async for one in disk.list(volume.id, path, **options)}  # type: ignore[arg-type]


async def test_what_is_written_is_read_and_listed(disk: VolumeDisk, volume: VolumeView) -> None:
    assert await disk.write(volume.id, "/a/b", chunks(b"x", b"yz")) == 3
    assert await disk.write(volume.id, "c", chunks()) == 0
    assert await content(disk, volume, "a/b") == b"xyz"
    assert await paths(disk, volume) == {"/a", "/c"}
    assert await paths(disk, volume, recursive=True) == {"/a", "/a/b", "/c"}
    assert await paths(disk, volume, "/a") == {"/a/b"}
    told = await disk.stat(volume.id, "/a/b")
    assert (told.type, told.size, told.name) == ("file", 3, "b")
    assert (await disk.stat(volume.id, "/")).type == "directory"
    assert disk.disk_bytes(volume.id) > 0


async def test_what_is_not_there_or_cannot_be_read_says_so(disk: VolumeDisk, volume: VolumeView) -> None:
    await disk.write(volume.id, "/a/b", chunks(b"x"))
    with pytest.raises(SandboxFilesystemNotFoundError):
        await content(disk, volume, "/nope")
    with pytest.raises(SandboxFilesystemIsADirectoryError):
        await content(disk, volume, "/a")
    with pytest.raises(InvalidError, match=r"\.\."):
        await content(disk, volume, "/a/../a/b")
    with pytest.raises(SandboxFilesystemNotFoundError):
        await paths(disk, volume, "/nope")
    with pytest.raises(SandboxFilesystemIsADirectoryError):
        await disk.write(volume.id, "/a", chunks(b"x"))


async def test_a_write_that_fails_leaves_what_was_there(disk: VolumeDisk, volume: VolumeView) -> None:
    await disk.write(volume.id, "/a", chunks(b"old"))

    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise InvalidError("the client went away")

    with pytest.raises(InvalidError, match="went away"):
        await disk.write(volume.id, "/a", broken())
    assert await content(disk, volume, "/a") == b"old"
    assert await paths(disk, volume) == {"/a"}


async def test_removing_needs_to_be_told_of_a_tree(disk: VolumeDisk, volume: VolumeView) -> None:
    await disk.write(volume.id, "/a/b/c", chunks(b"x"))
    with pytest.raises(Error, match="not empty"):
        await disk.remove_file(volume.id, "/a")
    await disk.remove_file(volume.id, "/a/b/c")
    await disk.remove_file(volume.id, "/a", recursive=True)
    assert await paths(disk, volume) == set()


async def test_a_commit_stays_as_it_was(disk: VolumeDisk, volume: VolumeView) -> None:
    await disk.write(volume.id, "/a/b", chunks(b"old"))
    size = await disk.commit(volume, ONE, previous=None)
    assert (size.files, size.size) == (2, 3)
    await disk.write(volume.id, "/a/b", chunks(b"newer"))
    await disk.write(volume.id, "/c", chunks(b"x"))
    await disk.commit(volume, TWO, previous=ONE)
    await disk.remove_file(volume.id, "/a", recursive=True)
    assert await content(disk, volume, "/a/b", ONE) == b"old"
    assert await content(disk, volume, "/a/b", TWO) == b"newer"
    assert await paths(disk, volume, recursive=True, commit=ONE) == {"/a", "/a/b"}
    assert (await disk.stat(volume.id, "/a/b", commit=TWO)).size == 5
    with pytest.raises(SandboxFilesystemNotFoundError):
        await content(disk, volume, "/c", ONE)
    await disk.remove_commit(volume.id, ONE)
    assert await content(disk, volume, "/a/b", TWO) == b"newer"
