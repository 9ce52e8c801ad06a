"""From nothing to the first output of `echo`: `Sandbox.create` through the SDK, beside `runsc run` by hand."""

from __future__ import annotations

import statistics
from collections import defaultdict
from pathlib import Path
from time import perf_counter

import skerry
from benchmarks.findings import Bench, Finding, Line
from benchmarks.samples import as_data, in_turn, ms_since, ratio, summary

AT_MOST = 1.2
_ECHO = ("echo", "hello")


def run(bench: Bench) -> Finding:
    bundle = bench.baseline.bundle(_ECHO)
    stages: dict[str, list[float]] = defaultdict(list)
    runs = {
        "ours": lambda: _entrypoint(stages),
        "ours_by_exec": _create_and_exec,
        "baseline": lambda: _baseline(bench, bundle),
    }
    values = in_turn(runs, bench.n(30, 8), warm=2, tell=bench.tell)
    series = {name: summary(found) for name, found in values.items()}
    compared = ratio(values["ours"], values["baseline"])
    by_exec = ratio(values["ours_by_exec"], values["baseline"])
    return Finding(
        lines=[
            Line(
                "Sandbox.create('echo', …) to its output",
                f"{compared.of_medians:.2f}x ({series['ours'].p50:.0f} ms beside {series['baseline'].p50:.0f})",
                f"at most {AT_MOST}x",
                compared.of_medians <= AT_MOST,
            ),
            Line(
                "Sandbox.create() and exec('echo', …)",
                f"{by_exec.of_medians:.2f}x ({series['ours_by_exec'].p50:.0f} ms)",
            ),
        ],
        data={
            "unit": "ms",
            "network": "open",
            "series": {name: as_data(found) for name, found in series.items()},
            "ratio": as_data(compared),
            "ratio_by_exec": as_data(by_exec),
            "stages_p50": {name: round(statistics.median(found), 2) for name, found in stages.items()},
            "baseline": bench.baseline.describe(*_ECHO),
            "values": values,
        },
    )


def _entrypoint(stages: dict[str, list[float]]) -> float:
    begun = perf_counter()
    sandbox = skerry.Sandbox.create(*_ECHO)
    said = next(iter(sandbox.stdout))
    took = ms_since(begun)
    sandbox.terminate(wait=True)
    for stage in sandbox.timings.stages:
        stages[stage.name].append(stage.ms)
    _check(said)
    return took


def _create_and_exec() -> float:
    begun = perf_counter()
    sandbox = skerry.Sandbox.create()
    said = next(iter(sandbox.exec(*_ECHO).stdout))
    took = ms_since(begun)
    sandbox.terminate(wait=True)
    _check(said)
    return took


def _baseline(bench: Bench, bundle: Path) -> float:
    begun = perf_counter()
    with bench.baseline.run(bundle) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        took = ms_since(begun)
    _check(said.decode())
    return took


def _check(said: str) -> None:
    if said != f"{_ECHO[1]}\n":
        raise RuntimeError(f"echo said {said!r}")
