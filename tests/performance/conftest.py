"""One server for all of these tests, and the baseline beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.baseline import Baseline
from benchmarks.findings import Bench
from benchmarks.server import running

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bench(base_image: Path) -> Iterator[Bench]:
    """What the benchmarks work with, for few repetitions, in folders that a killed run's successor cleans up."""
    folder = CHECKOUT / "build" / "performance"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    before = os.environ.get("SKERRY_URL")
    with running(folder, base_image) as server:
        baseline = Baseline(folder / "baseline", base_image)
        try:
            yield Bench(server=server, baseline=baseline, quick=True, tell=print)
        finally:
            baseline.sweep()
    if before is None:
        del os.environ["SKERRY_URL"]
    else:
        os.environ["SKERRY_URL"] = before
