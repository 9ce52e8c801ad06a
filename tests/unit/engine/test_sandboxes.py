from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from engine_world import World

from skerry.model.errors import (
    InvalidError,
    NotFoundError,
    ResourceExhaustedError,
    SandboxEndedError,
    StartFailedError,
)
from skerry.model.exits import SandboxExit, SandboxReason
from skerry.model.ids import ImageId, SandboxId
from skerry.model.sandboxes import SandboxFilter, SandboxState
from skerry.model.specs import HostAccess, Resources, SandboxSpec
from skerry.testing.clock import settle
from skerry.testing.node import SANDBOXES_MAX


async def test_a_created_sandbox_runs_and_its_row_says_so(world: World) -> None:
    async with world.engine() as engine:
        view = await engine.sandboxes.create(world.spec("cat"))
        assert view.state is SandboxState.RUNNING
        assert view.stages[0].name == "claim"
        assert world.row(view.id) == replace(view, idle_since=None)


async def test_a_sandbox_without_a_command_has_no_entrypoint_and_waits(world: World) -> None:
    async with world.engine() as engine:
        view = await engine.sandboxes.create(world.spec())
        assert view.entrypoint is None
        assert engine.sandboxes.get(view.id).state is SandboxState.RUNNING


async def test_the_command_of_the_image_is_the_entrypoint_of_a_sandbox_without_one(world: World) -> None:
    image = world.images.add(command=("exit", "4"))
    async with world.engine() as engine:
        view = await engine.sandboxes.create(SandboxSpec(image=image.id))
        ended = await engine.sandboxes.wait(view.id)
    assert ended.exit == SandboxExit(reason=SandboxReason.EXITED, code=4)


async def test_an_unknown_image_is_not_found_and_leaves_no_row(world: World) -> None:
    async with world.engine() as engine:
        with pytest.raises(NotFoundError, match="im_none"):
            await engine.sandboxes.create(SandboxSpec(image=ImageId("im_none")))
    assert world.store.sandboxes(SandboxFilter(include_ended=True)) == []


async def test_a_sandbox_that_exits_at_once_is_created_and_ended_with_its_code(world: World) -> None:
    async with world.engine() as engine:
        view = await engine.sandboxes.create(world.spec("exit", "3"))
        ended = await engine.sandboxes.wait(view.id)
    assert ended.exit == SandboxExit(reason=SandboxReason.EXITED, code=3)
    assert ended.started_at is not None
    assert world.row(view.id) == ended


async def test_a_lifetime_ends_a_sandbox_with_its_reason(world: World) -> None:
    async with world.engine() as engine:
        view = await engine.sandboxes.create(world.spec("cat", lifetime_s=30.0))
        waiting = asyncio.ensure_future(engine.sandboxes.wait(view.id))
        await world.clock.advance(29.0)
        assert not waiting.done()
        await world.clock.advance(1.0)
        assert (await waiting).exit == SandboxExit(reason=SandboxReason.LIFETIME)


async def test_terminating_twice_returns_the_same_exit(world: World) -> None:
    async with world.engine() as engine:
        view = await engine.sandboxes.create(world.spec("cat"))
        first = await engine.sandboxes.terminate(view.id)
        await world.clock.advance(5.0)
        assert await engine.sandboxes.terminate(view.id) == first
    assert first.exit == SandboxExit(reason=SandboxReason.TERMINATED)
    assert first.state is SandboxState.STOPPED


async def test_ten_terminations_at_once_agree(world: World) -> None:
    async with world.engine() as engine:
        view = await engine.sandboxes.create(world.spec("cat"))
        ends = await asyncio.gather(*(engine.sandboxes.terminate(view.id) for _ in range(10)))
    assert len({end.ended_at for end in ends}) == 1
    assert {end.exit for end in ends} == {SandboxExit(reason=SandboxReason.TERMINATED)}


async def test_a_sandbox_that_ended_by_itself_keeps_that_exit_when_terminated(world: World) -> None:
    async with world.engine() as engine:
        view = await engine.sandboxes.create(world.spec("exit", "7"))
        await engine.sandboxes.wait(view.id)
        ended = await engine.sandboxes.terminate(view.id)
    assert ended.exit is not None
    assert ended.exit.code == 7


