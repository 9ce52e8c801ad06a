"""What `import skerry` costs a program, and the first use of its main name, beside Python's own start."""

from __future__ import annotations

import subprocess
import sys
from time import perf_counter

from benchmarks.findings import Bench, Finding, Line
from benchmarks.samples import as_data, in_turn, ms_since, summary

AT_MOST_MS = 100.0
_PROGRAMS = {"floor": "pass", "import": "import skerry", "use": "import skerry; skerry.Sandbox"}


def run(bench: Bench) -> Finding:
    commands = {name: [sys.executable, "-c", program] for name, program in _PROGRAMS.items()}
    runs = {name: lambda command=command: _program(command) for name, command in commands.items()}
    values = in_turn(runs, bench.n(30, 8), warm=2, tell=bench.tell)
    series = {name: summary(found) for name, found in values.items()}
    floor = series["floor"].p50
    return Finding(
        lines=[
            Line(
                _PROGRAMS["import"],
                _measured(series["import"].p50, floor),
                f"under {AT_MOST_MS:.0f} ms",
                series["import"].p50 < AT_MOST_MS,
            ),
            Line(_PROGRAMS["use"], _measured(series["use"].p50, floor)),
        ],
        data={
            "unit": "ms",
            "series": {name: as_data(found) for name, found in series.items()},
            "baseline": {"command": f"{sys.executable} -c pass"},
            "values": values,
        },
    )


def _measured(whole: float, floor: float) -> str:
    # The whole program, start of Python included: the stricter reading of the promise.
    return f"{whole:.0f} ms, {whole - floor:.0f} above `python -c pass`"


def _program(command: list[str]) -> float:
    begun = perf_counter()
    subprocess.run(command, check=True, cwd="/")
    return ms_since(begun)
