"""A small host for one agent: raw frames over two pipes, independent of the product's own codec."""

from __future__ import annotations

import os
import select
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

HEADER = struct.Struct("<IIBBH")
TYPES = {
    "HELLO": 1, "READY": 2, "PING": 3, "PONG": 4, "OPEN": 5, "STARTED": 6, "DATA": 7, "END": 8, "CREDIT": 9,
    "SIGNAL": 10, "RESIZE": 11, "EXIT": 12, "ERROR": 13, "RESULT": 14, "CLOSE": 15, "SHUTDOWN": 16,
}  # fmt: skip
NAMES = {number: name for name, number in TYPES.items()}
MAPS = {"READY", "STARTED", "EXIT", "ERROR", "RESULT"}
WINDOW = 1 << 20
DEADLINE = 20.0
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ChannelClosed(Exception):
    """The agent closed its pipe, as it does when it exits."""


@dataclass
class Frame:
    stream: int
    name: str
    flags: int
    payload: bytes

    @property
    def map(self) -> dict[str, Any]:
        return msgspec.msgpack.decode(self.payload)


@dataclass
class Output:
    """What one process or file operation has sent so far."""

    data: dict[int, bytearray] = field(default_factory=lambda: {1: bytearray(), 2: bytearray()})
    ended: dict[int, int] = field(default_factory=dict)
    started: dict[str, Any] | None = None
    exit: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    credit: tuple[int, int] = (0, 0)

    @property
    def stdout(self) -> bytes:
        return bytes(self.data[1])

    @property
    def stderr(self) -> bytes:
        return bytes(self.data[2])


