from __future__ import annotations

import asyncio

from skerry.engine.tasks import Tasks


async def test_a_task_that_fails_does_not_end_the_others() -> None:
    done = asyncio.Event()

    async def fail() -> None:
        raise KeyError("x")

    async def go_on() -> None:
        done.set()

    async with Tasks() as tasks:
        await asyncio.wait([tasks.start(fail(), name="fails")])
        tasks.start(go_on(), name="goes on")
        await done.wait()


async def test_the_end_of_the_block_ends_every_task() -> None:
    cancelled = asyncio.Event()

    async def wait_for_ever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with Tasks() as tasks:
        task = tasks.start(wait_for_ever(), name="waits")
        await asyncio.sleep(0)
    assert task.done()
    assert cancelled.is_set()
