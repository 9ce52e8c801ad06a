"""An exec of `/bin/true` beside a process that writes without end to somebody who reads slowly, in one sandbox.

The log of such a process fills at first, as fast as it writes; from then on the process waits for its reader. The
promise is about that state, which lasts; the figure of the seconds before stands beside it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import skerry
from benchmarks.findings import Bench, Finding, Line
from benchmarks.measures.exec import exec_true
from benchmarks.samples import as_data, ratio, summary
from skerry.model.limits import OUTPUT_PROCESS_BYTES

AT_MOST = 2.0
_ENDLESS = ("cat", "/dev/zero")
_CHUNKS_EACH_S = 10
_WARM = 5
_FULL_WITHIN_S = 60.0
_LOOK_S = 0.25
_AT_REST_BYTES = 4 << 20
_FULL_BYTES = OUTPUT_PROCESS_BYTES * 9 // 10


def run(bench: Bench) -> Finding:
    values: dict[str, list[float]] = {"lone": [], "filling": [], "beside": []}
    blocks = bench.n(5, 1)
    for block in range(blocks):
        _block(bench, values, execs=40)
        bench.tell(f"{block + 1} of {blocks}")
    compared, filling = ratio(values["beside"], values["lone"]), ratio(values["filling"], values["lone"])
    series = {name: summary(found) for name, found in values.items()}
    return Finding(
        lines=[
            Line(
                "exec beside a slow reader",
                f"{compared.of_medians:.2f}x ({series['beside'].p50:.1f} ms beside {series['lone'].p50:.1f} alone)",
                f"at most {AT_MOST:.0f}x",
                compared.of_medians <= AT_MOST,
            ),
            Line(
                "while the log of the writer fills",
                f"{filling.of_medians:.2f}x ({series['filling'].p50:.1f} ms)",
            ),
        ],
        data={
            "unit": "ms",
            "writer": list(_ENDLESS),
            "reader_chunks_each_s": _CHUNKS_EACH_S,
            "series": {name: as_data(found) for name, found in series.items()},
            "ratio": as_data(compared),
            "ratio_while_filling": as_data(filling),
            "values": values,
        },
    )


def _block(bench: Bench, values: dict[str, list[float]], *, execs: int) -> None:
    with skerry.Sandbox.create(timeout=600) as sandbox:
        _execs(sandbox, _WARM)
        values["lone"] += _execs(sandbox, execs // 2)
        with _slow_reader(sandbox) as process:
            values["filling"] += _execs(sandbox, execs)
            _wait_until_full(_log_of(bench, process))
            values["beside"] += _execs(sandbox, execs)
        _execs(sandbox, _WARM)
        values["lone"] += _execs(sandbox, execs - execs // 2)  # half before and half after, so that no drift counts


def _execs(sandbox: skerry.Sandbox, n: int) -> list[float]:
    return [exec_true(sandbox) for _ in range(n)]


@contextmanager
def _slow_reader(sandbox: skerry.Sandbox) -> Iterator[skerry.ContainerProcess[bytes]]:
    """Yield a process that writes without end, while another thread takes a chunk of its output now and then."""
    process = sandbox.exec(*_ENDLESS, text=False)
    enough = threading.Event()
    reader = threading.Thread(target=_read_slowly, args=(process, enough))
    reader.start()
    try:
        yield process
    finally:
        enough.set()
        process.kill()
        process.wait()
        reader.join()


def _read_slowly(process: skerry.ContainerProcess[bytes], enough: threading.Event) -> None:
    chunks = iter(process.stdout)
    while not enough.wait(1 / _CHUNKS_EACH_S):
        next(chunks)


def _log_of(bench: Bench, process: skerry.ContainerProcess[bytes]) -> Path:
    return bench.server.settings.data_dir / "output" / process.sandbox_id / f"{process.object_id}.1"


def _wait_until_full(log: Path) -> None:
    """Return when the log has reached its bound, and grows no faster than its reader reads."""
    deadline = time.monotonic() + _FULL_WITHIN_S
    size = -1
    while (grown := log.stat().st_size) < _FULL_BYTES or grown > size + _AT_REST_BYTES:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{log} still grows after {_FULL_WITHIN_S:.0f} s: {grown} bytes")
        size = grown
        time.sleep(_LOOK_S)
