"""Samples and what they come to: medians, spreads, and ratios of runs that were made in turn."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Run = Callable[[], float]


@dataclass(frozen=True)
class Summary:
    """One series: `spread` is the distance between its quartiles, as a share of the median."""

    n: int
    p50: float
    p95: float
    low: float
    high: float
    spread: float


@dataclass(frozen=True)
class Ratio:
    """Ours over the baseline: of the medians, and the quartiles of the ratios of runs that were made in one turn."""

    of_medians: float
    paired_p25: float
    paired_p50: float
    paired_p75: float


def summary(values: Sequence[float]) -> Summary:
    """Return what a series of at least one value comes to."""
    p25, p50, p75 = quartiles(values)
    return Summary(
        n=len(values),
        p50=_round(p50),
        p95=_round(percentile(values, 0.95)),
        low=_round(min(values)),
        high=_round(max(values)),
        spread=_round((p75 - p25) / p50 if p50 else 0.0),
    )


def ratio(ours: Sequence[float], baseline: Sequence[float]) -> Ratio:
    """Compare two series whose values of one index were made in one turn."""
    pairs = [one / other for one, other in zip(ours, baseline, strict=True)]
    return Ratio(_round(statistics.median(ours) / statistics.median(baseline)), *map(_round, quartiles(pairs)))


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * round(share * 1000) // 1000) - 1)]


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    p25, p50, p75 = statistics.quantiles(values, n=4, method="inclusive")
    return p25, p50, p75


def in_turn(runs: Mapping[str, Run], n: int, *, warm: int, tell: Callable[[str], None]) -> dict[str, list[float]]:
    """Return `n` values of each run. A turn has all of them, in an order drawn anew; `warm` turns do not count."""
    values: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(-warm, n):
        for name in random.sample(list(runs), len(runs)):
            value = runs[name]()
            if turn >= 0:
                values[name].append(value)
        if turn >= 0:
            tell(f"{turn + 1} of {n}")
    return values


def ms_since(begun: float) -> float:
    """Return the milliseconds since a value of time.perf_counter()."""
    return (time.perf_counter() - begun) * 1000


def as_data(value: Any) -> Any:
    """Return a dataclass as JSON has it."""
    return asdict(value)


def _round(value: float) -> float:
    return float(f"{value:.5g}")