async def test_termination_during_the_start_waits_for_it_and_then_ends_it(world: World) -> None:
    world.node.hold_starts.clear()
    async with world.engine() as engine:
        creating = asyncio.ensure_future(engine.sandboxes.create(world.spec("cat")))
        await settle()
        (view,) = engine.sandboxes.list(SandboxFilter())
        assert view.state is SandboxState.STARTING
        terminating = asyncio.ensure_future(engine.sandboxes.terminate(view.id))
        world.node.hold_starts.set()
        ended = await terminating
        assert (await creating).id == ended.id
    assert ended.exit == SandboxExit(reason=SandboxReason.TERMINATED)


async def test_a_failed_start_is_told_and_kept_with_its_evidence(world: World) -> None:
    world.node.fail_next_start = StartFailedError("no mount", stage="rootfs")
    async with world.engine() as engine:
        with pytest.raises(StartFailedError, match="no mount") as caught:
            await engine.sandboxes.create(world.spec("cat"))
        (view,) = engine.sandboxes.list(SandboxFilter(include_ended=True))
    assert caught.value.details["stage"] == "rootfs"
    assert view.state is SandboxState.FAILED
    assert view.exit == SandboxExit(reason=SandboxReason.START_FAILED, evidence="no mount")


async def test_a_defect_of_the_node_becomes_a_failed_start_without_its_text(world: World) -> None:
    world.node.fail_next_start = KeyError("internal detail")
    async with world.engine() as engine:
        with pytest.raises(StartFailedError) as caught:
            await engine.sandboxes.create(world.spec("cat"))
    assert "internal detail" not in str(caught.value)


async def test_a_lack_of_room_is_typed_immediate_and_leaves_nothing(world: World) -> None:
    async with world.engine() as engine:
        large = replace(Resources(), memory_mib=10_000, memory_limit_mib=10_000)
        await engine.sandboxes.create(world.spec(resources=large))
        with pytest.raises(ResourceExhaustedError) as caught:
            await engine.sandboxes.create(world.spec(resources=large))
        assert caught.value.details["missing"] == {"memory_mib": {"asked": 10_000.0, "free": 6_384.0}}
        assert len(engine.sandboxes.list(SandboxFilter(include_ended=True))) == 1


async def test_creates_at_once_never_share_the_last_room(world: World) -> None:
    async with world.engine() as engine:
        creates = [engine.sandboxes.create(world.spec()) for _ in range(SANDBOXES_MAX + 5)]
        outcomes = await asyncio.gather(*creates, return_exceptions=True)
    refused = [one for one in outcomes if isinstance(one, ResourceExhaustedError)]
    assert len(refused) == 5
    assert world.node.view().sandboxes == SANDBOXES_MAX


async def test_a_node_that_has_less_room_than_was_thought_leaves_no_row(world: World) -> None:
    world.node.fail_next_start = ResourceExhaustedError("no slot")
    async with world.engine() as engine:
        with pytest.raises(ResourceExhaustedError, match="no slot"):
            await engine.sandboxes.create(world.spec(), idempotency_key="k")
        assert engine.sandboxes.list(SandboxFilter(include_ended=True)) == []
        assert (await engine.sandboxes.create(world.spec(), idempotency_key="k")).state is SandboxState.RUNNING


async def test_a_repeated_create_returns_the_first_sandbox(world: World) -> None:
    spec = world.spec("cat")
    async with world.engine() as engine:
        first = await engine.sandboxes.create(spec, idempotency_key="k")
        again = await engine.sandboxes.create(spec, idempotency_key="k")
    assert first == again
    assert world.node.view().sandboxes == 1


async def test_repeats_during_the_start_wait_for_the_same_sandbox(world: World) -> None:
    world.node.hold_starts.clear()
    spec = world.spec("cat")
    async with world.engine() as engine:
        creates = [asyncio.ensure_future(engine.sandboxes.create(spec, idempotency_key="k")) for _ in range(5)]
        await settle()
        world.node.hold_starts.set()
        views = await asyncio.gather(*creates)
    assert len({view.id for view in views}) == 1
    assert {view.state for view in views} == {SandboxState.RUNNING}


async def test_a_repeat_of_a_failed_start_fails_the_same_way(world: World) -> None:
    world.node.fail_next_start = StartFailedError("no mount", stage="rootfs")
    spec = world.spec("cat")
    async with world.engine() as engine:
        for _ in range(2):
            with pytest.raises(StartFailedError, match="no mount"):
                await engine.sandboxes.create(spec, idempotency_key="k")


async def test_a_key_of_another_request_is_refused(world: World) -> None:
    async with world.engine() as engine:
        await engine.sandboxes.create(world.spec("cat"), idempotency_key="k")
        with pytest.raises(InvalidError, match="another request"):
            await engine.sandboxes.create(world.spec("sleep", "1"), idempotency_key="k")


