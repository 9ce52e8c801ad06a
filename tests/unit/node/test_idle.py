"""The idle clock: when it runs, what it notes for a successor, and that a use at its last moment decides."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from skerry.node.idle import IdleClock
from skerry.testing.clock import settle


@dataclass
class Watch:
    """A clock of idleness whose wall clock a test sets, and what it said."""

    timeout_s: float | None = 1000.0
    at: float = 100.0
    noted: list[float | None] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def clock(self) -> IdleClock:
        return IdleClock(self.timeout_s, now=lambda: self.at, note=self.noted.append, on_over=self.over.set)


async def test_it_runs_from_the_beginning_and_from_the_end_of_the_last_use() -> None:
    watch = Watch()
    clock = watch.clock()
    clock.enter()  # a use before it is begun counts too
    clock.begin()
    assert clock.since is None
    watch.at = 110.0
    clock.leave()
    assert clock.since == 110.0
    with clock.use():
        with clock.use():
            assert clock.since is None
        assert clock.since is None
        watch.at = 120.0
    assert clock.since == 120.0
    assert watch.noted == [None, 110.0, None, 120.0]
    clock.stop()


async def test_it_rings_once_and_a_use_after_that_changes_nothing() -> None:
    watch = Watch(timeout_s=0.01)
    clock = watch.clock()
    clock.begin()
    await asyncio.wait_for(watch.over.wait(), 10)
    assert clock.over
    noted = list(watch.noted)
    watch.over.clear()
    with clock.use():
        pass
    await asyncio.sleep(0)
    assert not watch.over.is_set()
    assert watch.noted == noted


async def test_time_that_passed_before_it_was_begun_counts() -> None:
    watch = Watch(at=5000.0)
    clock = watch.clock()
    clock.begin(since=3999.0)
    assert clock.since == 3999.0
    await asyncio.wait_for(watch.over.wait(), 10)


@pytest.mark.parametrize("late", [False, True])
async def test_a_use_in_the_turn_in_which_it_would_ring_comes_before_or_after_it_and_never_between(late: bool) -> None:
    watch = Watch(timeout_s=0.0)
    clock = watch.clock()
    clock.begin()
    if not late:
        clock.enter()
    await settle()
    assert watch.over.is_set() is late
    assert clock.over is late
    clock.stop()


async def test_without_a_timeout_it_tells_the_time_and_notes_nothing() -> None:
    watch = Watch(timeout_s=None)
    clock = watch.clock()
    clock.begin()
    watch.at = 110.0
    with clock.use():
        assert clock.since is None
    assert clock.since == 110.0
    assert clock._timer is None
    assert not watch.noted


async def test_stopped_it_notes_nothing_more() -> None:
    watch = Watch()
    clock = watch.clock()
    clock.begin()
    clock.stop()
    with clock.use():
        pass
    assert watch.noted == [100.0]
    assert clock.since is None
