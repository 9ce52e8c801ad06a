"""What a run says: lines while it goes, a table at its end, and JSON for programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from benchmarks import machine
from benchmarks.findings import Finding, Measure

_VERDICTS = {True: "holds", False: "MISSED", None: ""}


@dataclass(frozen=True)
class Outcome:
    """One measure that was run: what it found, or why it found nothing."""

    measure: Measure
    finding: Finding | None
    failure: str
    seconds: float
    load_before: list[float]
    load_after: list[float]

    @property
    def holds(self) -> bool:
        return self.finding is not None and self.finding.holds

    def data(self) -> dict[str, Any]:
        lines = [] if self.finding is None else [vars(line) for line in self.finding.lines]
        return {
            "title": self.measure.title,
            "holds": self.holds,
            "failure": self.failure,
            "lines": lines,
            "seconds": round(self.seconds, 1),
            "load": {"before": self.load_before, "after": self.load_after},
            **({} if self.finding is None else self.finding.data),
        }


class Progress:
    """One live line for each measure on a terminal; elsewhere a line at its start, now and then, and at its end."""

    EVERY_S = 10.0

    def __init__(self, out: TextIO = sys.stderr) -> None:
        self._out = out
        self._live = out.isatty()
        self._name = ""
        self._told = 0.0

    def begin(self, name: str) -> None:
        self._name, self._told = name, time.monotonic()
        self._say(f"{name} …")

    def tell(self, text: str) -> None:
        if self._live or time.monotonic() - self._told > self.EVERY_S:
            self._told = time.monotonic()
            self._say(f"{self._name}: {text}")

    def end(self, text: str) -> None:
        self._say(f"{self._name}: {text}")
        if self._live:
            self._out.write("\n")

    def _say(self, text: str) -> None:
        self._out.write(f"\r\x1b[K{text}" if self._live else f"{text}\n")
        self._out.flush()


def as_json(outcomes: Sequence[Outcome], *, quick: bool) -> dict[str, Any]:
    """Return everything that is needed to judge the figures, and to repeat them."""
    return {
        "host": machine.host(),
        "versions": machine.versions(),
        "quick": quick,
        "measures": {outcome.measure.name: outcome.data() for outcome in outcomes},
    }


def write_json(path: Path, outcomes: Sequence[Outcome], *, quick: bool) -> None:
    path.write_text(json.dumps(as_json(outcomes, quick=quick), indent=1, ensure_ascii=False) + "\n")


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the figures beside what was promised, for people."""
    rows = [("", "measured", "promised", "", "load")]
    for outcome in outcomes:
        load = f"{outcome.load_before[0]:.1f} to {outcome.load_after[0]:.1f}"
        rows.append((outcome.measure.name, "", "", "", load))
        if outcome.finding is None:
            rows.append(("", "nothing, see below", "", "FAILED", ""))
            continue
        for line in outcome.finding.lines:
            rows.append((f"  {line.what}", line.measured, line.promised, _VERDICTS[line.holds], ""))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([*lines, *(f"{one.measure.name}: {one.failure}" for one in outcomes if one.failure)])
