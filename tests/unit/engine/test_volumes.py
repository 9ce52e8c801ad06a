from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from engine_world import World

from skerry.engine.mounts import admit_mounts
from skerry.model import limits
from skerry.model.errors import ConflictError, InvalidError, NotFoundError, ResourceExhaustedError
from skerry.model.ids import VolumeId
from skerry.model.volumes import VolumeMount


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def mount(volume: str, path: str = "/data") -> VolumeMount:
    return VolumeMount(volume=VolumeId(volume), path=path)


async def test_a_volume_is_found_by_its_name_and_made_once_however_many_ask(world: World) -> None:
    async with world.engine() as engine:
        with pytest.raises(NotFoundError, match="there is no volume 'data'"):
            await engine.volumes.find("data", create=False)
        made = await asyncio.gather(*(engine.volumes.find("data", create=True) for _ in range(10)))
        assert len({volume.id for volume in made}) == 1
        assert engine.volumes.list() == [made[0]]
        assert made[0].size_bytes == limits.VOLUME_DEFAULT_BYTES
    async with world.engine() as successor:
        assert await successor.volumes.find("data", create=False) == made[0]


async def test_a_volume_in_use_is_not_deleted_and_one_that_is_gone_is_no_error(world: World) -> None:
    async with world.engine() as engine:
        volume = await engine.volumes.find("data", create=True)
        box = await engine.sandboxes.create(world.spec(volumes=(mount(volume.id),)))
        with pytest.raises(ConflictError, match=f"mounted in sandbox {box.id}") as caught:
            await engine.volumes.delete(volume.id)
        assert caught.value.details == {"sandboxes": [box.id]}
        await engine.sandboxes.terminate(box.id)
        await engine.volumes.delete(volume.id)
        await engine.volumes.delete(volume.id)
        assert engine.volumes.list() == []
        with pytest.raises(NotFoundError):
            await engine.sandboxes.create(world.spec(volumes=(mount(volume.id),)))
        assert (await engine.volumes.find("data", create=True)).id != volume.id


async def test_a_sandbox_that_is_still_starting_is_a_use_and_so_is_one_that_was_adopted(world: World) -> None:
    async with world.engine() as engine:
        volume = await engine.volumes.find("data", create=True)
        world.node.hold_starts.clear()
        starting = asyncio.create_task(engine.sandboxes.create(world.spec(volumes=(mount(volume.id),))))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        with pytest.raises(ConflictError):
            await engine.volumes.delete(volume.id)
        world.node.hold_starts.set()
        await starting
    async with world.engine() as successor:
        with pytest.raises(ConflictError):
            await successor.volumes.delete(volume.id)


async def test_a_volume_that_somebody_else_holds_stays_with_its_row(world: World) -> None:
    async with world.engine() as engine:
        volume = await engine.volumes.find("data", create=True)
        world.volumes.busy.add(volume.id)
        with pytest.raises(ConflictError):
            await engine.volumes.delete(volume.id)
        assert engine.volumes.get(volume.id) == volume


async def test_a_commit_is_made_once_for_a_key_and_stays(world: World) -> None:
    async with world.engine() as engine:
        volume = await engine.volumes.find("data", create=True)
        await engine.volumes.write(volume.id, "/a", chunks(b"old"))
        first, again = await asyncio.gather(
            *(engine.volumes.commit(volume.id, idempotency_key="key") for _ in range(2))
        )
        assert first == again
        await engine.volumes.write(volume.id, "/a", chunks(b"new"))
        second = await engine.volumes.commit(volume.id)
        assert list(engine.volumes.commits(volume.id)) == [second, first]
        reading = await engine.volumes.read(volume.id, "/a", commit=first.id)
        assert [bytes(part) async for part in reading.chunks()] == [b"old"]
        with pytest.raises(NotFoundError, match="has no commit 'vc_x'"):
            await engine.volumes.read(volume.id, "/a", commit="vc_x")
        await engine.volumes.delete_commit(volume.id, first.id)
        await engine.volumes.delete_commit(volume.id, first.id)
        assert list(engine.volumes.commits(volume.id)) == [second]


async def test_a_commit_of_another_volume_is_not_read_through_this_one(world: World) -> None:
    async with world.engine() as engine:
        mine = await engine.volumes.find("mine", create=True)
        theirs = await engine.volumes.find("theirs", create=True)
        commit = await engine.volumes.commit(theirs.id)
        with pytest.raises(NotFoundError):
            await engine.volumes.stat(mine.id, "/", commit=commit.id)


async def test_commits_and_volumes_have_bounds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "VOLUME_COMMITS_MAX", 2)
    monkeypatch.setattr(limits, "VOLUMES_MAX", 1)
    async with world.engine() as engine:
        volume = await engine.volumes.find("data", create=True)
        for _ in range(2):
            await engine.volumes.commit(volume.id)
        with pytest.raises(ResourceExhaustedError, match="remove some"):
            await engine.volumes.commit(volume.id)
        with pytest.raises(ResourceExhaustedError):
            await engine.volumes.find("more", create=True)


async def test_lost_volumes_show_in_the_view(world: World) -> None:
    async with world.engine() as engine:
        volume = await engine.volumes.find("data", create=True)
        box = await engine.sandboxes.create(world.spec(volumes=(mount(volume.id),)))
        assert not engine.sandboxes.get(box.id).volumes_lost
        world.node.lost_volumes.add(box.id)
        assert engine.sandboxes.get(box.id).volumes_lost


@pytest.mark.parametrize("name", ["", "a/b", "a b", "ä", "x" * (limits.NAME_CHARS + 1), "\x1b[2J", "a\n"])
async def test_an_unusable_name_is_refused(world: World, name: str) -> None:
    async with world.engine() as engine:
        with pytest.raises(InvalidError, match="is not a name"):
            await engine.volumes.find(name, create=True)


@pytest.mark.parametrize(
    ("paths", "complaint"),
    [
        (["/"], "where the image is"),
        (["/../"], "where the image is"),
        (["data"], "relative"),
        (["/a", "/a/b"], "side by side"),
        (["/a/b", "/a"], "side by side"),
        (["/a", "/b/../a"], "side by side"),
        (["/proc/1"], "the sandbox's own"),
        (["/dev"], "the sandbox's own"),
        (["/tmp"], "the sandbox's own"),
        (["/etc/hosts"], "the sandbox's own"),
        ([f"/{number}" for number in range(limits.SANDBOX_VOLUMES_MAX + 1)], "at most"),
    ],
)
def test_a_path_where_no_volume_can_lie_is_refused(paths: Sequence[str], complaint: str) -> None:
    with pytest.raises(InvalidError, match=complaint):
        admit_mounts([mount(f"vo_{number}", path) for number, path in enumerate(paths)])


def test_a_volume_mounted_twice_is_refused() -> None:
    with pytest.raises(InvalidError, match="mounted twice"):
        admit_mounts([mount("vo_1", "/a"), mount("vo_1", "/b")])


def test_paths_are_normalised_and_folders_with_a_common_beginning_lie_side_by_side() -> None:
    admitted = admit_mounts([mount("vo_1", "/data//x/"), mount("vo_2", "/data/xy"), mount("vo_3", "/tmp/in")])
    assert [one.path for one in admitted] == ["/data/x", "/data/xy", "/tmp/in"]
