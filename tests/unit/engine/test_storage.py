"""What is told of what is kept, and what goes when it is asked for: never what is in use."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from engine_world import World

from skerry.engine.engine import Engine, assemble
from skerry.engine.storage import GRACE_S
from skerry.images.files import ImageFolder
from skerry.model.errors import InvalidError
from skerry.model.ids import ImageId, SandboxId
from skerry.model.specs import ExecSpec, ImageDefinition, SandboxSpec
from skerry.model.storage import StoredKind, StoredThing

DAY_S = 86400.0


@asynccontextmanager
async def engine_with_files(world: World, folder: Path) -> AsyncIterator[tuple[Engine, ImageFolder]]:
    """Run an engine whose images have files in a folder."""
    files = ImageFolder(folder)
    files.open()
    engine = assemble(
        store=world.store,
        nodes={world.node.view().id: world.node},
        images=world.images,
        volume_disk=world.volumes,
        clock=world.clock,
        vault=world.vault,
        ids=world.ids,
        image_files=files,
    )
    async with engine.running():
        yield engine, files


async def image(world: World, files: ImageFolder, *, unused_s: float) -> ImageId:
    """Add an image with a file that was used so long ago."""
    view = world.images.add()
    await world.store.put_image(view, ImageDefinition())
    with files.draft() as draft:
        draft.write_bytes(bytes(8192))
        files.keep(draft, view.id)
    used_at = world.clock.now() - unused_s
    os.utime(files.path(view.id), (used_at, used_at))
    return view.id


async def ended(engine: Engine, world: World, spec: SandboxSpec) -> SandboxId:
    """Return a sandbox that has written something and has ended."""
    view = await engine.sandboxes.create(spec)
    process = await engine.processes.exec(view.id, world.ids.new("pr"), ExecSpec(argv=("echo", "written")))
    await process.wait()
    await engine.sandboxes.terminate(view.id)
    return view.id


def of(things: Sequence[StoredThing], kind: StoredKind) -> dict[str, tuple[bool, str]]:
    return {thing.id: (thing.goes, thing.why) for thing in things if thing.kind is kind}


async def test_everything_is_told_with_its_cost_and_why_it_stays(world: World, tmp_path: Path) -> None:
    async with engine_with_files(world, tmp_path) as (engine, files):
        used, recent, old = [await image(world, files, unused_s=age) for age in (2 * DAY_S, 1.0, 3 * DAY_S)]
        spec = SandboxSpec(image=used)
        gone = await ended(engine, world, spec)
        live = await engine.sandboxes.create(spec)
        volume = await engine.volumes.find("data", create=True)
        things = await engine.storage.look()
        assert of(things, StoredKind.IMAGE) == {
            used: (False, "a sandbox or a build uses it"),
            recent: (False, "it was used within the last 1 hour"),
            old: (False, "it was used within the last 30 days, and there is room"),
        }
        assert of(things, StoredKind.OUTPUT) == {
            gone: (False, "ended sandboxes are remembered for 1 day"),
            live.id: (False, "its sandbox runs"),
        }
        assert of(things, StoredKind.VOLUME) == {volume.name: (False, "volumes stay until `skerry volume rm`")}
        sizes = {thing.id: thing.bytes for thing in things}
        assert sizes[old] >= 8192
        assert sizes[gone] == len("written\n")


async def test_what_is_asked_for_goes_and_what_is_in_use_or_was_just_used_stays(world: World, tmp_path: Path) -> None:
    async with engine_with_files(world, tmp_path) as (engine, files):
        used, recent, old = [await image(world, files, unused_s=age) for age in (2 * DAY_S, 1.0, 3 * DAY_S)]
        first = await ended(engine, world, SandboxSpec(image=used))
        await world.clock.advance(GRACE_S + 1)
        os.utime(files.path(recent), (world.clock.now(), world.clock.now()))
        second = await ended(engine, world, SandboxSpec(image=used))
        live = await engine.sandboxes.create(SandboxSpec(image=used))
        told = {thing.id for thing in await engine.storage.look(older_than_s=0) if thing.goes}
        assert told == {old, first}
        assert (await engine.storage.look(older_than_s=4 * DAY_S))[0].goes is False
        cleaned = await engine.storage.collect(older_than_s=0)
        assert {thing.id for thing in cleaned.went} == told
        assert {path.stem for path in tmp_path.glob("*.erofs")} == {used, recent}
        assert {thing.id for thing in cleaned.kept if thing.kind is StoredKind.OUTPUT} == {second, live.id}
        assert not any(thing.goes for thing in cleaned.kept)


async def test_without_a_wish_only_what_is_beyond_the_bounds_goes(world: World, tmp_path: Path) -> None:
    async with engine_with_files(world, tmp_path) as (engine, files):
        await image(world, files, unused_s=29 * DAY_S)
        old = await image(world, files, unused_s=31 * DAY_S)
        assert [thing.id for thing in (await engine.storage.collect()).went] == [old]


async def test_a_file_that_several_images_share_is_counted_once(world: World, tmp_path: Path) -> None:
    async with engine_with_files(world, tmp_path) as (engine, files):
        parent = await image(world, files, unused_s=DAY_S)
        child = world.images.add()
        files.share(parent, child.id)
        await world.store.put_image(child, ImageDefinition())
        (thing,) = [one for one in await engine.storage.look() if one.kind is StoredKind.IMAGE]
        assert thing.why.endswith("(1 more share its file)")


@pytest.mark.parametrize("seconds", [-1.0, 1e12, float("nan")])
async def test_a_length_of_time_that_cannot_be_is_refused(world: World, seconds: float) -> None:
    async with world.engine() as engine:
        with pytest.raises(InvalidError, match="older_than_s"):
            await engine.storage.look(older_than_s=seconds)
