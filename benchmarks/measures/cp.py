"""A tree of 10,000 small files into a sandbox and out of it.

The floor is the same tree as a tar: into a container of the baseline by `runsc exec ID tar x`, and out by `tar c`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from time import perf_counter

import skerry
from benchmarks.findings import Bench, Finding, Line
from benchmarks.measures.exec import IDLE
from benchmarks.samples import Summary, as_data, in_turn, summary

AT_LEAST_A_SECOND = 3000.0
FILES = 10_000
_FOLDERS = 100
_UNPACK = "mkdir -p /root/tree && tar x -C /root/tree"
_BYTES = 1000
_MEMORY_MIB = (128, 2048)


def run(bench: Bench) -> Finding:
    with (
        tempfile.TemporaryDirectory(prefix="skerry-bench-") as folder,
        skerry.Sandbox.create(memory=_MEMORY_MIB, timeout=900) as sandbox,
        bench.baseline.started(*IDLE) as container,
    ):
        tree = _make_tree(Path(folder, "tree"))
        tar = subprocess.run(["tar", "c", "-C", tree, "."], stdout=subprocess.PIPE, check=True).stdout
        into = bench.baseline.exec_command(container, "sh", "-c", _UNPACK)
        out = bench.baseline.exec_command(container, "tar", "c", "-C", "/root/tree", ".")
        numbers = count()

        def upload() -> float:
            sandbox.exec("rm", "-rf", "/root/tree").wait()  # the same for both: nothing is replaced
            return _rate(lambda: sandbox.filesystem.copy_from_local(tree, "/root/tree"))

        def download() -> float:
            target = Path(folder, str(next(numbers)))
            rate = _rate(lambda: sandbox.filesystem.copy_to_local("/root/tree", target))
            _check(target)
            shutil.rmtree(target)
            return rate

        def unpack() -> float:
            bench.baseline.exec(container, "rm", "-rf", "/root/tree")
            return _rate(lambda: _runsc(into, tar))

        runs = {
            "in": upload,
            "out": download,
            "floor_in": unpack,
            "floor_out": lambda: _rate(lambda: _runsc(out)),
        }
        upload()
        _runsc(into, tar)
        values = in_turn(runs, bench.n(7, 2), warm=1, tell=bench.tell)
    series = {name: summary(found) for name, found in values.items()}
    return Finding(
        lines=[
            _line("copy_from_local", series["in"], series["floor_in"], promised=True),
            _line("copy_to_local", series["out"], series["floor_out"], promised=False),
        ],
        data={
            "unit": "files/s",
            "files": FILES,
            "series": {name: as_data(found) for name, found in series.items()},
            "baseline": {**bench.baseline.describe(*IDLE), "exec": [shlex.join(into), shlex.join(out)]},
            "values": values,
        },
    )


def _line(call: str, ours: Summary, floor: Summary, *, promised: bool) -> Line:
    return Line(
        f"{call} of {FILES:,} files",
        f"{ours.p50:,.0f} files/s beside {floor.p50:,.0f} of tar by runsc exec",
        f"at least {AT_LEAST_A_SECOND:,.0f} files/s" if promised else "",
        ours.p50 >= AT_LEAST_A_SECOND if promised else None,
    )


def _make_tree(root: Path) -> Path:
    for folder in range(_FOLDERS):
        (root / f"folder-{folder}").mkdir(parents=True)
        for name in range(FILES // _FOLDERS):
            (root / f"folder-{folder}" / f"file-{name}").write_bytes(os.urandom(_BYTES))
    return root


def _check(root: Path) -> None:
    found = sum(len(names) for _, _, names in os.walk(root))
    if found != FILES:
        raise RuntimeError(f"{found} files of {FILES} came back")


def _rate(work: Callable[[], object]) -> float:
    begun = perf_counter()
    work()
    return FILES / (perf_counter() - begun)


def _runsc(command: list[str], data: bytes | None = None) -> None:
    subprocess.run(command, input=data, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
