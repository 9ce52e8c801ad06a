from __future__ import annotations

from collections.abc import Collection, Sequence

import pytest
from engine_world import World

from skerry.engine.usage import FRESH_S
from skerry.model.errors import NotFoundError
from skerry.model.ids import SandboxId
from skerry.model.usage import SandboxUsage


def counted(world: World, monkeypatch: pytest.MonkeyPatch) -> list[SandboxId]:
    """Return the list in which each measurement of the node is noted from now on."""
    measured: list[SandboxId] = []
    usage = world.node.usage

    async def note(sandboxes: Collection[SandboxId]) -> Sequence[SandboxUsage]:
        measured.extend(sandboxes)
        return await usage(sandboxes)

    monkeypatch.setattr(world.node, "usage", note)
    return measured


async def test_nothing_is_measured_while_nobody_looks_and_once_for_many_who_do(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = counted(world, monkeypatch)
    async with world.engine() as engine:
        first, second = [(await engine.sandboxes.create(world.spec("cat"))).id for _ in range(2)]
        await world.clock.advance(60.0)
        assert measured == []
        assert {one.id for one in await engine.usage.sample()} == {first, second}
        assert [one.id for one in await engine.usage.sample(first)] == [first]
        assert sorted(measured) == sorted([first, second])
        await world.clock.advance(FRESH_S)
        await engine.usage.sample(first)
        assert measured[2:] == [first]


async def test_an_ended_sandbox_takes_nothing_and_an_unknown_one_is_not_found(world: World) -> None:
    async with world.engine() as engine:
        sandbox = (await engine.sandboxes.create(world.spec("cat"))).id
        await engine.usage.sample()
        await engine.sandboxes.terminate(sandbox)
        assert await engine.usage.sample(sandbox) == []
        assert await engine.usage.sample() == []
        assert engine.usage._last == {}
        with pytest.raises(NotFoundError):
            await engine.usage.sample(SandboxId("sb_nothing"))
