"""The numbers of SPECIFICATION.md, guarded at twice what is promised: a first look that catches what went wrong.

What is timed is a ratio of medians to a baseline that ran in turn with it. On a machine that does something else at
the time a ratio may be off, so the best of three looks counts. The figures themselves come from `make bench`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from benchmarks.findings import Bench, Finding
from benchmarks.measures import cold_create, ends, exec, idle_memory, importing, slow_reader, stdout, volume_create

pytestmark = [pytest.mark.performance, pytest.mark.timeout(170)]

LOOKS = 3


def best(
    bench: Bench, run: Callable[[Bench], Finding], figure: Callable[[dict[str, Any]], float], bound: float
) -> float:
    """Return the lowest figure of up to three looks; no more looks than it takes to be within the bound."""
    lowest = float("inf")
    for _ in range(LOOKS):
        lowest = min(lowest, figure(run(bench).data))
        if lowest <= bound:
            break
    return lowest


def of_medians(data: dict[str, Any]) -> float:
    return float(data["ratio"]["of_medians"])


def test_a_cold_create_takes_little_more_than_runsc_by_hand(bench: Bench) -> None:
    bound = 2 * cold_create.AT_MOST
    assert best(bench, cold_create.run, of_medians, bound) <= bound


def test_an_exec_is_faster_than_runsc_exec(bench: Bench) -> None:
    bound = 2 * exec.AT_MOST
    assert best(bench, exec.run, of_medians, bound) <= bound


def test_a_gibibyte_arrives_whole_fast_and_without_filling_the_servers_memory(bench: Bench) -> None:
    # The floor of a machine on which 250 MB/s are promised is some 2,000, so half of the promise is a sixteenth of it.
    bound = 16.0
    found: list[dict[str, Any]] = []

    def times_slower(data: dict[str, Any]) -> float:
        found.append(data)
        return float(data["series"]["baseline"]["p50"] / data["series"]["ours"]["p50"])

    assert best(bench, stdout.run, times_slower, bound) <= bound
    for data in found:
        equal, runs = data["hashes_equal"]
        assert equal == runs > 0
        assert max(data["server_growth_mib"]) < 2 * stdout.AT_MOST_MIB


def test_an_exec_hardly_notices_a_slow_reader_beside_it(bench: Bench) -> None:
    bound = 2 * slow_reader.AT_MOST
    assert best(bench, slow_reader.run, of_medians, bound) <= bound


def test_an_idle_sandbox_takes_little_more_memory_than_one_of_runsc(bench: Bench) -> None:
    bound = 2 * idle_memory.AT_MOST
    assert best(bench, idle_memory.run, lambda data: float(data["ratio"]["of_means"]), bound) <= bound


def test_sandboxes_that_were_made_and_ended_leave_nothing(bench: Bench) -> None:
    assert ends.run(bench).data["more"] == {}


def test_a_create_with_a_volume_takes_little_more_than_without(bench: Bench) -> None:
    bound = 2 * volume_create.AT_MOST
    assert best(bench, volume_create.run, of_medians, bound) <= bound


def test_importing_skerry_costs_little_more_than_starting_python(bench: Bench) -> None:
    bound = 4.0

    def times_slower(data: dict[str, Any]) -> float:
        return float(data["series"]["import"]["p50"] / data["series"]["floor"]["p50"])

    assert best(bench, importing.run, times_slower, bound) <= bound
