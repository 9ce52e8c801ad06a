from __future__ import annotations

import asyncio

import pytest

from skerry.node.outcome import Outcome


async def test_everyone_who_waits_gets_the_value_and_so_do_those_who_come_later() -> None:
    outcome: Outcome[int] = Outcome()
    waiting = [asyncio.ensure_future(_of(outcome)) for _ in range(3)]
    await asyncio.sleep(0)
    assert outcome.resolve(7)
    assert await asyncio.gather(*waiting) == [7, 7, 7]
    assert await outcome == 7


async def test_who_gives_up_takes_nothing_from_the_others() -> None:
    outcome: Outcome[int] = Outcome()
    one, other = (asyncio.ensure_future(_of(outcome)) for _ in range(2))
    await asyncio.sleep(0)
    one.cancel()
    with pytest.raises(asyncio.CancelledError):
        await one
    outcome.resolve(7)
    assert await other == 7


async def test_who_is_cancelled_in_the_turn_of_the_value_is_cancelled() -> None:
    outcome: Outcome[int] = Outcome()
    waiting = asyncio.ensure_future(_of(outcome))
    await asyncio.sleep(0)
    outcome.resolve(7)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_only_the_first_word_counts() -> None:
    outcome: Outcome[int] = Outcome()
    assert outcome.reject(ValueError("first"))
    assert not outcome.resolve(7)
    assert not outcome.reject(ValueError("second"))
    with pytest.raises(ValueError, match="first"):
        await outcome
    assert str(outcome.error) == "first"


async def test_a_call_comes_before_any_waiter_goes_on_and_at_once_when_it_is_late() -> None:
    order: list[str] = []
    outcome: Outcome[int] = Outcome()

    async def wait() -> None:
        order.append(f"waiter {await outcome}")

    waiting = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    outcome.then(lambda told: order.append(f"call {told.result()}"))
    outcome.resolve(7)
    await waiting
    outcome.then(lambda told: order.append(f"late {told.result()}"))
    assert order == ["call 7", "waiter 7", "late 7"]


async def test_what_is_not_known_yet_is_no_result() -> None:
    outcome: Outcome[int] = Outcome()
    assert not outcome.done()
    with pytest.raises(asyncio.InvalidStateError):
        outcome.result()


async def _of(outcome: Outcome[int]) -> int:
    return await outcome
