"""Measure the native door alone: stdout of one process from a source in memory to a socket that is read and dropped.

    python benchmarks/door_throughput.py [--mib 2048] [--window-mib 4] [--profile FILE]

The server runs in a process of its own, as in life. Printed as JSON: MB/s, and seconds of CPU a GiB on either side.
The reader parses headers and grants credit, but copies nothing: what it costs is near the least any client must pay.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import cProfile
import json
import multiprocessing
import os
import resource
import socket
import struct
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from skerry.apps.memory import keep_freed_memory
from skerry.doors.native.app import native_door
from skerry.doors.native.callers import LocalCallers
from skerry.doors.native.listening import listening
from skerry.engine.engine import assemble
from skerry.model.ids import RandomIds
from skerry.testing.clock import VirtualClock
from skerry.testing.images import MemoryImages
from skerry.testing.node import FakeNode
from skerry.testing.outputs import MemoryOutput
from skerry.testing.programs import PROGRAMS
from skerry.testing.store import MemoryStore
from skerry.testing.vault import MemoryVault
from skerry.wire.frames import HEADER, HEADER_SIZE, FrameType, encode_credit, encode_frame

CHUNK = 256 << 10
MIB = 1 << 20


class Source(MemoryOutput):
    """An output that has `total` bytes and makes them from one buffer."""

    def __init__(self, total: int) -> None:
        super().__init__()
        self._chunk = memoryview(os.urandom(CHUNK))
        self.end = total
        self.ended = True

    async def follow(self, offset: int) -> AsyncIterator[tuple[int, bytes | memoryview]]:
        while offset < self.end:
            part = self._chunk[: min(CHUNK, self.end - offset)]
            yield offset, part
            offset += len(part)


async def serve(path: str, total: int, stop: multiprocessing.synchronize.Event) -> None:
    clock, ids = VirtualClock(), RandomIds()
    images = MemoryImages(clock=clock, ids=ids)
    async with FakeNode(clock=clock, programs=PROGRAMS) as node:
        store = MemoryStore(ids=ids)
        engine = assemble(
            store=store, nodes={node.view().id: node}, images=images, clock=clock, ids=ids, vault=MemoryVault()
        )
        door = native_door(engine, LocalCallers(), started_at=clock.now())
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        async with engine.running(), listening(door, sock):
            from skerry.model.specs import SandboxSpec

            view = await engine.sandboxes.create(SandboxSpec(image=images.add().id, entrypoint=("cat",)))
            process = node.process(view.id, view.entrypoint)
            process._outputs[1] = Source(total)
            Path(path + ".ready").write_text(view.id)
            while not stop.is_set():  # noqa: ASYNC110 - the event belongs to another process
                await asyncio.sleep(0.05)


def server(path: str, total: int, stop: multiprocessing.synchronize.Event, profile: str | None, used: object) -> None:
    keep_freed_memory()  # as apps/local.py does
    profiler = cProfile.Profile() if profile else contextlib.nullcontext()
    with profiler:
        asyncio.run(serve(path, total, stop))
    if profile:
        profiler.dump_stats(profile)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used.value = usage.ru_utime + usage.ru_stime


def handshake(sock: socket.socket) -> None:
    key = base64.b64encode(os.urandom(16)).decode()
    sock.sendall(
        f"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += sock.recv(1)
    assert b" 101 " in answer, answer


def send(sock: socket.socket, frame: bytes) -> None:
    size = len(frame)
    head = struct.pack("!BB", 0x82, 0x80 | size) if size < 126 else struct.pack("!BBH", 0x82, 0x80 | 126, size)
    sock.sendall(head + b"\0\0\0\0" + frame)  # masked with zeros


def read(sock: socket.socket, sandbox: str, window: int) -> int:
    """Read the entrypoint's stdout to its END; return how many bytes came."""
    opened = {"op": "process", "sandbox": sandbox, "process": "entrypoint", "limits": [window, 0]}
    send(sock, encode_frame(FrameType.OPEN, 1, msgspec.msgpack.encode(opened)))
    buffer = bytearray(2 * MIB)
    view = memoryview(buffer)
    start = end = received = granted = 0
    while True:
        while (frame := parse(buffer, start, end)) is not None:
            kind, size, start = frame
            if kind == FrameType.END:
                return received
            if kind == FrameType.DATA:
                received += size - 8
                if received + window - granted >= window // 2:
                    granted = received + window
                    send(sock, encode_credit(1, 1, received, granted))
        if start:
            view[: end - start] = view[start:end]
            start, end = 0, end - start
        end += sock.recv_into(view[end:])


def parse(buffer: bytearray, start: int, end: int) -> tuple[int, int, int] | None:
    """Return the type, the payload's size and the next position of the frame at `start`, if it is all there."""
    if end - start < 2:
        return None
    size, at = buffer[start + 1], start + 2
    if size == 126:
        size, at = struct.unpack_from("!H", buffer, at)[0], at + 2
    elif size == 127:
        size, at = struct.unpack_from("!Q", buffer, at)[0], at + 8
    if end < at + size or size < HEADER_SIZE:
        return None
    length, _, kind, _, _ = HEADER.unpack_from(buffer, at)
    return kind, length, at + size


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--mib", type=int, default=2048)
    options.add_argument("--window-mib", type=float, default=4)
    options.add_argument("--profile")
    given = options.parse_args()
    total = given.mib * MIB
    context = multiprocessing.get_context("spawn")
    stop, used = context.Event(), context.Value("d", 0.0)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/door.sock"
        process = context.Process(target=server, args=(path, total, stop, given.profile, used))
        process.start()
        ready = Path(path + ".ready")
        while not (ready.exists() and ready.read_text()):
            time.sleep(0.01)
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        handshake(sock)
        before = time.process_time()
        began = time.perf_counter()
        received = read(sock, ready.read_text(), int(given.window_mib * MIB))
        seconds = time.perf_counter() - began
        reader_cpu = time.process_time() - before
        assert received == total
        sock.close()
        stop.set()
        process.join()
    gib = total / (1 << 30)
    result = {
        "mb_per_s": round(total / 1e6 / seconds),
        "server_cpu_s_per_gib": round(used.value / gib, 3),
        "reader_cpu_s_per_gib": round(reader_cpu / gib, 3),
        "mib": given.mib,
        "window_mib": given.window_mib,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
