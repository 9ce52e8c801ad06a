"""Volumes on the machine: their bounds, their mounts, and what a kill leaves."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from leftovers import loop_devices_of, mounts_below

from skerry.model.errors import ConflictError, SandboxFilesystemNoSpaceError, SandboxFilesystemNotRegularError
from skerry.model.ids import CommitId, RandomIds, VolumeId
from skerry.model.limits import MIB
from skerry.model.volumes import VolumeView
from skerry.volumes.folder import VolumeFolder

pytestmark = pytest.mark.root
FILES = 1024


@pytest.fixture
async def folder(as_root: None, tmp_path: Path) -> AsyncIterator[VolumeFolder]:
    made = VolumeFolder(tmp_path / "volumes")
    made.open()
    yield made
    await VolumeFolder(tmp_path / "volumes").sweep()
    assert mounts_below(tmp_path) == []
    assert loop_devices_of(tmp_path) == []


async def make(folder: VolumeFolder) -> VolumeView:
    view = VolumeView(
        id=VolumeId(RandomIds().new("vo")), name="data", created_at=0.0, size_bytes=128 * MIB, files_max=FILES
    )
    await folder.make(view)
    return view


def fill(file: Path) -> None:
    with file.open("wb", buffering=0) as opened:
        while True:
            opened.write(bytes(MIB))


def touch(folder: Path, count: int) -> None:
    for number in range(count):
        (folder / str(number)).touch()


@contextmanager
def held_elsewhere(root: Path, at: Path) -> Iterator[Path]:
    """Bind a folder in a mount namespace of its own, as a gofer does; yield the file system that is seen there."""
    at.mkdir()
    script = f"mount --bind {root} {at}; echo ready; exec sleep 600"
    with subprocess.Popen(["unshare", "--mount", "sh", "-c", script], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield Path(f"/proc/{process.pid}/root{at}")
        finally:
            process.kill()


async def zeros(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // MIB):
        yield bytes(MIB)


async def test_a_volume_holds_no_more_than_its_size(folder: VolumeFolder, tmp_path: Path) -> None:
    volume = await make(folder)
    with pytest.raises(SandboxFilesystemNoSpaceError, match="the volume is full"):
        await folder.write(volume.id, "/big", zeros(256 * MIB))
    assert [one async for one in folder.list(volume.id, "/")] == [], "what did not fit left nothing"
    root = await folder.hold(volume.id, "guest")
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        fill(root / "big")
    assert (root / "big").stat().st_size <= 128 * MIB
    image = tmp_path / "volumes" / volume.id / "image.ext4"
    assert image.stat().st_size == 128 * MIB
    await folder.release(volume.id, "guest")


async def test_a_volume_holds_no_more_files_than_its_bound(folder: VolumeFolder) -> None:
    volume = await make(folder)
    root = await folder.hold(volume.id, "guest")
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        touch(root, 2 * FILES)
    assert FILES - 32 <= len(os.listdir(root)) <= FILES + 32  # of which the file system has some itself
    await folder.release(volume.id, "guest")


async def test_what_is_deleted_goes_back_to_the_machines_disk(folder: VolumeFolder) -> None:
    volume = await make(folder)
    await folder.write(volume.id, "/big", noise(32))
    held = folder.disk_bytes(volume.id)
    assert held > 32 * MIB
    await folder.remove_file(volume.id, "/big")
    assert folder.disk_bytes(volume.id) < held - 30 * MIB


async def noise(mib: int) -> AsyncIterator[bytes]:
    for _ in range(mib):
        yield os.urandom(MIB)


async def test_a_volume_is_mounted_while_anyone_holds_it(folder: VolumeFolder, tmp_path: Path) -> None:
    volume = await make(folder)
    roots = {await folder.hold(volume.id, holder) for holder in ("one", "two")}
    assert len(roots) == len(mounts_below(tmp_path)) == 1
    with pytest.raises(ConflictError, match="in use"):
        await folder.remove(volume.id)
    await folder.release(volume.id, "one")
    await folder.release(volume.id, "one")
    assert len(mounts_below(tmp_path)) == 1
    await folder.release(volume.id, "two")
    assert mounts_below(tmp_path) == loop_devices_of(tmp_path) == []


async def test_a_successor_goes_on_with_what_is_mounted_and_unmounts_what_nobody_holds(
    folder: VolumeFolder, tmp_path: Path
) -> None:
    kept, left = await make(folder), await make(folder)
    root = await folder.hold(kept.id, "sandbox")
    (root / "x").write_text("x")
    await folder.hold(left.id, "sandbox")
    successor = VolumeFolder(tmp_path / "volumes")  # the first one was killed
    successor.open()
    assert await successor.hold(kept.id, "sandbox") == root
    (line,) = await successor.sweep()
    assert left.id in line
    assert (root / "x").read_text() == "x"
    assert len(loop_devices_of(tmp_path)) == 1
    await successor.release(kept.id, "sandbox")


async def test_a_file_is_never_mounted_through_two_loop_devices(folder: VolumeFolder, tmp_path: Path) -> None:
    """A gofer of an earlier server may hold the mount in its own namespace, when ours is gone."""
    volume = await make(folder)
    root = await folder.hold(volume.id, "one")
    with held_elsewhere(root, tmp_path / "elsewhere") as inside:
        await folder.release(volume.id, "one")
        assert mounts_below(tmp_path) == []
        assert len(loop_devices_of(tmp_path)) == 1, "the other namespace holds it"
        again = await folder.hold(volume.id, "two")
        assert len(loop_devices_of(tmp_path)) == 1
        (again / "x").write_text("seen there")
        assert (inside / "x").read_text() == "seen there"
        await folder.release(volume.id, "two")


async def test_what_a_kill_left_is_removed_at_the_next_start(folder: VolumeFolder, tmp_path: Path) -> None:
    known, unknown = await make(folder), await make(folder)
    told, untold = CommitId("vc_1"), CommitId("vc_2")
    await folder.commit(known, told, previous=None)
    await folder.commit(known, untold, previous=told)
    lines = await folder.clean(lambda volume: [told] if volume == known.id else None)
    assert len(lines) == 2
    assert not (tmp_path / "volumes" / unknown.id).exists()
    assert [path.name for path in (tmp_path / "volumes" / known.id / "commits").iterdir()] == [told]


async def test_devices_and_pipes_that_lie_in_a_volume_are_never_opened(folder: VolumeFolder) -> None:
    volume = await make(folder)
    root = await folder.hold(volume.id, "guest")
    os.mknod(root / "disk", 0o600 | 0o060000, os.makedev(7, 0))
    os.mkfifo(root / "pipe")
    for name in ("disk", "pipe"):
        with pytest.raises(SandboxFilesystemNotRegularError):
            await folder.read(volume.id, f"/{name}")
    with pytest.raises(PermissionError):
        (root / "disk").open("rb")  # nodev, for whoever is not so careful
    await folder.commit(volume, CommitId("vc_1"), previous=None)
    with pytest.raises(SandboxFilesystemNotRegularError):
        await folder.read(volume.id, "/disk", commit=CommitId("vc_1"))
    await folder.release(volume.id, "guest")


async def test_a_volume_whose_file_is_damaged_is_refused_with_what_the_machine_says(
    folder: VolumeFolder, tmp_path: Path
) -> None:
    volume = await make(folder)
    with (tmp_path / "volumes" / volume.id / "image.ext4").open("r+b") as file:
        file.write(bytes(MIB))
    with pytest.raises(ConflictError, match=r"mount failed: .*run `skerry doctor`"):
        await folder.hold(volume.id, "one")
    assert mounts_below(tmp_path) == []
