"""Memory of 100 idle sandboxes after one exec each, beside 100 idle containers of the baseline, one kind at a time.

It is the proportional set size of all their processes: sentries, gofers and stubs. The server's stands beside it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from time import monotonic, sleep
from typing import Any

import skerry
from benchmarks import processes
from benchmarks.findings import Bench, Finding, Line
from benchmarks.measures.exec import IDLE, exec_true
from benchmarks.samples import as_data, summary

AT_MOST = 1.3
_AT_ONCE = 2
_SETTLE_S = 20.0
_LOOK_S = 2.0
_AT_REST = 0.002  # of the sum, from one look to the next


def run(bench: Bench) -> Finding:
    n = bench.n(100, 10)
    baseline = _of_baselines(bench, n)
    ours = _of_sandboxes(bench, n)
    compared = ours["mean_mib"] / baseline["mean_mib"]
    return Finding(
        lines=[
            Line(
                f"mean of {n} idle sandboxes",
                f"{compared:.2f}x ({ours['mean_mib']:.1f} MiB beside {baseline['mean_mib']:.1f})",
                f"at most {AT_MOST}x",
                compared <= AT_MOST,
            ),
            Line("growth of the server with them", f"{ours['server_growth_mib'] / n:.2f} MiB each"),
        ],
        data={
            "unit": "MiB",
            "n": n,
            "ratio": {"of_means": round(compared, 4)},
            "ours": ours,
            "baseline_memory": baseline,
            "baseline": bench.baseline.describe(*IDLE),
        },
    )


def _of_baselines(bench: Bench, n: int) -> dict[str, Any]:
    with ExitStack() as started:
        started.callback(bench.baseline.sweep)
        _in_parallel(n, lambda: bench.baseline.start(*IDLE), bench, "baselines")
        return _settled(f"--root={bench.baseline.root}", n)


def _of_sandboxes(bench: Bench, n: int) -> dict[str, Any]:
    server = bench.server.pid
    before = processes.pss_mib(server)
    with ExitStack() as started:
        _in_parallel(n, lambda: _sandbox(started), bench, "sandboxes")
        found = _settled(bench.server.mark, n)
        return {**found, "server_growth_mib": round(processes.pss_mib(server) - before, 2)}


def _sandbox(started: ExitStack) -> None:
    sandbox = skerry.Sandbox.create(timeout=1800)
    started.callback(sandbox.terminate, wait=True)
    exec_true(sandbox)


def _in_parallel(n: int, work: Callable[[], object], bench: Bench, what: str) -> None:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for number, _ in enumerate(pool.map(lambda _: work(), range(n)), 1):
            bench.tell(f"{number} of {n} {what}")


def _settled(mark: str, n: int) -> dict[str, Any]:
    """Return the memory of all processes with `mark`, once it changes no more or enough time has passed."""
    deadline = monotonic() + _SETTLE_S
    last, found = 0.0, _look(mark, n)
    while abs(found["sum_mib"] - last) > _AT_REST * found["sum_mib"] and monotonic() < deadline:
        sleep(_LOOK_S)
        last, found = found["sum_mib"], _look(mark, n)
    return found


def _look(mark: str, n: int) -> dict[str, Any]:
    by_kind: dict[str, list[float]] = defaultdict(list)
    for pid in processes.marked(mark):
        by_kind[processes.kind(pid)].append(processes.pss_mib(pid))
    if len(by_kind["sentry"]) != n:
        raise RuntimeError(f"{len(by_kind['sentry'])} sentries run instead of {n}")
    total = sum(map(sum, by_kind.values()))
    return {
        "sum_mib": round(total, 1),
        "mean_mib": round(total / n, 3),
        "of_each_kind": {kind: _kind(found, n) for kind, found in sorted(by_kind.items())},
    }


def _kind(found: Sequence[float], n: int) -> dict[str, Any]:
    return {"processes": len(found), "mib_each_sandbox": round(sum(found) / n, 3), "pss": as_data(summary(found))}
