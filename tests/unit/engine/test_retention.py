from __future__ import annotations

import pytest
from engine_world import opened_world
from hypothesis import given
from hypothesis import strategies as st

from skerry.engine.retention import Bounds, EndedSandbox, expired
from skerry.model.errors import NotFoundError
from skerry.model.ids import SandboxId

BOUNDS = Bounds(age_s=100.0, rows=3, output_bytes=1000)


def kept(*ends: tuple[float, int]) -> list[EndedSandbox]:
    return [
        EndedSandbox(id=SandboxId(f"sb_{index}"), ended_at=at, output_bytes=size)
        for index, (at, size) in enumerate(ends)
    ]


def test_nothing_goes_within_the_bounds() -> None:
    assert expired(kept((1.0, 400), (2.0, 600)), now=50.0, bounds=BOUNDS) == []


def test_what_is_too_old_goes() -> None:
    assert expired(kept((1.0, 0), (60.0, 0)), now=120.0, bounds=BOUNDS) == ["sb_0"]


def test_the_oldest_go_beyond_the_number_of_rows() -> None:
    assert expired(kept((4.0, 0), (1.0, 0), (3.0, 0), (2.0, 0)), now=5.0, bounds=BOUNDS) == ["sb_1"]


def test_the_oldest_go_beyond_the_size_of_their_output() -> None:
    assert expired(kept((1.0, 500), (2.0, 500), (3.0, 500)), now=5.0, bounds=BOUNDS) == ["sb_0"]


@given(st.lists(st.tuples(st.floats(0, 200), st.integers(0, 600)), max_size=12))
def test_what_stays_is_the_newest_and_within_the_bounds(ends: list[tuple[float, int]]) -> None:
    all_of_them = kept(*ends)
    goes = set(expired(all_of_them, now=200.0, bounds=BOUNDS))
    stays = [one for one in all_of_them if one.id not in goes]
    assert len(stays) <= BOUNDS.rows
    assert sum(one.output_bytes for one in stays) <= BOUNDS.output_bytes
    assert all(200.0 - one.ended_at <= BOUNDS.age_s for one in stays)
    if goes and stays:
        newest_gone = max(one.ended_at for one in all_of_them if one.id in goes)
        assert newest_gone <= min(one.ended_at for one in stays)


async def test_a_sweep_forgets_row_output_and_key_but_no_living_sandbox() -> None:
    async with opened_world(Bounds(age_s=3600.0)) as world, world.engine() as engine:
        lives = await engine.sandboxes.create(world.spec("cat", lifetime_s=80_000.0))
        spec = world.spec("echo", "x")
        ended = await engine.sandboxes.create(spec, idempotency_key="k")
        await engine.sandboxes.wait(ended.id)
        await world.clock.advance(3599.0)
        assert engine.sandboxes.get(ended.id).exit is not None
        await world.clock.advance(61.0)
        with pytest.raises(NotFoundError):
            engine.sandboxes.get(ended.id)
        with pytest.raises(NotFoundError):
            world.node.processes(ended.id)
        assert engine.sandboxes.get(lives.id).exit is None
        assert (await engine.sandboxes.create(spec, idempotency_key="k")).id != ended.id


async def test_output_counts_what_the_processes_wrote() -> None:
    async with opened_world(Bounds(output_bytes=150)) as world, world.engine() as engine:
        first = await engine.sandboxes.create(world.spec("spew", "100"))
        await engine.sandboxes.wait(first.id)
        await world.clock.advance(61.0)
        second = await engine.sandboxes.create(world.spec("spew", "100"))
        await engine.sandboxes.wait(second.id)
        await world.clock.advance(61.0)
        with pytest.raises(NotFoundError):
            engine.sandboxes.get(first.id)
        assert engine.sandboxes.get(second.id).exit is not None
