"""`Sandbox.create` with a volume beside `Sandbox.create` without, through the SDK."""

from __future__ import annotations

import statistics
from collections import defaultdict
from time import perf_counter

import skerry
from benchmarks.findings import Bench, Finding, Line
from benchmarks.samples import as_data, in_turn, ms_since, ratio, summary

AT_MOST = 1.3
_NAMES = ("benchmark-alone", "benchmark-shared")


def run(bench: Bench) -> Finding:
    stages: dict[str, dict[str, list[float]]] = {"plain": defaultdict(list), "volume": defaultdict(list)}
    alone, shared = (skerry.Volume.from_name(name, create_if_missing=True).hydrate() for name in _NAMES)
    with skerry.Sandbox.create(volumes={"/data": shared}, timeout=3600):
        runs = {
            "plain": lambda: _create({}, stages["plain"]),
            "volume": lambda: _create({"/data": alone}, stages["volume"]),  # mounted on the machine for it
            "shared": lambda: _create({"/data": shared}, defaultdict(list)),  # mounted already
        }
        values = in_turn(runs, bench.n(30, 8), warm=2, tell=bench.tell)
    for name in _NAMES:
        skerry.Volume.delete(name)
    series = {name: summary(found) for name, found in values.items()}
    compared = ratio(values["volume"], values["plain"])
    beside = ratio(values["shared"], values["plain"])
    return Finding(
        lines=[
            Line(
                "Sandbox.create with a volume that nobody else uses",
                f"{compared.of_medians:.2f}x ({series['volume'].p50:.0f} ms beside {series['plain'].p50:.0f})",
                f"at most {AT_MOST}x",
                compared.of_medians <= AT_MOST,
            ),
            Line(
                "with one that another sandbox mounts",
                f"{beside.of_medians:.2f}x ({series['shared'].p50:.0f} ms)",
                f"at most {AT_MOST}x",
                beside.of_medians <= AT_MOST,
            ),
        ],
        data={
            "unit": "ms",
            "network": "open",
            "series": {name: as_data(found) for name, found in series.items()},
            "ratio": as_data(compared),
            "ratio_shared": as_data(beside),
            "stages_p50": {
                kind: {name: round(statistics.median(found), 2) for name, found in one.items()}
                for kind, one in stages.items()
            },
            "values": values,
        },
    )


def _create(volumes: dict[str, skerry.Volume], stages: dict[str, list[float]]) -> float:
    begun = perf_counter()
    sandbox = skerry.Sandbox.create(volumes=volumes)
    took = ms_since(begun)
    for stage in sandbox.timings.stages:
        stages[stage.name].append(stage.ms)
    if volumes:
        done = sandbox.exec("sh", "-c", "echo x > /data/x")
        if done.wait():
            raise RuntimeError(f"the volume cannot be written: {done.stderr.read()}")
    sandbox.terminate(wait=True)
    return took