async def test_a_repeat_from_a_machine_with_other_settings_is_still_a_repeat(world: World) -> None:
    spec = world.spec("cat")
    async with world.engine() as engine:
        first = await engine.sandboxes.create(
            replace(spec, host_access=HostAccess(env={"A": "1"})), idempotency_key="k"
        )
        again = await engine.sandboxes.create(
            replace(spec, host_access=HostAccess(env={"A": "2"})), idempotency_key="k"
        )
    assert first.id == again.id


@pytest.mark.parametrize("key", ["", "x" * 257, "ä", "a\nb"])
async def test_an_unusable_idempotency_key_is_refused(world: World, key: str) -> None:
    async with world.engine() as engine:
        with pytest.raises(InvalidError, match="idempotency key"):
            await engine.sandboxes.create(world.spec(), idempotency_key=key)


async def test_what_the_callers_machine_has_reaches_the_node_and_no_row(world: World) -> None:
    access = HostAccess(env={"PIP_INDEX_URL": "https://mirror"}, ca_bundle=b"PEM")
    async with world.engine() as engine:
        view = await engine.sandboxes.create(world.spec(host_access=access))
    assert world.node._find(view.id).launch.spec.host_access == access
    assert view.spec.host_access == HostAccess()
    assert world.row(view.id).spec.host_access == HostAccess()


async def test_a_caller_that_goes_away_during_the_start_leaves_a_running_sandbox(world: World) -> None:
    world.node.hold_starts.clear()
    async with world.engine() as engine:
        creating = asyncio.ensure_future(engine.sandboxes.create(world.spec("cat")))
        await settle()
        creating.cancel()
        world.node.hold_starts.set()
        await settle()
        (view,) = engine.sandboxes.list(SandboxFilter())
        assert view.state is SandboxState.RUNNING


async def test_an_unknown_sandbox_is_not_found(world: World) -> None:
    async with world.engine() as engine:
        for call in (engine.sandboxes.terminate, engine.sandboxes.wait, engine.sandboxes.running_node):
            with pytest.raises(NotFoundError):
                await call(SandboxId("sb_none"))


async def test_calls_on_an_ended_sandbox_say_why_it_ended(world: World) -> None:
    async with world.engine() as engine:
        view = await engine.sandboxes.create(world.spec("exit", "2"))
        await engine.sandboxes.wait(view.id)
        with pytest.raises(SandboxEndedError, match="exited") as caught:
            await engine.sandboxes.running_node(view.id)
    assert caught.value.details["exit"] == {"reason": "exited", "code": 2, "signal": None, "evidence": ""}


async def test_a_list_can_be_continued_even_when_all_were_created_at_once(world: World) -> None:
    async with world.engine() as engine:
        made = [(await engine.sandboxes.create(world.spec())).id for _ in range(5)]
        first = engine.sandboxes.list(SandboxFilter(limit=3))
        rest = engine.sandboxes.list(SandboxFilter(limit=3, before=first[-1].created_at))
    assert [view.id for view in (*first, *rest)] == made[::-1]


@pytest.mark.parametrize("limit", [0, 1001])
async def test_a_list_has_a_bound(world: World, limit: int) -> None:
    async with world.engine() as engine:
        with pytest.raises(InvalidError, match="1000"):
            engine.sandboxes.list(SandboxFilter(limit=limit))


# After a restart


async def test_a_successor_adopts_what_runs_and_hears_of_its_end(world: World) -> None:
    async with world.engine() as engine:
        view = await engine.sandboxes.create(world.spec("cat"))
    async with world.engine() as engine:
        assert engine.sandboxes.get(view.id) == view
        await world.node.end(view.id, SandboxExit(reason=SandboxReason.OUT_OF_MEMORY, evidence="oom_kill 1"))
        ended = await engine.sandboxes.wait(view.id)
    assert ended.exit == SandboxExit(reason=SandboxReason.OUT_OF_MEMORY, evidence="oom_kill 1")


async def test_what_ended_while_no_server_was_there_is_reported_with_its_reason_and_time(world: World) -> None:
    async with world.engine() as engine:
        view = await engine.sandboxes.create(world.spec("cat", lifetime_s=10.0))
    await world.clock.advance(60.0)
    async with world.engine() as engine:
        ended = engine.sandboxes.get(view.id)
    assert ended.exit == SandboxExit(reason=SandboxReason.LIFETIME)
    assert ended.ended_at == view.created_at + 10.0


