"""Writing and reading a file of 100 MiB through the SDK, and one of 1 MiB.

The floor is `cat` of as many bytes by `runsc exec`, from a pipe into a file and back.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable
from time import perf_counter

import skerry
from benchmarks.findings import Bench, Finding, Line
from benchmarks.measures.exec import IDLE
from benchmarks.samples import Summary, as_data, in_turn, ms_since, summary

AT_LEAST_MB_S = 200.0
AT_MOST_MS = 8.0
LARGE = 100 << 20
SMALL = 1 << 20
_PATH = "/root/file"
_MEMORY_MIB = (128, 2048)


def run(bench: Bench) -> Finding:
    large, small = os.urandom(LARGE), os.urandom(SMALL)
    with skerry.Sandbox.create(memory=_MEMORY_MIB, timeout=900) as sandbox, bench.baseline.started(*IDLE) as container:
        files = sandbox.filesystem
        into = bench.baseline.exec_command(container, "sh", "-c", f"cat > {_PATH}")
        out = bench.baseline.exec_command(container, "cat", _PATH)
        rates = {
            "write": lambda: _rate(lambda: files.write_bytes(large, _PATH)),
            "read": lambda: _rate(lambda: _same(files.read_bytes(_PATH), large)),
            "floor_write": lambda: _rate(lambda: _runsc(into, large)),
            "floor_read": lambda: _rate(lambda: _runsc(out)),
        }
        files.write_bytes(large, _PATH)
        _runsc(into, large)
        values = in_turn(rates, bench.n(10, 3), warm=1, tell=bench.tell)
        times = {
            "small_write": lambda: _ms(lambda: files.write_bytes(small, "/root/small")),
            "small_read": lambda: _ms(lambda: _same(files.read_bytes("/root/small"), small)),
        }
        files.write_bytes(small, "/root/small")
        values |= in_turn(times, bench.n(100, 20), warm=3, tell=bench.tell)
    series = {name: summary(found) for name, found in values.items()}
    return Finding(
        lines=[
            *(_rate_line(way, series[way], series[f"floor_{way}"]) for way in ("write", "read")),
            *(_time_line(way, series[f"small_{way}"]) for way in ("write", "read")),
        ],
        data={
            "unit": "MB/s, and ms for small_write and small_read",
            "bytes": [LARGE, SMALL],
            "series": {name: as_data(found) for name, found in series.items()},
            "baseline": {**bench.baseline.describe(*IDLE), "exec": [shlex.join(into), shlex.join(out)]},
            "values": values,
        },
    )


def _rate_line(way: str, ours: Summary, floor: Summary) -> Line:
    return Line(
        f"{way}_bytes of 100 MiB",
        f"{ours.p50:.0f} MB/s beside {floor.p50:.0f} of cat by runsc exec",
        f"at least {AT_LEAST_MB_S:.0f} MB/s",
        ours.p50 >= AT_LEAST_MB_S,
    )


def _time_line(way: str, ours: Summary) -> Line:
    promised = f"at most {AT_MOST_MS:.0f} ms"
    return Line(f"{way}_bytes of 1 MiB", f"{ours.p50:.1f} ms, p95 {ours.p95:.1f}", promised, ours.p50 <= AT_MOST_MS)


def _rate(work: Callable[[], object]) -> float:
    begun = perf_counter()
    work()
    return LARGE / 1e6 / (perf_counter() - begun)


def _ms(work: Callable[[], object]) -> float:
    begun = perf_counter()
    work()
    return ms_since(begun)


def _same(found: bytes, expected: bytes) -> None:
    if found != expected:
        raise RuntimeError("what was read is not what was written")


def _runsc(command: list[str], data: bytes | None = None) -> None:
    done = subprocess.run(command, input=data, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    if data is None and len(done.stdout) != LARGE:
        raise RuntimeError(f"runsc exec gave {len(done.stdout)} bytes of {LARGE}")
