"""How fast the node takes in what an agent sends, without a sandbox: frames through a pipe into an output log.

A child process plays the agent: it keeps to the protocol and to its credit, and writes as fast as the pipe takes it.
The figures are for the whole of link, credit and log, in one process beside the child. Prints JSON.

    python benchmarks/wire_throughput.py [--mib 1024] [--folder /dev/shm] [--follow]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import json
import os
import platform
import resource
import struct
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from skerry.node.agent_link import AgentLink
from skerry.node.output import ProcessOutput
from skerry.node.output_quota import NodeQuota, free_bytes_of
from skerry.wire.frames import STDERR, STDOUT
from skerry.wire.messages import Hello, OpenExec, Setup

HEADER = struct.Struct("<IIBBH")
PIPE_BYTES = 1 << 20
EXECS = 2000


def play_agent() -> None:
    """Answer HELLO and every OPEN; `argv` is the number of bytes to send on stdout and the size of a frame."""
    while True:
        length, stream, kind, _, _ = HEADER.unpack(_exactly(HEADER.size))
        payload = _exactly(length)
        if kind == 1:
            _send(2, 0, msgspec.msgpack.encode(READY))
        elif kind == 5:
            _run(stream, msgspec.msgpack.decode(payload))


READY = {"version": 1, "agent": "bench", "generation": 0, "last_stream": 0, "streams": []}
EXIT = {"code": 0, "signal": None, "reason": "exited", "evidence": ""}


def _run(stream: int, op: dict[str, Any]) -> None:
    total, size = map(int, op["argv"])
    limit, sent, content = op["limits"][0], 0, memoryview(os.urandom(max(size, 1)))
    _send(6, stream, msgspec.msgpack.encode({"pid": 7}))
    while sent < total:
        while sent >= limit:
            _, _, kind, _, _ = HEADER.unpack(_exactly(HEADER.size))
            assert kind == 9, kind
            _, limit = struct.unpack("<QQ", _exactly(16))
        count = min(size, total - sent, limit - sent)
        _send(7, stream, struct.pack("<Q", sent), 1, content[:count])
        sent += count
    _send(8, stream, struct.pack("<Q", sent), 1)
    _send(8, stream, struct.pack("<Q", 0), 2)
    _send(12, stream, msgspec.msgpack.encode(EXIT))
    while True:  # what is left of the credit, up to CLOSE
        length, _, kind, _, _ = HEADER.unpack(_exactly(HEADER.size))
        _exactly(length)
        if kind == 15:
            return


def _exactly(size: int) -> bytes:
    parts = b""
    while len(parts) < size:
        part = os.read(0, size - len(parts))
        if not part:
            sys.exit(0)
        parts += part
    return parts


def _send(kind: int, stream: int, payload: bytes, flags: int = 0, content: bytes | memoryview = b"") -> None:
    head = HEADER.pack(len(payload) + len(content), stream, kind, flags, 0) + payload
    parts = [memoryview(head), memoryview(content)]
    while parts:
        written = os.writev(1, parts)
        while parts and written >= len(parts[0]):
            written -= len(parts.pop(0))
        if parts:
            parts[0] = parts[0][written:]


@contextlib.asynccontextmanager
async def linked() -> AsyncIterator[AgentLink]:
    """Give a link to a child that plays the agent, greeted."""
    (down_r, down_w), (up_r, up_w) = os.pipe(), os.pipe()
    for fd in (down_w, up_w):
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    child = await asyncio.create_subprocess_exec(sys.executable, __file__, "--agent", stdin=down_r, stdout=up_w)
    os.close(down_r)
    os.close(up_w)
    link = AgentLink(up_r, down_w)
    setup = Setup(hostname="bench", processes=1)
    hello = Hello(secret=bytes(32), proof=None, generation=0, setup=setup)
    try:
        await link.hello(hello, deadline=asyncio.get_running_loop().time() + 10)
        yield link
    finally:
        link.close()
        await child.wait()


async def stream_once(link: AgentLink, folder: Path, size: int, frame: int, follow: bool) -> dict[str, Any]:
    """Return the figures of one process that writes `size` bytes in frames of `frame`."""
    quota = NodeQuota(free_bytes_of(folder), reserve=0)
    output = ProcessOutput(folder, f"pr_{frame}", quota=quota.sandbox())
    began, cpu = time.perf_counter(), time.process_time()
    stream = link.open(OpenExec(argv=(b"%d" % size, b"%d" % frame)), sink=output)
    followed = asyncio.create_task(count(output)) if follow else None
    await stream.exit
    await stream.ended(STDOUT)
    await stream.ended(STDERR)
    if followed is not None:
        assert await followed == size
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    assert output.log(STDOUT).end == size
    output.remove()
    return {
        "frame_bytes": frame,
        "mb_per_s": round(size / took / 1e6, 1),
        "cpu_ms_per_mb": round(cpu * 1e3 / (size / 1e6), 3),
        "cpu_us_per_frame": round(cpu * 1e6 / (size / frame), 2),
    }


async def count(output: ProcessOutput) -> int:
    total = 0
    with output.log(STDOUT).follow() as reader:
        async for _, content in reader:
            total += len(content)
    return total


async def execs(link: AgentLink, folder: Path) -> dict[str, Any]:
    """Return what a process that writes six bytes costs this side."""
    quota = NodeQuota(free_bytes_of(folder), reserve=0).sandbox()
    began, cpu = time.perf_counter(), time.process_time()
    for number in range(EXECS):
        output = ProcessOutput(folder, f"pr_x{number}", quota=quota)
        stream = link.open(OpenExec(argv=(b"6", b"6")), sink=output)
        await stream.started()
        await stream.exit
        await stream.ended(STDOUT)
        await stream.ended(STDERR)
        output.remove()
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    return {"n": EXECS, "wall_us": round(took * 1e6 / EXECS, 1), "cpu_us": round(cpu * 1e6 / EXECS, 1)}


async def measure(folder: Path, mib: int, follow: bool) -> dict[str, Any]:
    async with linked() as link:
        streams = [
            await stream_once(link, folder, min(mib << 20, frame * 20_000), frame, follow)
            for frame in (1 << 20, 256 << 10, 64 << 10, 4 << 10, 64)
        ]
        return {
            "machine": platform.platform(),
            "python": platform.python_version(),
            "load": os.getloadavg(),
            "folder": str(folder),
            "followed": follow,
            "streams": streams,
            "exec": await execs(link, folder),
            "max_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--agent", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--follow", action="store_true", help="read the log while it is written")
    args = parser.parse_args()
    if args.agent:
        play_agent()
        return
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="skerry-bench-") as folder:
        print(json.dumps(asyncio.run(measure(Path(folder), args.mib, args.follow)), indent=2))


if __name__ == "__main__":
    main()
