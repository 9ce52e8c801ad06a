"""100 sandboxes made and ended, and what there is more than before: nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from time import monotonic, sleep

import skerry
from benchmarks import processes
from benchmarks.findings import Bench, Finding, Line
from benchmarks.leftovers import Things
from benchmarks.measures.exec import exec_true

_AT_ONCE = 2
_WARM = 4
_PATIENCE_S = 10.0
_LOOK_S = 0.2


def run(bench: Bench) -> Finding:
    n = bench.n(100, 10)
    server = bench.server
    _make_and_end(bench, _WARM)
    _wait_for_rest(server.pid)
    before, rss = Things.of(server), processes.rss_mib(server.pid)
    kept = _kept_outputs(bench)
    _make_and_end(bench, n)
    more = _more_than(before, bench)
    grown = processes.rss_mib(server.pid) - rss
    return Finding(
        lines=[
            Line(
                f"{n} creates and ends",
                "; ".join(f"{len(found)} more {kind}" for kind, found in more.items()) or "nothing left",
                "nothing more than before",
                not more,
            ),
            Line("growth of the server's memory", f"{grown:.1f} MiB ({1024 * grown / n:.0f} KiB each)"),
        ],
        data={
            "n": n,
            "counted_before": before.counts(),
            "counted_after": Things.of(server).counts(),
            "more": {kind: sorted(found)[:50] for kind, found in more.items()},
            "kept_outputs": _kept_outputs(bench) - kept,
            "server_growth_mib": round(grown, 2),
        },
    )


def _make_and_end(bench: Bench, n: int) -> None:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for number, _ in enumerate(pool.map(_life, range(n)), 1):
            bench.tell(f"{number} of {n}")


def _life(number: int) -> None:
    """One sandbox, ended in one of the ways in which they end."""
    if number % 2:
        sandbox = skerry.Sandbox.create()
        exec_true(sandbox)
        sandbox.terminate(wait=True)
    else:
        sandbox = skerry.Sandbox.create("sh", "-c", "echo made; exit 3")
        sandbox.wait()
        if (sandbox.stdout.read(), sandbox.returncode) != ("made\n", 3):
            raise RuntimeError(f"{sandbox} ended with {sandbox.exit}")


def _more_than(before: Things, bench: Bench) -> dict[str, set[str]]:
    """Return what is there and was not before, once what ends slowly had time to."""
    deadline = monotonic() + _PATIENCE_S
    while (more := Things.of(bench.server).more_than(before)) and monotonic() < deadline:
        sleep(_LOOK_S)
    return more


def _wait_for_rest(server: int) -> None:
    """Wait until the server holds no more descriptors than a moment ago."""
    deadline = monotonic() + _PATIENCE_S
    last = -1
    while (now := len(processes.descriptors(server))) != last and monotonic() < deadline:
        last = now
        sleep(_LOOK_S)


def _kept_outputs(bench: Bench) -> int:
    """The output of ended sandboxes is kept on purpose, up to the bounds of retention; so it is counted apart."""
    return sum(1 for _ in (bench.server.settings.data_dir / "output").iterdir())
