"""What a measure gives: a figure beside its promise, and everything that went into it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.baseline import Baseline
from benchmarks.server import Server


@dataclass(frozen=True)
class Line:
    """One figure of a measure. `holds` is None where nothing is promised about it."""

    what: str
    measured: str
    promised: str = ""
    holds: bool | None = None


@dataclass(frozen=True)
class Finding:
    """The lines for people and the data for programs, with the figure of each promise among them."""

    lines: Sequence[Line]
    data: dict[str, Any]

    @property
    def holds(self) -> bool:
        return all(line.holds for line in self.lines if line.holds is not None)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What a measure works with. `quick` asks for few repetitions, whose figures are only a first look."""

    server: Server
    baseline: Baseline
    quick: bool = False
    tell: Callable[[str], None]

    def n(self, full: int, quick: int) -> int:
        return quick if self.quick else full


@dataclass(frozen=True)
class Measure:
    """One row of the promises."""

    name: str
    title: str
    run: Callable[[Bench], Finding]
