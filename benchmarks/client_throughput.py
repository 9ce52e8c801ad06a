"""What the SDK itself costs: bytes of output a second, and the time of a call, against the real door over a fake node.

    python benchmarks/client_throughput.py [MIB]

The door runs in a process of its own; figures for this process are its CPU time, which on a machine with few cores says
more than the rate.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import resource
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import skerry
from skerry.apps.memory import keep_freed_memory
from skerry.client.client import Client, connect, set_default
from skerry.doors.native.app import native_door
from skerry.doors.native.callers import LocalCallers
from skerry.doors.native.listening import listening
from skerry.engine.engine import assemble
from skerry.model.ids import ProcessId, RandomIds, SandboxId
from skerry.model.specs import ExecSpec
from skerry.testing.clock import VirtualClock
from skerry.testing.images import MemoryImages
from skerry.testing.node import FakeNode
from skerry.testing.outputs import MemoryOutput
from skerry.testing.processes import FakeProcess
from skerry.testing.programs import PROGRAMS
from skerry.testing.store import MemoryStore
from skerry.testing.vault import MemoryVault
from skerry.testing.volumes import MemoryVolumes

CALLS = 300
CHUNK = 256 << 10
LINE = b"some text in a line of a log, as programs write it\n"


def main() -> None:
    mib = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "v1.sock"
        server = multiprocessing.get_context("spawn").Process(target=_serve, args=(path,), daemon=True)
        server.start()
        with _connected(path):
            _measure(mib)
        server.terminate()
        server.join()


def _serve(path: Path) -> None:
    """Serve the door over a node whose output is made as fast as it is read."""
    keep_freed_memory()  # as apps/local.py does
    asyncio.run(_served(path))


async def _served(path: Path) -> None:
    clock, ids = VirtualClock(), RandomIds()
    programs = {**PROGRAMS, "gush": PROGRAMS["true"]}
    async with GushingNode(clock=clock, programs=programs) as node:
        images = MemoryImages(clock=clock, ids=ids)
        engine = assemble(
            store=MemoryStore(ids=ids),
            nodes={node.view().id: node},
            images=images,
            volume_disk=MemoryVolumes(clock),
            clock=clock,
            ids=ids,
            vault=MemoryVault(),
        )
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(path))
        async with engine.running(), listening(native_door(engine, LocalCallers(), started_at=0.0), sock):
            await asyncio.get_running_loop().create_future()


class Source(MemoryOutput):
    """An output that has `total` bytes, and makes them from one buffer."""

    def __init__(self, total: int, kind: str) -> None:
        super().__init__()
        self._chunk = memoryview(os.urandom(CHUNK) if kind == "bytes" else LINE * (CHUNK // len(LINE)))
        self.end = total
        self.ended = True

    async def follow(self, offset: int) -> AsyncIterator[tuple[int, bytes | memoryview]]:
        while offset < self.end:
            part = self._chunk[: self.end - offset]
            yield offset, part
            offset += len(part)


class GushingNode(FakeNode):
    """A node on which `gush MIB bytes|text` costs nothing but its transport."""

    async def exec(self, sandbox: SandboxId, process: ProcessId, spec: ExecSpec) -> FakeProcess:
        handle = await super().exec(sandbox, process, spec)
        if spec.argv[0] == "gush":
            handle._outputs[1] = Source(int(spec.argv[1]) << 20, spec.argv[2])
        return handle


def _connected(path: Path) -> Client:
    with socket.socket(socket.AF_UNIX) as probe:
        while probe.connect_ex(str(path)):
            time.sleep(0.01)
    client = connect(f"unix://{path}")
    set_default(client)
    return client


def _measure(mib: int) -> None:
    sandbox = skerry.Sandbox.create()

    def gush(kind: str) -> skerry.ContainerProcess[bytes]:
        return sandbox.exec("gush", str(mib), kind, text=kind == "text")  # type: ignore[call-overload]

    _rate("read() of bytes", mib, lambda: gush("bytes").stdout.read())
    _rate("iteration over bytes", mib, lambda: _exhaust(gush("bytes")))
    _rate("read() of text", mib, lambda: gush("text").stdout.read())
    _rate("iteration over lines", mib, lambda: _exhaust(gush("text")))
    data = os.urandom(min(mib, 128) << 20)
    _rate("write of a file", len(data) >> 20, lambda: sandbox.filesystem.write_bytes(data, "/file"))
    _rate("read of a file", len(data) >> 20, lambda: sandbox.filesystem.read_bytes("/file"))
    _latency("exec and wait", lambda: sandbox.exec("true").wait())
    _latency("exec and read", lambda: sandbox.exec("echo", "x").stdout.read())
    _latency("create and terminate", lambda: skerry.Sandbox.create().terminate())


def _exhaust(process: skerry.ContainerProcess[bytes]) -> None:
    for _ in process.stdout:
        pass


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _rate(name: str, mib: int, work: Callable[[], object]) -> None:
    begun, cpu = time.perf_counter(), _cpu()
    work()
    seconds = time.perf_counter() - begun
    rate = mib * 1.048576 / seconds
    print(f"{name:<24} {rate:8.0f} MB/s   {(_cpu() - cpu) * 1024 / mib:6.2f} s of CPU here for each GiB")


def _latency(name: str, work: Callable[[], object]) -> None:
    times = []
    cpu = _cpu()
    for _ in range(CALLS):
        begun = time.perf_counter()
        work()
        times.append((time.perf_counter() - begun) * 1000)
    times.sort()
    p50, p95 = times[CALLS // 2], times[CALLS * 95 // 100]
    print(f"{name:<24} p50 {p50:6.2f} ms   p95 {p95:6.2f} ms   {(_cpu() - cpu) * 1000 / CALLS:.2f} ms of CPU here")


if __name__ == "__main__":
    main()
