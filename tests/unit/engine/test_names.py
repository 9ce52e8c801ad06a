from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from engine_world import World

from skerry.model import limits
from skerry.model.errors import AlreadyExistsError, InvalidError, NotFoundError, StartFailedError
from skerry.model.exits import SandboxExit, SandboxReason
from skerry.model.ids import AppId, SandboxId
from skerry.model.sandboxes import SandboxFilter
from skerry.testing.clock import settle


async def test_a_name_is_free_again_once_its_sandbox_has_ended(world: World) -> None:
    async with world.engine() as engine:
        app = await engine.apps.find("agents", create=True)
        spec = world.spec("cat", name="web", app=app)
        first = await engine.sandboxes.create(spec)
        assert first.app_name == "agents"
        with pytest.raises(AlreadyExistsError, match=f"'web' is in use in app 'agents' by sandbox {first.id}"):
            await engine.sandboxes.create(spec)
        await engine.sandboxes.terminate(first.id)
        second = await engine.sandboxes.create(spec)
        assert world.node.view().sandboxes == 1
        await world.node.end(second.id, SandboxExit(reason=SandboxReason.OUT_OF_MEMORY))
        await engine.sandboxes.wait(second.id)
        await engine.sandboxes.create(spec)


async def test_a_failed_start_gives_its_name_back(world: World) -> None:
    async with world.engine() as engine:
        world.node.fail_next_start = StartFailedError("no mount")
        with pytest.raises(StartFailedError):
            await engine.sandboxes.create(world.spec("cat", name="web"))
        await engine.sandboxes.create(world.spec("cat", name="web"))


async def test_of_many_creates_at_once_with_one_name_one_wins_and_nothing_else_is_left(world: World) -> None:
    async with world.engine() as engine:
        spec = world.spec("cat", name="web")
        outcomes = await asyncio.gather(*(engine.sandboxes.create(spec) for _ in range(20)), return_exceptions=True)
        assert sum(isinstance(one, AlreadyExistsError) for one in outcomes) == 19
        assert engine.sandboxes.live_count == world.node.view().sandboxes == 1


async def test_a_repeated_create_is_one_sandbox_though_its_name_is_in_use(world: World) -> None:
    spec = world.spec("cat", name="web", tags={"a": "1"})
    async with world.engine() as engine:
        first = await engine.sandboxes.create(spec, idempotency_key="k")
        await engine.sandboxes.set_tags(first.id, {"b": "2"})
        assert (await engine.sandboxes.create(spec, idempotency_key="k")).id == first.id
    async with world.engine() as engine:
        assert (await engine.sandboxes.create(spec, idempotency_key="k")).id == first.id
        with pytest.raises(InvalidError, match="another request"):
            await engine.sandboxes.create(replace(spec, name="db"), idempotency_key="k")


async def test_a_name_outlives_the_server(world: World) -> None:
    async with world.engine() as engine:
        first = await engine.sandboxes.create(world.spec("cat", name="web"))
    async with world.engine() as engine:
        with pytest.raises(AlreadyExistsError, match=first.id):
            await engine.sandboxes.create(world.spec("cat", name="web"))


@pytest.mark.parametrize(
    "name",
    ["", "a/b", "a b", "-\x1b[2J", "a\n", "ä", "x" * 65, "sb_00000000000000000000", "\u202egnp", "a\0"],
)
async def test_a_name_that_cannot_be_one_is_refused_and_shown_escaped(world: World, name: str) -> None:
    async with world.engine() as engine:
        with pytest.raises(InvalidError, match="sandbox name") as caught:
            await engine.sandboxes.create(world.spec("cat", name=name))
    assert caught.value.message.isprintable()
    assert world.store.live_sandboxes() == []


