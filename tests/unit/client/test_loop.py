"""Calls on the background loop that are given up by who waits for them."""

from __future__ import annotations

import asyncio

import pytest

from skerry.client import loop


@pytest.mark.parametrize("fails", [False, True])
def test_a_call_that_ends_after_it_was_given_up_complains_of_nothing(fails: bool) -> None:
    complaints: list[dict[str, object]] = []

    async def stubborn(begun: asyncio.Event, waiter: asyncio.AbstractEventLoop) -> int:
        waiter.call_soon_threadsafe(begun.set)
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            if fails:
                raise ValueError("its clean-up failed") from None
        return 1

    async def give_up() -> None:
        begun = asyncio.Event()
        waiting = asyncio.ensure_future(loop.bridge(stubborn, begun, asyncio.get_running_loop()))
        await begun.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    async def watch() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))

    async def settle() -> None:
        asyncio.get_running_loop().set_exception_handler(None)

    loop.run(watch)
    asyncio.run(give_up())
    loop.run(settle)
    assert complaints == []
