from __future__ import annotations

import pytest

from skerry.client._core.timings import Stopwatch
from skerry.model.sandboxes import Stage


class Clock:
    def __init__(self) -> None:
        self.now = 10.0

    def __call__(self) -> float:
        return self.now


def test_the_stages_of_both_sides_add_up_to_the_clock() -> None:
    clock = Clock()
    watch = Stopwatch(clock)
    clock.now += 0.002
    watch.lap("connect")
    clock.now += 0.020
    watch.lap_around("request", [Stage(name="boot", ms=11.0), Stage(name="claim", ms=4.0)])
    timings = watch.timings()
    assert [stage.name for stage in timings.stages] == ["connect", "boot", "claim", "request"]
    assert timings.total_ms == pytest.approx(22.0)
    assert timings.stages[-1].ms == pytest.approx(5.0)


def test_a_server_whose_clock_runs_ahead_makes_no_negative_stage() -> None:
    clock = Clock()
    watch = Stopwatch(clock)
    clock.now += 0.001
    watch.lap_around("request", [Stage(name="boot", ms=1.5)])
    assert [stage.name for stage in watch.timings().stages] == ["boot"]


def test_the_waterfall_is_readable() -> None:
    clock = Clock()
    watch = Stopwatch(clock)
    clock.now += 0.5
    watch.lap("boot")
    assert str(watch.timings()).splitlines() == ["boot         0.0  +500.0 ms", "total      500.0 ms"]
