"""A sandbox and its row: the one is started while the other is written."""

from __future__ import annotations

import asyncio

import pytest
from engine_world import World

from skerry.model.errors import ResourceExhaustedError
from skerry.model.sandboxes import SandboxFilter, SandboxState, SandboxView
from skerry.testing.clock import settle
from skerry.testing.store import MemoryStore

EVERYTHING = SandboxFilter(include_ended=True)


class SlowStore(MemoryStore):
    """Writes rows of sandboxes when it is told to, or fails then."""

    def __init__(self, world: World, *, failure: Exception | None = None) -> None:
        super().__init__(ids=world.ids)
        self.failure = failure
        self.puts = asyncio.Event()
        self.updates = asyncio.Event()

    async def put_sandbox(self, view: SandboxView, *, idempotency_key: str | None = None) -> SandboxView:
        await self.puts.wait()
        if self.failure is not None:
            raise self.failure
        return await super().put_sandbox(view, idempotency_key=idempotency_key)

    async def update_sandbox(self, view: SandboxView) -> None:
        await self.updates.wait()
        await super().update_sandbox(view)


@pytest.mark.parametrize("starts", [True, False])
async def test_a_sandbox_whose_row_cannot_be_written_runs_nowhere(world: World, *, starts: bool) -> None:
    store = world.store = SlowStore(world, failure=ResourceExhaustedError("the disk is full"))
    world.node.hold_starts.clear()
    async with world.engine() as engine:
        create = asyncio.ensure_future(engine.sandboxes.create(world.spec("cat")))
        await settle()
        if starts:
            world.node.hold_starts.set()
            await settle()
            assert world.node.view().sandboxes == 1
        store.puts.set()
        with pytest.raises(ResourceExhaustedError, match="the disk is full"):
            await create
        assert world.node.view().sandboxes == 0
        assert not world.node.kept()
        world.node.hold_starts.set()
        store.failure = None
        assert (await engine.sandboxes.create(world.spec("cat"))).state is SandboxState.RUNNING
        assert len(engine.sandboxes.list(EVERYTHING)) == 1


async def test_who_creates_does_not_wait_for_the_row_to_say_that_it_runs(world: World) -> None:
    store = world.store = SlowStore(world)
    store.puts.set()
    async with world.engine() as engine:
        view = await engine.sandboxes.create(world.spec("cat"))
        assert view.state is SandboxState.RUNNING
        assert world.row(view.id).state is SandboxState.STARTING
    store.updates.set()  # too late: that server has ended
    async with world.engine() as successor:
        assert successor.sandboxes.get(view.id).state is SandboxState.RUNNING
        assert world.row(view.id).started_at == view.started_at
