"""1 GiB of random bytes from `cat` in a sandbox to the SDK: the rate, the hash, and the server's memory.

The floor is the same `cat` of as many bytes through `runsc exec` to a pipe, read and thrown away.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from time import perf_counter

import skerry
from benchmarks import processes
from benchmarks.findings import Bench, Finding, Line
from benchmarks.measures.exec import IDLE
from benchmarks.samples import as_data, in_turn, summary

AT_LEAST_MB_S = 250.0
AT_MOST_MIB = 64.0
BYTES = 1 << 30

# Two files, since neither the root's writable layer nor /tmp holds 1 GiB by default.
_FILES = {"/root/random": 640 << 20, "/tmp/random": 384 << 20}
_CAT = ("cat", *_FILES)
_FILL = " && ".join(
    f"dd if=/dev/urandom of={path} bs=1M count={size >> 20} iflag=fullblock status=none"
    for path, size in _FILES.items()
)
_MEMORY_MIB = (128, 3072)
_READ = 1 << 20
_READS_EACH = 3


def run(bench: Bench) -> Finding:
    if sum(_FILES.values()) != BYTES:
        raise AssertionError(_FILES)
    with bench.baseline.started(*IDLE) as container, ExitStack() as sandboxes:
        bench.tell("filling")
        bench.baseline.exec(container, "sh", "-c", _FILL)
        command = bench.baseline.exec_command(container, *_CAT)
        runner = _Ours(bench, sandboxes)
        runs = {"ours": runner.read, "iterated": runner.iterate, "baseline": lambda: _from_runsc(command)}
        values = in_turn(runs, bench.n(5, 2), warm=0, tell=bench.tell)
    series = {name: summary(found) for name, found in values.items()}
    rate, growth = series["ours"].p50, max(runner.growth_mib)
    return Finding(
        lines=[
            Line(
                "stdout.read()",
                f"{rate:.0f} MB/s beside {series['baseline'].p50:.0f} of runsc exec",
                f"at least {AT_LEAST_MB_S:.0f} MB/s",
                rate >= AT_LEAST_MB_S,
            ),
            Line("iterating over stdout", f"{series['iterated'].p50:.0f} MB/s"),
            Line("hash inside and outside", f"equal, {runner.equal} of {runner.runs}", "equal", runner.all_equal),
            Line(
                "growth of the server's memory",
                f"{growth:.0f} MiB at its peak",
                f"under {AT_MOST_MIB:.0f} MiB",
                growth < AT_MOST_MIB,
            ),
        ],
        data={
            "unit": "MB/s",
            "bytes": BYTES,
            "series": {name: as_data(found) for name, found in series.items()},
            "server_growth_mib": [round(value, 1) for value in runner.growth_mib],
            "hashes_equal": [runner.equal, runner.runs],
            "baseline": {**bench.baseline.describe(*IDLE), "exec": shlex.join(command)},
            "values": values,
        },
    )


class _Ours:
    """Reads from sandboxes, of which each serves a few: one keeps 4 GiB of output, the oldest of which then goes."""

    def __init__(self, bench: Bench, sandboxes: ExitStack) -> None:
        self._bench = bench
        self._sandboxes = sandboxes
        self._sandbox: skerry.Sandbox | None = None
        self._left = 0
        self._inside = ""
        self.growth_mib: list[float] = []
        self.equal = self.runs = 0

    @property
    def all_equal(self) -> bool:
        return self.equal == self.runs > 0

    def read(self) -> float:
        return self._measured(lambda process: [process.stdout.read()])

    def iterate(self) -> float:
        return self._measured(lambda process: list(process.stdout))

    def _measured(self, take: Callable[[skerry.ContainerProcess[bytes]], list[bytes]]) -> float:
        sandbox, server = self._filled(), self._bench.server.pid
        processes.forget_peak(server)
        before = processes.rss_mib(server)
        begun = perf_counter()
        chunks = take(sandbox.exec(*_CAT, text=False))
        seconds = perf_counter() - begun
        self.growth_mib.append(processes.peak_rss_mib(server) - before)
        self._compare(chunks)
        return BYTES / 1e6 / seconds

    def _filled(self) -> skerry.Sandbox:
        """Return a sandbox with the files, and know their hash as it was computed inside."""
        if self._sandbox is None or not self._left:
            self._sandboxes.close()
            self._sandbox = self._sandboxes.enter_context(skerry.Sandbox.create(memory=_MEMORY_MIB, timeout=1800))
            hashed = self._sandbox.exec("sh", "-c", f"{_FILL} && {shlex.join(_CAT)} | sha256sum").stdout.read()
            self._inside, self._left = hashed.split()[0], _READS_EACH
        self._left -= 1
        return self._sandbox

    def _compare(self, chunks: list[bytes]) -> None:
        outside = hashlib.sha256()
        for chunk in chunks:
            outside.update(chunk)
        self.runs += 1
        self.equal += outside.hexdigest() == self._inside


def _from_runsc(command: list[str]) -> float:
    buffer = bytearray(_READ)
    received = 0
    begun = perf_counter()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while count := os.readv(process.stdout.fileno(), [buffer]):
            received += count
    if received != BYTES:
        raise RuntimeError(f"runsc exec gave {received} bytes of {BYTES}")
    return BYTES / 1e6 / (perf_counter() - begun)