class Host:
    """The node's side of one channel."""

    def __init__(self, read: int, write: int) -> None:
        self.read, self.write = read, write
        os.set_blocking(read, False)
        os.set_blocking(write, False)
        self.buffer = bytearray()
        self.outputs: dict[int, Output] = {}
        self.ready: dict[str, Any] | None = None
        self.pongs: list[bytes] = []
        self.next_stream = 1
        self.grants = True
        self.unsent = bytearray()
        self.sending = False
        self.taking = False

    # Frames

    def send(self, name: str | int, stream: int = 0, payload: bytes = b"", flags: int = 0) -> None:
        number = name if isinstance(name, int) else TYPES[name]
        self.send_raw(HEADER.pack(len(payload), stream, number, flags, 0) + payload)

    def send_map(self, name: str, stream: int, **fields: Any) -> None:
        self.send(name, stream, msgspec.msgpack.encode(fields))

    def send_raw(self, data: bytes) -> None:
        """Write everything, reading meanwhile so that neither side waits for the other."""
        self.unsent += data
        if not self.taking:
            self.flush()

    def flush(self) -> None:
        if self.sending:
            return  # What is being written goes first.
        self.sending, deadline = True, time.monotonic() + DEADLINE
        try:
            while self.unsent:
                readable, writable, _ = select.select([self.read], [self.write], [], 1)
                if readable:
                    self.pump(0)
                if writable:
                    self._write_some()
                assert time.monotonic() < deadline, "the agent takes no more bytes"
        finally:
            self.sending = False

    def _write_some(self) -> None:
        try:
            del self.unsent[: os.write(self.write, self.unsent[: 1 << 20])]
        except BlockingIOError:
            pass
        except BrokenPipeError as exc:
            raise ChannelClosed from exc

    def pump(self, timeout: float) -> bool:
        """Read once and take in what is whole; return whether anything came."""
        if not select.select([self.read], [], [], timeout)[0]:
            return False
        data = os.read(self.read, 1 << 20)
        if not data:
            raise ChannelClosed
        self.buffer += data
        self.taking = True
        try:
            for frame in self._frames():
                self._take(frame)
        finally:
            self.taking = False
        self.flush()
        return True

    def _frames(self) -> list[Frame]:
        frames, at = [], 0
        while len(self.buffer) - at >= HEADER.size:
            length, stream, number, flags, zero = HEADER.unpack_from(self.buffer, at)
            assert zero == 0
            if len(self.buffer) - at < HEADER.size + length:
                break
            payload = bytes(self.buffer[at + HEADER.size : at + HEADER.size + length])
            frames.append(Frame(stream, NAMES[number], flags, payload))
            at += HEADER.size + length
        del self.buffer[:at]
        return frames

    def _take(self, frame: Frame) -> None:
        output = self.outputs.setdefault(frame.stream, Output())
        match frame.name:
            case "READY":
                self.ready = frame.map
            case "PONG":
                self.pongs.append(frame.payload)
            case "STARTED":
                output.started = frame.map
            case "EXIT":
                assert output.exit is None, "a second EXIT"
                output.exit = frame.map
            case "ERROR":
                output.error = frame.map
            case "RESULT":
                output.result = frame.map
            case "CREDIT":
                output.credit = struct.unpack("<QQ", frame.payload)
            case "END":
                (offset,) = struct.unpack("<Q", frame.payload)
                assert offset == len(output.data[frame.flags]), "END at another offset than the data"
                assert frame.flags not in output.ended, "a second END"
                output.ended[frame.flags] = offset
            case "DATA":
                (offset,) = struct.unpack_from("<Q", frame.payload)
                channel = output.data[frame.flags]
                assert offset == len(channel), f"DATA at {offset} instead of {len(channel)}"
                channel += frame.payload[8:]
                if self.grants and len(frame.payload) > 8:
                    self.grant(frame.stream, frame.flags)

    def grant(self, stream: int, channel: int, window: int = WINDOW) -> None:
        have = len(self.outputs[stream].data[channel])
        self.send("CREDIT", stream, struct.pack("<QQ", have, have + window), flags=channel)

    def wait(self, condition: Callable[[], Any], what: str = "the condition", deadline: float = DEADLINE) -> Any:
        """Take in frames until the condition holds, and return what it returned."""
        end = time.monotonic() + deadline
        while not (value := condition()):
            left = end - time.monotonic()
            assert left > 0, f"{what} did not come within {deadline} s"
            self.pump(left)
        return value

    # Requests

    def hello(
        self, secret: bytes, proof: bytes | None = None, setup: dict[str, Any] | None = None, generation: int = 0
    ):
        self.send_map("HELLO", 0, version=1, secret=secret, proof=proof, generation=generation, setup=setup)
        return self.wait(lambda: self.ready, "READY")

    def ping(self, payload: bytes = b"ping") -> None:
        count = len(self.pongs)
        self.send("PING", 0, payload)
        self.wait(lambda: len(self.pongs) > count, "PONG")

    def open(self, op: str, **fields: Any) -> int:
        stream, self.next_stream = self.next_stream, self.next_stream + 1
        self.outputs[stream] = Output()
        self.send("OPEN", stream, msgspec.msgpack.encode({"op": op, **fields}))
        return stream

    def start(
        self,
        *argv: str | bytes,
        env: tuple[str, ...] = (PATH,),
        cwd: str = "/",
        user: str = "root",
        stdin: str = "null",
        stdout: str = "pipe",
        stderr: str = "pipe",
        timeout_ms: int = 0,
        no_new_privileges: bool = False,
        limits: tuple[int, int] = (WINDOW, WINDOW),
        terminal: dict[str, object] | None = None,
    ) -> int:
        return self.open(
            "exec",
            argv=[word.encode() if isinstance(word, str) else word for word in argv],
            env=[entry.encode() for entry in env],
            cwd=cwd.encode(),
            user=user,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            timeout_ms=timeout_ms,
            no_new_privileges=no_new_privileges,
            terminal=terminal,
            limits=limits,
        )

    def finish(self, stream: int, channels: tuple[int, ...] = (1, 2), deadline: float = DEADLINE) -> Output:
        """Wait for the last word of a stream, close it, and return everything it said."""
        output = self.outputs[stream]

        def over() -> bool:
            if output.error is not None or output.result is not None:
                return True
            return output.exit is not None and all(channel in output.ended for channel in channels)

        self.wait(over, f"the last word of stream {stream}", deadline)
        self.close(stream)
        return output

    def run(self, *argv: str | bytes, **options: Any) -> Output:
        channels = tuple(c for c, name in ((1, "stdout"), (2, "stderr")) if options.get(name, "pipe") == "pipe")
        return self.finish(self.start(*argv, **options), channels)

    def shell(self, script: str, **options: Any) -> Output:
        return self.run("/bin/sh", "-c", script, **options)

    def request(self, op: str, **fields: Any) -> Output:
        return self.finish(self.open(op, **fields))

    def feed(self, stream: int, data: bytes, end: bool = True) -> None:
        """Send bytes on channel 0 within the agent's credit, and the end."""
        output, sent = self.outputs[stream], 0
        while sent < len(data):
            self.wait(lambda sent=sent: output.error or output.credit[1] > sent, "credit for channel 0")
            if output.error:
                return
            piece = data[sent : min(output.credit[1], sent + (256 << 10))]
            self.send("DATA", stream, struct.pack("<Q", sent) + piece)
            sent += len(piece)
        if end:
            self.send("END", stream, struct.pack("<Q", sent))

    def read_file(self, path: str, offset: int = 0, length: int | None = None) -> Output:
        return self.request("read", path=path.encode(), offset=offset, length=length, limit=WINDOW)

    def write_file(self, path: str, data: bytes, mode: int | None = None, parents=False, append=False) -> Output:
        stream = self.open("write", path=path.encode(), mode=mode, parents=parents, append=append)
        self.feed(stream, data)
        return self.finish(stream)

    def list_folder(self, path: str) -> list[dict[str, Any]]:
        output = self.request("list", path=path.encode(), limit=WINDOW)
        assert output.error is None, output.error
        entries, data = [], output.stdout
        while data:
            (length,) = struct.unpack_from("<I", data)
            entries.append(msgspec.msgpack.decode(data[4 : 4 + length]))
            data = data[4 + length :]
        return entries

    def close(self, stream: int) -> None:
        self.send("CLOSE", stream)

    def hang_up(self) -> None:
        """Lose the node: both pipes are closed."""
        os.close(self.read)
        os.close(self.write)