@pytest.mark.parametrize("name", ["a", "x" * 64, "0", "A-b_c.D", "..", "sb"])
async def test_a_name_has_letters_digits_and_a_little_more(world: World, name: str) -> None:
    async with world.engine() as engine:
        assert (await engine.sandboxes.create(world.spec("cat", name=name))).spec.name == name


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"": "v"}, "key"),
        ({"a b": "v"}, "key"),
        ({"a=b": "v"}, "key"),
        ({"\x1b[31m": "v"}, "key"),
        ({"k" * 64: "v"}, "1 to 63"),
        ({"k": "\x1b]0;title\x07"}, "printable"),
        ({"k": "two\nlines"}, "printable"),
        ({"k": "\u202efdp.exe"}, "printable"),
        ({"k": "v" * 257}, "at most 256"),
        ({f"k{number}": "v" for number in range(33)}, "33 tags; a sandbox has at most 32"),
    ],
)
async def test_tags_that_cannot_be_are_refused_and_shown_escaped(world: World, tags: dict[str, str], said: str) -> None:
    async with world.engine() as engine:
        view = await engine.sandboxes.create(world.spec("cat", tags={"old": "1"}))
        for call in (engine.sandboxes.create(world.spec("cat", tags=tags)), engine.sandboxes.set_tags(view.id, tags)):
            with pytest.raises(InvalidError, match=said) as caught:
                await call
            assert caught.value.message.isprintable()
        assert engine.sandboxes.get(view.id).spec.tags == {"old": "1"}


async def test_tags_may_be_replaced_while_it_runs_and_after_its_end(world: World) -> None:
    largest = {f"k{number}": "ä" * limits.TAG_VALUE_CHARS for number in range(limits.TAGS_MAX)}
    async with world.engine() as engine:
        view = await engine.sandboxes.create(world.spec("cat", tags={"old": "1"}))
        assert (await engine.sandboxes.set_tags(view.id, largest)).spec.tags == largest
        ended = await engine.sandboxes.terminate(view.id)
        assert ended.spec.tags == world.row(view.id).spec.tags == largest
        assert (await engine.sandboxes.set_tags(view.id, {})).spec.tags == {}
        assert engine.sandboxes.get(view.id).exit == ended.exit
        with pytest.raises(NotFoundError):
            await engine.sandboxes.set_tags(SandboxId("sb_none"), {})


async def test_a_list_keeps_to_its_filters_and_shows_ended_ones_with_their_reasons(world: World) -> None:
    async with world.engine() as engine:
        app = await engine.apps.find("agents", create=True)
        web = await engine.sandboxes.create(world.spec("cat", app=app, name="web", tags={"stage": "test"}))
        await engine.sandboxes.create(world.spec("cat", tags={"stage": "test"}))
        await engine.sandboxes.terminate(web.id)
        which = SandboxFilter(app=app, name="web", tags={"stage": "test"}, include_ended=True)
        (found,) = engine.sandboxes.list(which)
        assert found.exit == SandboxExit(reason=SandboxReason.TERMINATED)
        assert engine.sandboxes.list(replace(which, include_ended=False)) == []


async def test_pages_are_whole_while_sandboxes_come_and_go(world: World) -> None:
    async with world.engine() as engine:
        made = [await engine.sandboxes.create(world.spec("cat")) for _ in range(10)]
        which = SandboxFilter(limit=3, include_ended=True)
        seen, page = [], engine.sandboxes.list(which)
        while page:
            seen += [view.id for view in page]
            await engine.sandboxes.create(world.spec("cat"))
            await engine.sandboxes.terminate(page[-1].id)
            page = engine.sandboxes.list(replace(which, before=page[-1].created_at))
    assert seen == [view.id for view in reversed(made)]


async def test_an_app_that_does_not_exist_is_refused_by_its_id(world: World) -> None:
    async with world.engine() as engine:
        with pytest.raises(NotFoundError, match="ap_none"):
            await engine.sandboxes.create(world.spec("cat", app=AppId("ap_none")))


async def test_a_sandbox_is_found_by_its_name_while_it_starts(world: World) -> None:
    world.node.hold_starts.clear()
    async with world.engine() as engine:
        creating = asyncio.ensure_future(engine.sandboxes.create(world.spec("cat", name="web")))
        await settle()
        assert [view.spec.name for view in engine.sandboxes.list(SandboxFilter(name="web"))] == ["web"]
        world.node.hold_starts.set()
        await creating
