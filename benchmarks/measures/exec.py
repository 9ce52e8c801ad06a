"""An exec of `/bin/true` in a sandbox that runs, beside `runsc exec` of the same in the baseline's container."""

from __future__ import annotations

import shlex
import subprocess
from time import perf_counter

import skerry
from benchmarks.findings import Bench, Finding, Line
from benchmarks.samples import as_data, in_turn, ms_since, ratio, summary

AT_MOST = 0.5
TRUE = "/bin/true"
IDLE = ("sleep", "3600")


def run(bench: Bench) -> Finding:
    with skerry.Sandbox.create(timeout=900) as sandbox, bench.baseline.started(*IDLE) as container:
        command = bench.baseline.exec_command(container, TRUE)
        runs = {"ours": lambda: exec_true(sandbox), "baseline": lambda: _runsc_exec(command)}
        values = in_turn(runs, bench.n(200, 40), warm=5, tell=bench.tell)
    compared = ratio(values["ours"], values["baseline"])
    series = {name: summary(found) for name, found in values.items()}
    return Finding(
        lines=[
            Line(
                "exec('/bin/true').wait()",
                f"{compared.of_medians:.2f}x ({series['ours'].p50:.1f} ms beside {series['baseline'].p50:.1f})",
                f"at most {AT_MOST}x",
                compared.of_medians <= AT_MOST,
            )
        ],
        data={
            "unit": "ms",
            "series": {name: as_data(found) for name, found in series.items()},
            "ratio": as_data(compared),
            "baseline": {**bench.baseline.describe(*IDLE), "exec": shlex.join(command)},
            "values": values,
        },
    )


def exec_true(sandbox: skerry.Sandbox) -> float:
    """Return the milliseconds from the call to the exit code."""
    begun = perf_counter()
    code = sandbox.exec(TRUE).wait()
    took = ms_since(begun)
    if code != 0:
        raise RuntimeError(f"{TRUE} ended with {code}")
    return took


def _runsc_exec(command: list[str]) -> float:
    null = subprocess.DEVNULL
    begun = perf_counter()
    subprocess.run(command, stdin=null, stdout=null, stderr=null, check=True)
    return ms_since(begun)