async def test_a_row_that_the_node_does_not_know_is_lost_with_it(world: World) -> None:
    async with world.engine() as engine:
        view = await engine.sandboxes.create(world.spec("cat"))
    world.node.lose(view.id)
    async with world.engine() as engine:
        ended = engine.sandboxes.get(view.id)
    assert ended.exit is not None
    assert ended.exit.reason is SandboxReason.NODE_LOST


async def test_a_start_that_the_end_of_the_server_cut_off_is_a_failed_start(world: World) -> None:
    world.node.hold_starts.clear()
    async with world.engine() as engine:
        creating = asyncio.ensure_future(engine.sandboxes.create(world.spec("cat")))
        await settle()
    assert isinstance((await asyncio.gather(creating, return_exceptions=True))[0], Exception)
    world.node.hold_starts.set()
    async with world.engine() as engine:
        (view,) = engine.sandboxes.list(SandboxFilter(include_ended=True))
    assert view.state is SandboxState.FAILED
    assert view.exit is not None
    assert view.exit.reason is SandboxReason.START_FAILED


async def test_a_sandbox_without_a_row_is_ended_at_the_start_and_its_output_goes(world: World) -> None:
    async with world.engine() as engine:
        view = await engine.sandboxes.create(world.spec("cat"))
    await world.store.delete_sandbox(view.id)
    ending = asyncio.ensure_future(world.node.wait_ended(view.id))
    await settle()
    async with world.engine():
        assert (await ending).exit.reason is SandboxReason.EVICTED
        assert view.id not in world.node.kept()


async def test_a_sandbox_that_cannot_be_adopted_keeps_the_server_from_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.engine() as engine:
        strange = await engine.sandboxes.create(world.spec("exit", "0"))
        await engine.sandboxes.wait(strange.id)
        await world.store.update_sandbox(replace(strange, state=SandboxState.RUNNING, ended_at=None, exit=None))
        runs = await engine.sandboxes.create(world.spec("cat"))

    async def broken(sandbox: SandboxId) -> None:
        raise KeyError(sandbox)

    monkeypatch.setattr(world.node, "wait_ended", broken)
    async with world.engine() as engine:
        assert engine.sandboxes.get(runs.id).state is SandboxState.RUNNING
        ended = engine.sandboxes.get(strange.id)
    assert ended.exit is not None
    assert ended.exit.reason is SandboxReason.NODE_LOST


async def test_an_end_that_cannot_be_written_is_still_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world.engine() as engine:
        view = await engine.sandboxes.create(world.spec("cat"))

        async def full(view: object) -> None:
            raise ResourceExhaustedError("the disk is full")

        monkeypatch.setattr(world.store, "update_sandbox", full)
        ended = await engine.sandboxes.terminate(view.id)
        assert engine.sandboxes.get(view.id) == ended
        assert ended.state is SandboxState.STOPPED
        assert engine.sandboxes.live_count == 0
        monkeypatch.undo()
    async with world.engine() as engine:
        assert engine.sandboxes.get(view.id).exit == ended.exit
    assert world.row(view.id).exit == ended.exit


async def test_a_key_is_remembered_across_a_restart(world: World) -> None:
    spec = world.spec("cat")
    async with world.engine() as engine:
        view = await engine.sandboxes.create(spec, idempotency_key="k")
    async with world.engine() as engine:
        assert (await engine.sandboxes.create(spec, idempotency_key="k")).id == view.id


async def test_a_successor_goes_on_counting_time_of_creation(world: World) -> None:
    async with world.engine() as engine:
        first = await engine.sandboxes.create(world.spec())
    async with world.engine() as engine:
        assert (await engine.sandboxes.create(world.spec())).created_at > first.created_at


async def test_the_default_resources_are_those_of_the_machine(world: World) -> None:
    async with world.engine() as engine:
        assert engine.sandboxes.default_resources() == Resources()


async def test_the_image_of_a_sandbox_is_in_use_from_its_start_to_its_end(world: World) -> None:
    async with world.engine() as engine:
        world.node.hold_starts.clear()
        spec = world.spec("cat")
        creating = asyncio.ensure_future(engine.sandboxes.create(spec))
        await settle()
        assert engine.sandboxes.images_in_use() == {spec.image}
        world.node.hold_starts.set()
        sandbox = await creating
        assert engine.sandboxes.images_in_use() == {spec.image}
        await engine.sandboxes.terminate(sandbox.id)
        assert engine.sandboxes.images_in_use() == set()
