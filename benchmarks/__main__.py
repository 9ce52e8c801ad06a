"""Measure what SPECIFICATION.md promises: `make bench`, or `python -m benchmarks --only exec --quick`.

Ours and the baseline run in turn, in an order drawn anew each time. It needs root, and a machine on which nothing else
happens. Everything happens in build/bench; the servers and sandboxes of the machine's user are not touched.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks import base_image, machine
from benchmarks.baseline import Baseline
from benchmarks.findings import Bench, Finding, Measure
from benchmarks.measures import ALL
from benchmarks.report import Outcome, Progress, table, write_json
from benchmarks.server import running

BUILD = Path(__file__).resolve().parents[1] / "build"
FOLDER = BUILD / "bench"


def main() -> int:
    chosen = _parser().parse_args()
    if os.geteuid() != 0:
        print("benchmarks: sandboxes need root; run this as root", file=sys.stderr)
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):  # both clean up, also below a shell that ignores the first
        signal.signal(number, signal.default_int_handler)
    outcomes: list[Outcome] = []
    try:
        with _alone():
            _run([measure for measure in ALL if measure.name in (chosen.only or _names())], outcomes, chosen.quick)
    except KeyboardInterrupt:
        print("\nbenchmarks: stopped; everything that was started has been ended", file=sys.stderr)
    if outcomes:
        print(table(outcomes))
        if chosen.json:
            write_json(chosen.json, outcomes, quick=chosen.quick)
    complete = len(outcomes) == len(chosen.only or ALL)
    return 0 if complete and all(outcome.holds for outcome in outcomes) else 1


def _run(measures: Sequence[Measure], outcomes: list[Outcome], quick: bool) -> None:
    """Append the outcome of each measure as it is known, so that an interruption loses only the one under way."""
    progress = Progress()
    progress.begin("image and server")
    image = base_image.made(BUILD)
    with running(FOLDER, image) as server:
        progress.end("ready")
        baseline = Baseline(FOLDER / "baseline", image)
        bench = Bench(server=server, baseline=baseline, quick=quick, tell=progress.tell)
        try:
            for measure in measures:
                outcomes.append(_one(measure, bench, progress))
        finally:
            baseline.sweep()


def _one(measure: Measure, bench: Bench, progress: Progress) -> Outcome:
    progress.begin(measure.name)
    before, begun = machine.load(), time.monotonic()
    finding: Finding | None = None
    failure = ""
    try:
        finding = measure.run(bench)
    except Exception as exc:  # the others are still worth measuring
        failure = f"{type(exc).__name__}: {exc}"
    seconds = time.monotonic() - begun
    progress.end(failure or f"{seconds:.0f} s")
    return Outcome(measure, finding, failure, seconds, before, machine.load())


@contextmanager
def _alone() -> Iterator[None]:
    """Hold the folder, which two runs cannot share."""
    FOLDER.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (FOLDER / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"benchmarks: another run uses {FOLDER}; wait for its end") from None
        yield


def _names() -> list[str]:
    return [measure.name for measure in ALL]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--only", action="append", choices=_names(), help="this measure; may be given more than once")
    parser.add_argument("--quick", action="store_true", help="few repetitions: a first look, no figures to quote")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures and samples there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
