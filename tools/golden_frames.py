"""Write proto/frames.json: frames that the tests of both sides of the agent protocol read.

Each case is `{name, direction, setup, bytes, expect}`. `bytes` is a list of segments, `{"hex": ".."}` or
`{"repeat": "00", "times": n}`, joined. `setup` are the frames before it in both directions, each `{direction, bytes}`,
all of them right, from HELLO on: the side under test receives those of its own direction and counts the others as sent
by itself. `expect` is "ok" (also for what is to be ignored), "incomplete" (no violation yet, more bytes are needed) or
the rule that `bytes` breaks.

The frames are packed here by hand, not by the codec that they test.

    python tools/golden_frames.py            write the file
    python tools/golden_frames.py --check    fail if the file is not what would be written
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
from pathlib import Path
from typing import Any

import msgspec

TARGET = Path(__file__).parents[1] / "proto" / "frames.json"

TO_AGENT, TO_HOST = "to_agent", "to_host"
HELLO, READY, PING, PONG, OPEN, STARTED, DATA, END = range(1, 9)
CREDIT, SIGNAL, RESIZE, EXIT, ERROR, RESULT, CLOSE, SHUTDOWN = range(9, 17)
KIB = 1024
MIB = 1024 * KIB
WINDOW = 64 * KIB

Segments = list[dict[str, Any]]
Setup = list[dict[str, Any]]

cases: list[dict[str, Any]] = []


def case(name: str, direction: str, setup: Setup, frame: Segments, expect: str = "ok") -> None:
    """Add one case."""
    cases.append({"name": name, "direction": direction, "setup": setup, "bytes": frame, "expect": expect})


def frame(
    kind: int,
    stream: int = 0,
    payload: bytes | Segments = b"",
    *,
    flags: int = 0,
    zero: int = 0,
    length: int | None = None,
) -> Segments:
    """Return a frame; `length` replaces the true one."""
    body = [{"hex": payload.hex()}] if isinstance(payload, bytes) else payload
    size = sum(_segment_size(segment) for segment in body)
    head = struct.pack("<IIBBH", size if length is None else length, stream, kind, flags, zero)
    return _joined([{"hex": head.hex()}, *body])


def pack(value: Any) -> bytes:
    return msgspec.msgpack.encode(value)


def padded(fields: dict[str, Any], size: int) -> Segments:
    """Return a map of exactly `size` bytes: `fields`, and bytes under a key that nobody knows."""
    if not fields:
        raise ValueError("a map needs a field before it can be padded")
    known = pack(fields)
    head = bytes((known[0] + 1,)) + known[1:] + pack("padding") + b"\xc6"
    fill = size - len(head) - 4
    return [{"hex": (head + struct.pack(">I", fill)).hex()}, {"repeat": "00", "times": fill}]


def nested(fields: dict[str, Any], levels: int) -> Segments:
    """Return a map whose unknown key holds arrays, `levels` deep with the map itself."""
    known = pack(fields)
    head = bytes((known[0] + 1,)) + known[1:] + pack("unknown")
    return [{"hex": head.hex()}, {"repeat": "91", "times": levels - 1}, {"hex": "c0"}]


def content(channel: int, stream: int, offset: int, size: int) -> Segments:
    body: Segments = [{"hex": struct.pack("<Q", offset).hex()}, {"repeat": "78", "times": size}]
    return frame(DATA, stream, body, flags=channel)


def end(channel: int, stream: int, offset: int) -> Segments:
    return frame(END, stream, struct.pack("<Q", offset), flags=channel)


def credit(channel: int, stream: int, acknowledged: int, limit: int) -> Segments:
    return frame(CREDIT, stream, struct.pack("<QQ", acknowledged, limit), flags=channel)


def _segment_size(segment: dict[str, Any]) -> int:
    if "hex" in segment:
        return len(segment["hex"]) // 2
    return len(segment["repeat"]) // 2 * int(segment["times"])


def _joined(segments: Segments) -> Segments:
    """Merge neighbours, and spell short repetitions out."""
    result: Segments = []
    for segment in segments:
        if _segment_size(segment) == 0:
            continue
        plain = segment.get("hex") or (segment["repeat"] * segment["times"] if segment["times"] <= 16 else None)
        if plain is None:
            result.append(segment)
        elif result and "hex" in result[-1]:
            result[-1] = {"hex": result[-1]["hex"] + plain}
        else:
            result.append({"hex": plain})
    return result


def sent_to_agent(*frames: Segments) -> Setup:
    return [{"direction": TO_AGENT, "bytes": each} for each in frames]


def sent_to_host(*frames: Segments) -> Setup:
    return [{"direction": TO_HOST, "bytes": each} for each in frames]


# The messages of an ordinary session

SECRET = bytes(range(32))
PROOF = bytes(range(32, 64))
SETUP = {
    "hostname": "sandbox",
    "files": [["/etc/hosts", 0o644, b"127.0.0.1 localhost\n"]],
    "attributes": [[b"/bin/ping", "security.capability", b"\x01\x00"]],
    "cpus": 2,
    "processes": 2048,
    "cgroup": False,
}
CLAIM = {"version": 1, "secret": SECRET, "proof": None, "generation": 0, "setup": SETUP}
ATTACH = {"version": 1, "secret": SECRET, "proof": PROOF, "generation": 3, "setup": None}
FRESH = {"version": 1, "agent": "0.1.0", "generation": 0, "last_stream": 0, "streams": []}
ENDED = {"code": 0, "signal": None, "reason": "exited", "evidence": ""}
ENTRY = {
    "name": b"a.txt",
    "type": "file",
    "size": 5,
    "mode": 0o100644,
    "uid": 0,
    "gid": 0,
    "owner": "root",
    "group": "root",
    "modified": 1700000000.5,
    "target": None,
}
EXEC = {
    "op": "exec",
    "argv": [b"/bin/cat"],
    "env": [b"A=1"],
    "cwd": b"/",
    "user": "root",
    "stdin": "pipe",
    "stdout": "pipe",
    "stderr": "pipe",
    "timeout_ms": 0,
    "no_new_privileges": False,
    "terminal": None,
    "limits": [WINDOW, WINDOW],
}
SILENT = EXEC | {"stdin": "null", "stdout": "null", "stderr": "null"}
TERMINAL = EXEC | {"stderr": "stdout", "terminal": {"rows": 24, "columns": 80, "term": "xterm"}}
MERGED = EXEC | {"stdin": "null", "stderr": "stdout"}
READ = {"op": "read", "path": b"/etc/hosts", "offset": 0, "length": None, "limit": WINDOW}
WRITE = {"op": "write", "path": b"/tmp/a", "mode": None, "parents": False, "append": False}
LIST = {"op": "list", "path": b"/", "limit": WINDOW}
STAT = {"op": "stat", "path": b"/"}
MKDIR = {"op": "mkdir", "path": b"/tmp/d", "mode": 0o755, "parents": True}
REMOVE = {"op": "remove", "path": b"/tmp/d", "recursive": True}
RENAME = {"op": "rename", "path": b"/tmp/a", "target": b"/tmp/b"}
PACK = {"op": "pack", "path": b"/tmp", "limit": WINDOW}
UNPACK = {"op": "unpack", "path": b"/tmp", "name": b"a", "parents": True}
WATCH = {
    "op": "watch",
    "path": b"/tmp",
    "recursive": True,
    "kinds": ["create", "modify", "remove", "move", "access"],
    "timeout_ms": 0,
    "limit": WINDOW,
}

hello = sent_to_agent(frame(HELLO, 0, pack(CLAIM)))
session = hello + sent_to_host(frame(READY, 0, pack(FRESH)))
started = frame(STARTED, 1, pack({"pid": 7}))
no_process = frame(STARTED, 1, pack({"pid": None}))
exited = frame(EXIT, 1, pack(ENDED))


def opened(op: dict[str, Any], stream: int = 1) -> Setup:
    """Return the setup up to OPEN."""
    return session + sent_to_agent(frame(OPEN, stream, pack(op)))


def running(op: dict[str, Any] = EXEC) -> Setup:
    """Return the setup up to STARTED; a process has 64 KiB of credit for its stdin as well."""
    setup = opened(op) + sent_to_host(started if op["op"] == "exec" else no_process)
    if op.get("stdin") == "pipe" or op["op"] in ("write", "unpack"):
        setup = setup + sent_to_host(credit(0, 1, 0, WINDOW))
    return setup


def without(fields: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name != key}


def headers() -> None:
    """What is judged from the 12 bytes alone."""
    case("nothing", TO_HOST, session, [], "incomplete")
    case("half a header", TO_HOST, session, [{"hex": "00000000000004"}], "incomplete")
    case("half a header to the agent", TO_AGENT, session, [{"hex": "00000000000003"}], "incomplete")
    for direction in (TO_HOST, TO_AGENT):
        for kind in (0, 17, 255):
            case(f"type {kind} {direction}", direction, session, frame(kind), "unknown_type")
    for kind in (HELLO, PING, OPEN, SIGNAL, RESIZE, CLOSE, SHUTDOWN):
        case(f"type {kind} to the wrong side", TO_HOST, session, frame(kind), "unknown_type")
    for kind in (READY, PONG, STARTED, EXIT, ERROR, RESULT):
        case(f"type {kind} to the wrong side", TO_AGENT, session, frame(kind), "unknown_type")
    sizes = {
        TO_HOST: {READY: MIB, PONG: 64, DATA: 8 + MIB, STARTED: WINDOW, EXIT: WINDOW, ERROR: WINDOW, RESULT: WINDOW},
        TO_AGENT: {HELLO: WINDOW, PING: 64, OPEN: 256 * KIB, DATA: 8 + MIB},
    }
    for direction, limits in sizes.items():
        for kind, limit in limits.items():
            flags = 1 if (direction, kind) == (TO_HOST, DATA) else 0
            beyond = frame(kind, 0, flags=flags, length=limit + 1)
            case(f"type {kind} one byte beyond its limit, {direction}", direction, session, beyond, "frame_too_large")
    for direction, kinds in {TO_HOST: (END, CREDIT), TO_AGENT: (END, CREDIT, SIGNAL, RESIZE, CLOSE, SHUTDOWN)}.items():
        for kind in kinds:
            beyond = frame(kind, 1, flags=1, length=WINDOW + 1)
            case(f"type {kind} far too large, {direction}", direction, session, beyond, "frame_too_large")
    case("the largest length", TO_HOST, session, frame(DATA, 1, flags=1, length=0xFFFFFFFF), "frame_too_large")
    case("the largest length to the agent", TO_AGENT, session, frame(OPEN, 1, length=0xFFFFFFFF), "frame_too_large")
    fixed = {TO_HOST: {END: 8, CREDIT: 16}, TO_AGENT: {END: 8, CREDIT: 16, SIGNAL: 1, RESIZE: 4, CLOSE: 0, SHUTDOWN: 4}}
    for direction, lengths in fixed.items():
        for kind, size in lengths.items():
            flags = int((kind == END) == (direction == TO_HOST)) if kind in (END, CREDIT) else 0
            stream = 0 if kind == SHUTDOWN else 1
            for wrong in {size - 1, size + 1} - {-1}:
                body = frame(kind, stream, bytes(wrong), flags=flags)
                case(f"type {kind} with {wrong} bytes, {direction}", direction, running(), body, "malformed_frame")
    for zero in (1, 0x8000):
        case(f"reserved {zero}", TO_HOST, session, frame(PONG, zero=zero), "malformed_frame")
        case(f"reserved {zero} to the agent", TO_AGENT, session, frame(PING, zero=zero), "malformed_frame")
    empty = struct.pack("<Q", 0)
    case("DATA without content", TO_HOST, running(), frame(DATA, 1, empty, flags=1), "malformed_frame")
    case("DATA without content to the agent", TO_AGENT, running(), frame(DATA, 1, empty), "malformed_frame")
    case("DATA with half an offset", TO_HOST, running(), frame(DATA, 1, b"1234", flags=1), "malformed_frame")


def flags() -> None:
    """Flags, channels by direction, and stream 0."""
    offset, one = struct.pack("<Q", 0), struct.pack("<Q", 0) + b"x"
    for flag in (0, 3, 255):
        case(f"DATA on channel {flag}", TO_HOST, running(), frame(DATA, 1, one, flags=flag), "malformed_frame")
        case(f"END on channel {flag}", TO_HOST, running(), frame(END, 1, offset, flags=flag), "malformed_frame")
        credit_ = credit(flag, 1, 0, 1)
        case(f"CREDIT to the agent on channel {flag}", TO_AGENT, running(), credit_, "malformed_frame")
    for flag in (1, 2, 3, 255):
        case(
            f"DATA to the agent on channel {flag}",
            TO_AGENT,
            running(),
            frame(DATA, 1, one, flags=flag),
            "malformed_frame",
        )
        case(
            f"END to the agent on channel {flag}",
            TO_AGENT,
            running(),
            frame(END, 1, offset, flags=flag),
            "malformed_frame",
        )
        case(f"CREDIT on channel {flag}", TO_HOST, running(), credit(flag, 1, 0, 1), "malformed_frame")
    case("EXIT with flags", TO_HOST, running(), frame(EXIT, 1, pack(ENDED), flags=1), "malformed_frame")
    case("OPEN with flags", TO_AGENT, session, frame(OPEN, 1, pack(EXEC), flags=1), "malformed_frame")
    case("PONG on a stream", TO_HOST, session, frame(PONG, 1), "malformed_frame")
    case("READY on a stream", TO_HOST, hello, frame(READY, 1, pack(FRESH)), "malformed_frame")
    case("HELLO on a stream", TO_AGENT, [], frame(HELLO, 1, pack(CLAIM)), "malformed_frame")
    case("PING on a stream", TO_AGENT, session, frame(PING, 1), "malformed_frame")
    case("SHUTDOWN on a stream", TO_AGENT, running(), frame(SHUTDOWN, 1, bytes(4)), "malformed_frame")


def greetings() -> None:
    """HELLO, READY, PING, PONG, SHUTDOWN."""
    case("HELLO of a claim", TO_AGENT, [], frame(HELLO, 0, pack(CLAIM)))
    case("HELLO of an attach", TO_AGENT, [], frame(HELLO, 0, pack(ATTACH)))
    case("HELLO at its limit", TO_AGENT, [], frame(HELLO, 0, padded(CLAIM, WINDOW)))
    attribute = [b"/bin/\xff", "user.note", b""]
    case("HELLO with 256 attributes", TO_AGENT, [], frame(HELLO, 0, pack(claim_with(attributes=[attribute] * 256))))
    case("HELLO with 16 files", TO_AGENT, [], frame(HELLO, 0, pack(claim_with(files=[["/etc/a", 0o600, b""]] * 16))))
    case("PING first", TO_AGENT, [], frame(PING), "hello_expected")
    case("OPEN first", TO_AGENT, [], frame(OPEN, 1, pack(EXEC)), "hello_expected")
    case("an OPEN first that is malformed too", TO_AGENT, [], frame(OPEN, 1, b"\xc1"), "hello_expected")
    case("a second HELLO", TO_AGENT, session, frame(HELLO, 0, pack(CLAIM)), "second_hello")
    for name, fields in {
        "version 2": CLAIM | {"version": 2},
        "version 1.0": CLAIM | {"version": 1.0},
        "no secret": without(CLAIM, "secret"),
        "no proof": without(CLAIM, "proof"),
        "a secret of 31 bytes": CLAIM | {"secret": bytes(31)},
        "a secret of 33 bytes": CLAIM | {"secret": bytes(33)},
        "a secret that is a string": CLAIM | {"secret": "s" * 32},
        "a proof of 31 bytes": ATTACH | {"proof": bytes(31)},
        "neither proof nor setup": CLAIM | {"setup": None},
        "both proof and setup": ATTACH | {"setup": SETUP},
        "a negative generation": CLAIM | {"generation": -1},
        "a generation beyond 2^63 - 1": CLAIM | {"generation": 1 << 63},
        "a setup without hostname": CLAIM | {"setup": without(SETUP, "hostname")},
        "a relative file": claim_with(files=[["etc/a", 0o600, b""]]),
        "17 files": claim_with(files=[["/etc/a", 0o600, b""]] * 17),
        "a file without content": claim_with(files=[["/etc/a", 0o600]]),
        "257 attributes": claim_with(attributes=[attribute] * 257),
        "an attribute of a relative path": claim_with(attributes=[[b"bin/a", "user.note", b""]]),
        "an attribute of a path with NUL": claim_with(attributes=[[b"/bin/\0", "user.note", b""]]),
        "an attribute without a name": claim_with(attributes=[[b"/bin/a", "", b""]]),
        "an attribute without a value": claim_with(attributes=[[b"/bin/a", "user.note"]]),
        "a setup without attributes": CLAIM | {"setup": without(SETUP, "attributes")},
        "cgroup that is an int": claim_with(cgroup=1),
    }.items():
        case(f"HELLO with {name}", TO_AGENT, [], frame(HELLO, 0, pack(fields)), "malformed_payload")
    case("READY", TO_HOST, hello, frame(READY, 0, pack(FRESH)))
    case("READY at its limit", TO_HOST, hello, frame(READY, 0, padded(FRESH, MIB)))
    case("PONG first", TO_HOST, hello, frame(PONG), "hello_expected")
    case("STARTED first", TO_HOST, hello, started, "hello_expected")
    case("a STARTED first that is malformed too", TO_HOST, hello, frame(STARTED, 1, b"\xc1"), "hello_expected")
    case("a second READY", TO_HOST, session, frame(READY, 0, pack(FRESH)), "second_hello")
    for name, fields in {
        "version 2": FRESH | {"version": 2},
        "another generation": FRESH | {"generation": 1},
        "no streams": without(FRESH, "streams"),
        "agent that is bytes": FRESH | {"agent": b"0.1.0"},
        "last_stream beyond 32 bits": FRESH | {"last_stream": 1 << 32},
        "streams that are a map": FRESH | {"streams": {}},
    }.items():
        case(f"READY with {name}", TO_HOST, hello, frame(READY, 0, pack(fields)), "malformed_payload")
    for size in (0, 1, 64):
        ping = frame(PING, 0, b"p" * size)
        case(f"PING of {size} bytes", TO_AGENT, session, ping)
        case(f"PONG of {size} bytes", TO_HOST, session + sent_to_agent(ping), frame(PONG, 0, b"p" * size))
    asked = session + sent_to_agent(frame(PING, 0, b"a"), frame(PING, 0, b"b"))
    case("a PONG that nobody asked for", TO_HOST, session, frame(PONG), "unexpected_frame")
    case("a PONG with other bytes", TO_HOST, asked, frame(PONG, 0, b"c"), "unexpected_frame")
    case("PONGs out of order", TO_HOST, asked, frame(PONG, 0, b"b"), "unexpected_frame")
    case("SHUTDOWN", TO_AGENT, session, frame(SHUTDOWN, 0, struct.pack("<I", 5000)))
    case("SHUTDOWN before HELLO", TO_AGENT, [], frame(SHUTDOWN, 0, bytes(4)), "hello_expected")


def claim_with(**fields: Any) -> dict[str, Any]:
    return CLAIM | {"setup": SETUP | fields}


def attaches() -> None:
    """READY with streams, and what the agent sends after it."""
    attach = sent_to_agent(frame(HELLO, 0, pack(ATTACH)))
    channels = [
        {"channel": 1, "acknowledged": 100, "end": 150, "ended": False},
        {"channel": 2, "acknowledged": 0, "end": 0, "ended": True},
    ]
    stdin = {"acknowledged": 10, "limit": 10 + WINDOW, "ended": False}
    live = {"stream": 4, "op": "exec", "pid": 7, "exit": None, "stdin": stdin, "channels": channels}
    ready = FRESH | {"generation": 3, "last_stream": 9, "streams": [live]}

    def told(**fields: Any) -> Segments:
        return frame(READY, 0, pack(ready | {"streams": [live | fields]}))

    case("READY with a live stream", TO_HOST, attach, told())
    case("READY with an ended process", TO_HOST, attach, told(exit=ENDED, stdin=None))
    case("READY with a file operation", TO_HOST, attach, told(op="read", pid=None, stdin=None, channels=channels[:1]))
    seen = told(op="watch", pid=None, stdin=None, channels=channels[:1])
    case("READY with a watch", TO_HOST, attach, seen)
    case("READY with stream 0", TO_HOST, attach, told(stream=0), "malformed_payload")
    case("READY with a stream beyond the last", TO_HOST, attach, told(stream=10), "malformed_payload")
    case("READY with channel 0", TO_HOST, attach, told(channels=[channels[0] | {"channel": 0}]), "malformed_payload")
    case("READY with channel 3", TO_HOST, attach, told(channels=[channels[0] | {"channel": 3}]), "malformed_payload")
    case("READY with a channel twice", TO_HOST, attach, told(channels=channels[:1] * 2), "malformed_payload")
    backwards = [channels[0] | {"end": 99}]
    case("READY with an end before acknowledged", TO_HOST, attach, told(channels=backwards), "malformed_payload")
    both = frame(READY, 0, pack(ready | {"streams": [live, live]}))
    case("READY with a stream twice", TO_HOST, attach, both, "malformed_payload")
    many = [live | {"stream": number, "channels": [], "stdin": None} for number in range(1, 1026)]
    most = frame(READY, 0, pack(ready | {"last_stream": 1025, "streams": many[:1024]}))
    more = frame(READY, 0, pack(ready | {"last_stream": 1025, "streams": many}))
    case("READY with 1,024 streams", TO_HOST, attach, most)
    case("READY with 1,025 streams", TO_HOST, attach, more, "malformed_payload")

    attached = attach + sent_to_host(told())
    resumed = attached + sent_to_agent(credit(1, 4, 120, 120 + WINDOW), credit(2, 4, 0, 0))
    case("DATA after an attach without credit", TO_HOST, attached, content(1, 4, 100, 1), "over_credit")
    case("DATA from what the host has stored", TO_HOST, resumed, content(1, 4, 120, 30))
    case("DATA from what the agent last knew", TO_HOST, resumed, content(1, 4, 100, 30), "offset_jumped")
    case("END told again after an attach", TO_HOST, resumed, end(2, 4, 0))
    case("DATA on an ended channel after an attach", TO_HOST, resumed, content(2, 4, 0, 1), "over_credit")
    case(
        "STARTED told again after an attach", TO_HOST, resumed, frame(STARTED, 4, pack({"pid": 7})), "unexpected_frame"
    )
    dead = attach + sent_to_host(told(exit=ENDED))
    case("an EXIT that READY has told", TO_HOST, dead, frame(EXIT, 4, pack(ENDED)), "second_exit")
    case("a stream that READY did not tell", TO_HOST, attached, frame(EXIT, 5, pack(ENDED)), "unknown_stream")
    case("CREDIT after an attach", TO_AGENT, attached, credit(1, 4, 120, 120 + WINDOW))
    case(
        "CREDIT after an attach below what the agent knows", TO_AGENT, attached, credit(1, 4, 99, WINDOW), "bad_credit"
    )
    case(
        "CREDIT after an attach beyond what the agent has", TO_AGENT, attached, credit(1, 4, 151, WINDOW), "bad_credit"
    )
    case("DATA to the agent at the acknowledged offset", TO_AGENT, attached, content(0, 4, 10, 5))
    case("DATA to the agent at another offset", TO_AGENT, attached, content(0, 4, 15, 5), "offset_jumped")
    case("OPEN above the last stream", TO_AGENT, attached, frame(OPEN, 10, pack(EXEC)))
    case("OPEN at the last stream", TO_AGENT, attached, frame(OPEN, 9, pack(EXEC)), "stream_reused")


def opens() -> None:
    """OPEN by op, numbers of streams, and everything that may be wrong in a map."""
    for op in (EXEC, READ, WRITE, LIST, STAT, MKDIR, REMOVE, RENAME, WATCH, PACK, UNPACK):
        case(f"OPEN {op['op']}", TO_AGENT, session, frame(OPEN, 1, pack(op)))
    for op in (EXEC, READ, WRITE, LIST, STAT, MKDIR, REMOVE, RENAME, WATCH, PACK, UNPACK):
        for key in op:
            case(
                f"OPEN {op['op']} without {key}",
                TO_AGENT,
                session,
                frame(OPEN, 1, pack(without(op, key))),
                "malformed_payload",
            )
    case("OPEN of an unknown op is answered, not a violation", TO_AGENT, session, frame(OPEN, 1, pack({"op": "dial"})))
    case("OPEN with a terminal", TO_AGENT, session, frame(OPEN, 1, pack(TERMINAL)))
    apart = TERMINAL | {"stderr": "pipe"}
    case("OPEN with a terminal and a pipe is answered, not a violation", TO_AGENT, session, frame(OPEN, 1, pack(apart)))
    unnamed = TERMINAL | {"terminal": TERMINAL["terminal"] | {"term": "x" * 65}}
    case("OPEN with a term of 65 bytes is answered, not a violation", TO_AGENT, session, frame(OPEN, 1, pack(unnamed)))
    largest = TERMINAL | {"terminal": {"rows": 65_535, "columns": 65_535, "term": ""}}
    case("OPEN with the largest terminal", TO_AGENT, session, frame(OPEN, 1, pack(largest)))
    nothing = EXEC | {"argv": []}
    case("OPEN without a command is answered, not a violation", TO_AGENT, session, frame(OPEN, 1, pack(nothing)))
    relative = READ | {"path": b"etc/hosts"}
    case("OPEN of a relative path is answered, not a violation", TO_AGENT, session, frame(OPEN, 1, pack(relative)))
    case("OPEN with the largest number", TO_AGENT, session, frame(OPEN, 0xFFFFFFFF, pack(EXEC)))
    case("OPEN that skips numbers", TO_AGENT, opened(EXEC), frame(OPEN, 9, pack(EXEC)))
    case("OPEN of stream 0", TO_AGENT, session, frame(OPEN, 0, pack(EXEC)), "stream_reused")
    case("OPEN of an open stream", TO_AGENT, opened(EXEC), frame(OPEN, 1, pack(EXEC)), "stream_reused")
    case("OPEN below an earlier number", TO_AGENT, opened(EXEC, 5), frame(OPEN, 4, pack(EXEC)), "stream_reused")
    closed = opened(STAT) + sent_to_host(frame(RESULT, 1, pack(ENTRY))) + sent_to_agent(frame(CLOSE, 1))
    case("OPEN of a closed stream", TO_AGENT, closed, frame(OPEN, 1, pack(STAT)), "stream_reused")
    case("a reused OPEN that is malformed too", TO_AGENT, opened(EXEC), frame(OPEN, 1, b"\xc1"), "stream_reused")
    wrong = {
        "argv that is a string": {"argv": "/bin/cat"},
        "an argument that is a string": {"argv": ["/bin/cat"]},
        "an argument that is an int": {"argv": [1]},
        "env that is a map": {"env": {"A": "1"}},
        "cwd that is a string": {"cwd": "/"},
        "user that is bytes": {"user": b"root"},
        "stdin that is a file": {"stdin": "file"},
        "stdout on stdout": {"stdout": "stdout"},
        "a negative timeout": {"timeout_ms": -1},
        "a timeout that is a float": {"timeout_ms": 1.5},
        "no_new_privileges that is an int": {"no_new_privileges": 1},
        "terminal that is true": {"terminal": True},
        "a terminal without columns": {"terminal": {"rows": 24, "term": "xterm"}},
        "a terminal without a term": {"terminal": {"rows": 24, "columns": 80}},
        "a terminal without rows to show": {"terminal": {"rows": 0, "columns": 80, "term": "xterm"}},
        "a terminal of 65,536 columns": {"terminal": {"rows": 24, "columns": 65_536, "term": "xterm"}},
        "a terminal whose term is bytes": {"terminal": {"rows": 24, "columns": 80, "term": b"xterm"}},
        "one limit": {"limits": [1]},
        "three limits": {"limits": [1, 1, 1]},
        "an op that is bytes": {"op": b"exec"},
        "an op that is nil": {"op": None},
    }
    for name, fields in wrong.items():
        case(f"OPEN with {name}", TO_AGENT, session, frame(OPEN, 1, pack(EXEC | fields)), "malformed_payload")
    wide = EXEC | {"limits": [MIB, MIB]}
    case("OPEN with the largest limits", TO_AGENT, session, frame(OPEN, 1, pack(wide)))
    for limits in ([MIB + 1, 0], [0, MIB + 1]):
        beyond = EXEC | {"limits": limits}
        case(f"OPEN with limits {limits}", TO_AGENT, session, frame(OPEN, 1, pack(beyond)), "bad_credit")
    case(
        "OPEN read with too wide a limit",
        TO_AGENT,
        session,
        frame(OPEN, 1, pack(READ | {"limit": MIB + 1})),
        "bad_credit",
    )
    case("OPEN watch with no kinds", TO_AGENT, session, frame(OPEN, 1, pack(WATCH | {"kinds": []})))
    for name, fields in {
        "an unknown kind": {"kinds": ["create", "bored"]},
        "the kind overflow": {"kinds": ["overflow"]},
        "a kind that is bytes": {"kinds": [b"create"]},
        "kinds that are a string": {"kinds": "create"},
        "a negative timeout": {"timeout_ms": -1},
    }.items():
        case(f"OPEN watch with {name}", TO_AGENT, session, frame(OPEN, 1, pack(WATCH | fields)), "malformed_payload")
    beyond = frame(OPEN, 1, pack(WATCH | {"limit": MIB + 1}))
    case("OPEN watch with too wide a limit", TO_AGENT, session, beyond, "bad_credit")
    unnamed = UNPACK | {"name": None}
    case("OPEN unpack without a name to take", TO_AGENT, session, frame(OPEN, 1, pack(unnamed)))
    outside = UNPACK | {"name": b"../x"}
    case("OPEN unpack with a name that leads out is answered", TO_AGENT, session, frame(OPEN, 1, pack(outside)))
    near = RENAME | {"target": b"tmp/b"}
    case("OPEN of a rename to a relative path is answered", TO_AGENT, session, frame(OPEN, 1, pack(near)))
    case("OPEN cut off", TO_AGENT, session, frame(OPEN, 1, pack(EXEC)[:-1], length=len(pack(EXEC))), "incomplete")


def msgpack() -> None:
    """Payloads that are not one plain map, in both directions."""
    pid = {"pid": 7}
    receivers = [
        (TO_HOST, opened(EXEC), lambda payload: frame(STARTED, 1, payload), pid, "STARTED"),
        (TO_AGENT, session, lambda payload: frame(OPEN, 1, payload), STAT, "OPEN"),
    ]
    for direction, setup, build, fields, name in receivers:
        good = pack(fields)
        wider = bytes((good[0] + 1,)) + good[1:] + pack("unknown")
        case(f"{name} with an unknown key", direction, setup, build(pack(fields | {"later": [1, {"a": b"b"}]})))
        case(f"{name} at its limit", direction, setup, build(padded(fields, 256 * KIB if name == "OPEN" else WINDOW)))
        case(f"{name} nested 8 deep", direction, setup, build(nested(fields, 8)))
        case(f"{name} nested 9 deep", direction, setup, build(nested(fields, 9)), "malformed_payload")
        case(f"{name} nested 60,000 deep", direction, setup, build(nested(fields, 60_000)), "malformed_payload")
        maps: Segments = [{"hex": wider.hex()}, {"repeat": "81a161", "times": 8}, {"hex": "c0"}]
        case(f"{name} with maps nested 9 deep", direction, setup, build(maps), "malformed_payload")
        for what, payload in {
            "nothing": b"",
            "a byte after the map": good + b"\x00",
            "a second map after it": good + good,
            "a map cut off": good[:-1],
            "an array": pack([fields]),
            "nil": b"\xc0",
            "the unused opcode": wider + b"\xc1",
            "an array that claims 2^32 - 1 items": wider + b"\xdd\xff\xff\xff\xff",
            "a map that claims 2^32 - 1 items": b"\xdf\xff\xff\xff\xff",
            "a string that claims 2^32 - 1 bytes": wider + b"\xdb\xff\xff\xff\xff",
            "a string that is not UTF-8": wider + b"\xa1\xff",
            "a key that is an int": bytes((good[0] + 1,)) + good[1:] + b"\x01\x02",
            "a key that is bytes": bytes((good[0] + 1,)) + good[1:] + b"\xc4\x01a\x02",
            "an inner key that is an int": wider + b"\x81\x01\x02",
            "an extension type": wider + b"\xd4\x05\x00",
            "a timestamp": wider + b"\xd6\xff\x00\x00\x00\x00",
        }.items():
            case(f"{name} with {what}", direction, setup, build(payload), "malformed_payload")
    deep_ready = frame(READY, 0, nested(FRESH, 100_000))
    case("READY nested 100,000 deep", TO_HOST, hello, deep_ready, "malformed_payload")
    case("OPEN nested 100,000 deep", TO_AGENT, session, frame(OPEN, 1, nested(STAT, 100_000)), "malformed_payload")


def streams_to_host() -> None:
    """What the agent may say on a stream, and when."""
    case("STARTED", TO_HOST, opened(EXEC), started)
    case("STARTED without a pid", TO_HOST, opened(EXEC), no_process)
    case("STARTED of a read", TO_HOST, opened(READ), frame(STARTED, 1, pack({"pid": None, "size": 20})))
    case("STARTED cut off", TO_HOST, opened(EXEC), frame(STARTED, 1, b"\x81\xa3", length=6), "incomplete")
    case(
        "STARTED with a pid that is a string",
        TO_HOST,
        opened(EXEC),
        frame(STARTED, 1, pack({"pid": "7"})),
        "malformed_payload",
    )
    case("STARTED with no pid", TO_HOST, opened(EXEC), frame(STARTED, 1, pack({"x": 1})), "malformed_payload")
    case("STARTED of an unknown stream", TO_HOST, session, started, "unknown_stream")
    case("STARTED twice", TO_HOST, running(), started, "unexpected_frame")
    case("STARTED of a stat", TO_HOST, opened(STAT), no_process, "unexpected_frame")
    case("STARTED of a rename", TO_HOST, opened(RENAME), no_process, "unexpected_frame")
    case("STARTED of a pack", TO_HOST, opened(PACK), frame(STARTED, 1, pack({"pid": None, "size": 20})))
    case("STARTED of a watch", TO_HOST, opened(WATCH), no_process)
    for kind, name, body in (
        (DATA, "DATA", content(1, 1, 0, 1)),
        (END, "END", end(1, 1, 0)),
        (CREDIT, "CREDIT", credit(0, 1, 0, 1)),
        (EXIT, "EXIT", exited),
    ):
        case(f"{name} before STARTED", TO_HOST, opened(EXEC), body, "unexpected_frame")
        case(f"{name} of stream 0", TO_HOST, running(), _on_stream(body, 0), "unknown_stream")
        case(
            f"{name} of a stream never opened (type {kind})", TO_HOST, running(), _on_stream(body, 2), "unknown_stream"
        )
    case("a malformed EXIT of an unknown stream", TO_HOST, session, frame(EXIT, 1, b"\xc1"), "unknown_stream")
    exits()
    outcomes()


def exits() -> None:
    """EXIT and the last word of a process."""
    case("EXIT", TO_HOST, running(), exited)
    for name, fields in {
        "a signal": ENDED | {"code": None, "signal": 11, "reason": "signaled"},
        "the reason killed": ENDED | {"code": None, "signal": 9, "reason": "killed"},
        "the reason timeout": ENDED | {"code": None, "signal": 9, "reason": "timeout", "evidence": "after 5 s"},
        "code 255": ENDED | {"code": 255},
    }.items():
        case(f"EXIT with {name}", TO_HOST, running(), frame(EXIT, 1, pack(fields)))
    for name, fields in {
        "neither code nor signal": ENDED | {"code": None},
        "both code and signal": ENDED | {"signal": 9},
        "code 256": ENDED | {"code": 256},
        "code -1": ENDED | {"code": -1},
        "signal 0": ENDED | {"code": None, "signal": 0},
        "signal 65": ENDED | {"code": None, "signal": 65},
        "another reason": ENDED | {"reason": "bored"},
        "evidence that is bytes": ENDED | {"evidence": b""},
        "no evidence": without(ENDED, "evidence"),
    }.items():
        case(f"EXIT with {name}", TO_HOST, running(), frame(EXIT, 1, pack(fields)), "malformed_payload")
    case("a second EXIT", TO_HOST, running() + sent_to_host(exited), exited, "second_exit")
    case(
        "a second EXIT that is malformed too",
        TO_HOST,
        running() + sent_to_host(exited),
        frame(EXIT, 1, b"\xc1"),
        "second_exit",
    )
    case("DATA after EXIT", TO_HOST, running() + sent_to_host(exited), content(1, 1, 0, 5))
    ends = sent_to_host(end(1, 1, 0), end(2, 1, 0))
    case("EXIT after the ends", TO_HOST, running() + ends, exited)
    over = running() + sent_to_host(exited) + ends
    case("an EXIT after the last word", TO_HOST, over, exited, "unknown_stream")
    case("DATA after the last word", TO_HOST, over, content(1, 1, 0, 1), "unknown_stream")
    case("CREDIT after the last word", TO_HOST, over, credit(0, 1, 0, WINDOW), "unknown_stream")
    silent = running(SILENT) + sent_to_host(exited)
    case("an EXIT after that of a process without channels", TO_HOST, silent, exited, "unknown_stream")
    case("RESULT of a process", TO_HOST, running(), frame(RESULT, 1, pack({"size": 1})), "unexpected_frame")
    case("ERROR after STARTED of a process", TO_HOST, running(), failed(), "unexpected_frame")
    aborted = running() + sent_to_agent(frame(CLOSE, 1))
    case("DATA on its way when the host closed", TO_HOST, aborted, content(1, 1, 0, 5))
    case("END after the host closed", TO_HOST, aborted, end(1, 1, 0))
    case("EXIT after the host closed", TO_HOST, aborted, exited)
    gone = aborted + ends + sent_to_host(exited)
    case("DATA after the last word of a closed stream", TO_HOST, gone, content(1, 1, 0, 1), "unknown_stream")


def failed(code: str = "not_found", message: str = "no such file") -> Segments:
    return frame(ERROR, 1, pack({"code": code, "message": message}))


def outcomes() -> None:
    """ERROR and RESULT."""
    case("ERROR instead of STARTED", TO_HOST, opened(EXEC), failed("failed_precondition"))
    case("ERROR at its limit", TO_HOST, opened(EXEC), frame(ERROR, 1, padded({"code": "io", "message": ""}, WINDOW)))
    case("ERROR with an unknown code", TO_HOST, opened(EXEC), failed("bored"), "malformed_payload")
    case("ERROR with a message of 1,024 bytes", TO_HOST, opened(EXEC), failed(message="ä" * 512))
    case(
        "ERROR with a message of 1,025 bytes",
        TO_HOST,
        opened(EXEC),
        failed(message="ä" * 512 + "x"),
        "malformed_payload",
    )
    case("ERROR twice", TO_HOST, opened(EXEC) + sent_to_host(failed()), failed(), "unknown_stream")
    case("ERROR in the middle of a read", TO_HOST, running(READ) + sent_to_host(content(1, 1, 0, 5)), failed("io"))
    case(
        "ERROR aborted after the host closed",
        TO_HOST,
        running(READ) + sent_to_agent(frame(CLOSE, 1)),
        failed("aborted"),
    )
    for op, fields in ((STAT, ENTRY), (MKDIR, {}), (REMOVE, {}), (RENAME, {})):
        case(f"RESULT of {op['op']}", TO_HOST, opened(op), frame(RESULT, 1, pack(fields)))
        twice = opened(op) + sent_to_host(frame(RESULT, 1, pack(fields)))
        case(f"RESULT of {op['op']} twice", TO_HOST, twice, frame(RESULT, 1, pack(fields)), "unknown_stream")
    case("RESULT at its limit", TO_HOST, opened(STAT), frame(RESULT, 1, padded(ENTRY, WINDOW)))
    case(
        "RESULT of stat with a link",
        TO_HOST,
        opened(STAT),
        frame(RESULT, 1, pack(ENTRY | {"type": "symlink", "target": b"b"})),
    )
    for name, wrong in {
        "a name that is a string": ENTRY | {"name": "a.txt"},
        "another type": ENTRY | {"type": "door"},
        "no target": without(ENTRY, "target"),
        "a time that is a string": ENTRY | {"modified": "now"},
        "a negative size": ENTRY | {"size": -1},
    }.items():
        case(f"RESULT of stat with {name}", TO_HOST, opened(STAT), frame(RESULT, 1, pack(wrong)), "malformed_payload")
    for op in (READ, LIST, WATCH, PACK):
        done = frame(RESULT, 1, pack({}))
        case(f"RESULT of {op['op']} before END", TO_HOST, running(op), done, "unexpected_frame")
        case(f"RESULT of {op['op']}", TO_HOST, running(op) + sent_to_host(end(1, 1, 0)), done)
    unpacked = frame(RESULT, 1, pack({"path": b"/tmp/a", "entries": 1, "size": 0}))
    case("RESULT of unpack before the host's END", TO_HOST, running(UNPACK), unpacked, "unexpected_frame")
    case("RESULT of unpack", TO_HOST, running(UNPACK) + sent_to_agent(end(0, 1, 0)), unpacked)
    written = frame(RESULT, 1, pack({"size": 0}))
    case("RESULT of write before the host's END", TO_HOST, running(WRITE), written, "unexpected_frame")
    case("RESULT of write", TO_HOST, running(WRITE) + sent_to_agent(end(0, 1, 0)), written)
    case(
        "RESULT of write without a size",
        TO_HOST,
        running(WRITE) + sent_to_agent(end(0, 1, 0)),
        frame(RESULT, 1, pack({})),
        "malformed_payload",
    )
    case("EXIT of a read", TO_HOST, running(READ), exited, "unexpected_frame")
    case("RESULT before STARTED", TO_HOST, opened(READ), frame(RESULT, 1, pack({})), "unexpected_frame")


def _on_stream(segments: Segments, stream: int) -> Segments:
    """Return the frame with another stream number."""
    head = bytearray.fromhex(segments[0]["hex"])
    struct.pack_into("<I", head, 4, stream)
    return [{"hex": head.hex()}, *segments[1:]]


def channels_to_host() -> None:
    """Offsets and credit of what the agent sends."""
    five = running() + sent_to_host(content(1, 1, 0, 5))
    full = running() + sent_to_host(content(1, 1, 0, WINDOW))
    case("DATA", TO_HOST, running(), content(1, 1, 0, 5))
    case("DATA that goes on", TO_HOST, five, content(1, 1, 5, 5))
    case("DATA on the other channel has offsets of its own", TO_HOST, five, content(2, 1, 0, 5))
    case("DATA cut off", TO_HOST, running(), frame(DATA, 1, bytes(20), flags=1, length=21), "incomplete")
    case("DATA of all the credit", TO_HOST, running(), content(1, 1, 0, WINDOW))
    case("DATA of one byte more than the credit", TO_HOST, running(), content(1, 1, 0, WINDOW + 1), "over_credit")
    case("DATA when the credit is used", TO_HOST, full, content(1, 1, WINDOW, 1), "over_credit")
    more = full + sent_to_agent(credit(1, 1, WINDOW, 2 * WINDOW))
    case("DATA of the next credit", TO_HOST, more, content(1, 1, WINDOW, WINDOW))
    case("DATA beyond the next credit", TO_HOST, more, content(1, 1, WINDOW, WINDOW + 1), "over_credit")
    wide = running(EXEC | {"limits": [MIB, MIB]})
    case("DATA at its limit", TO_HOST, wide, content(1, 1, 0, MIB))
    case("DATA that leaves a gap", TO_HOST, five, content(1, 1, 6, 5), "offset_jumped")
    case("DATA that overlaps", TO_HOST, five, content(1, 1, 4, 5), "offset_jumped")
    case("DATA that goes back", TO_HOST, five, content(1, 1, 0, 5), "offset_jumped")
    case("DATA at the largest offset", TO_HOST, five, content(1, 1, (1 << 64) - 1, 1), "offset_jumped")
    ended = five + sent_to_host(end(1, 1, 5))
    case("END", TO_HOST, five, end(1, 1, 5))
    case("END of an empty channel", TO_HOST, running(), end(2, 1, 0))
    case("END when the credit is used", TO_HOST, full, end(1, 1, WINDOW))
    case("END too early", TO_HOST, five, end(1, 1, 4), "offset_jumped")
    case("END too late", TO_HOST, five, end(1, 1, 6), "offset_jumped")
    case("DATA after END", TO_HOST, ended, content(1, 1, 5, 1), "channel_ended")
    case("DATA after END at another offset", TO_HOST, ended, content(1, 1, 50, 1), "channel_ended")
    case("END after END", TO_HOST, ended, end(1, 1, 5), "channel_ended")
    case("DATA on the channel that is left", TO_HOST, ended, content(2, 1, 0, 1))
    for channel in (1, 2):
        case(
            f"DATA on channel {channel} of a silent process",
            TO_HOST,
            running(SILENT),
            content(channel, 1, 0, 1),
            "unexpected_frame",
        )
        case(
            f"END on channel {channel} of a silent process",
            TO_HOST,
            running(SILENT),
            end(channel, 1, 0),
            "unexpected_frame",
        )
    case(
        "DATA on channel 2 of a process with both on 1",
        TO_HOST,
        running(MERGED),
        content(2, 1, 0, 1),
        "unexpected_frame",
    )
    case("DATA on channel 1 of a terminal", TO_HOST, running(TERMINAL), content(1, 1, 0, 1))
    case("DATA on channel 2 of a terminal", TO_HOST, running(TERMINAL), content(2, 1, 0, 1), "unexpected_frame")
    case("END on channel 2 of a terminal", TO_HOST, running(TERMINAL), end(2, 1, 0), "unexpected_frame")
    case("DATA on channel 2 of a read", TO_HOST, running(READ), content(2, 1, 0, 1), "unexpected_frame")
    case("DATA of a watch", TO_HOST, running(WATCH), content(1, 1, 0, 5))
    case("DATA of a write", TO_HOST, running(WRITE), content(1, 1, 0, 1), "unexpected_frame")
    case("DATA of a stat", TO_HOST, opened(STAT), content(1, 1, 0, 1), "unexpected_frame")
    fed = running() + sent_to_agent(content(0, 1, 0, 5))
    case("CREDIT for stdin", TO_HOST, fed, credit(0, 1, 5, WINDOW + 5))
    case("CREDIT that repeats itself", TO_HOST, fed, credit(0, 1, 0, WINDOW))
    case("CREDIT for stdin up to the widest window", TO_HOST, fed, credit(0, 1, 5, MIB + 5))
    case("CREDIT for stdin beyond the widest window", TO_HOST, fed, credit(0, 1, 5, MIB + 6), "bad_credit")
    case("CREDIT for stdin that was not sent", TO_HOST, fed, credit(0, 1, 6, WINDOW + 6), "bad_credit")
    case("CREDIT whose limit goes back", TO_HOST, fed, credit(0, 1, 5, WINDOW - 1), "bad_credit")
    later = fed + sent_to_host(credit(0, 1, 5, WINDOW + 5))
    case("CREDIT whose acknowledged goes back", TO_HOST, later, credit(0, 1, 4, WINDOW + 5), "bad_credit")
    case("CREDIT at the largest numbers", TO_HOST, fed, credit(0, 1, (1 << 64) - 1, (1 << 64) - 1), "bad_credit")
    case("CREDIT for a stdin that is null", TO_HOST, running(MERGED), credit(0, 1, 0, 1), "unexpected_frame")
    case("CREDIT for a read", TO_HOST, running(READ), credit(0, 1, 0, 1), "unexpected_frame")


def streams_to_agent() -> None:
    """What the host may say on a stream."""
    for number in (1, 9, 15, 64):
        case(f"SIGNAL {number}", TO_AGENT, running(), frame(SIGNAL, 1, bytes((number,))))
    for number in (0, 65, 255):
        case(f"SIGNAL {number}", TO_AGENT, running(), frame(SIGNAL, 1, bytes((number,))), "malformed_payload")
    size = struct.pack("<HH", 24, 80)
    case("RESIZE", TO_AGENT, running(TERMINAL), frame(RESIZE, 1, size))
    case("RESIZE of a process without a terminal is ignored", TO_AGENT, running(), frame(RESIZE, 1, size))
    case("RESIZE to the largest", TO_AGENT, running(TERMINAL), frame(RESIZE, 1, b"\xff" * 4))
    for rows, columns in ((0, 80), (24, 0)):
        none = frame(RESIZE, 1, struct.pack("<HH", rows, columns))
        case(f"RESIZE to {rows} rows and {columns} columns", TO_AGENT, running(TERMINAL), none, "malformed_payload")
    case("RESIZE of a read", TO_AGENT, running(READ), frame(RESIZE, 1, size), "unexpected_frame")
    case("SIGNAL of a read", TO_AGENT, running(READ), frame(SIGNAL, 1, b"\x09"), "unexpected_frame")
    case("CLOSE", TO_AGENT, running(), frame(CLOSE, 1))
    bodies = {
        "DATA": content(0, 1, 0, 1),
        "END": end(0, 1, 0),
        "CREDIT": credit(1, 1, 0, WINDOW),
        "SIGNAL": frame(SIGNAL, 1, b"\x09"),
        "RESIZE": frame(RESIZE, 1, size),
        "CLOSE": frame(CLOSE, 1),
    }
    closed = running() + sent_to_agent(frame(CLOSE, 1))
    over = running() + sent_to_host(exited, end(1, 1, 0), end(2, 1, 0))
    failed_ = opened(EXEC) + sent_to_host(failed())
    for name, body in bodies.items():
        case(f"{name} to a closed stream is ignored", TO_AGENT, closed, body)
        case(f"{name} to a stream that is over is ignored", TO_AGENT, over + sent_to_agent(frame(CLOSE, 1)), body)
        case(f"{name} to a stream that failed is ignored", TO_AGENT, failed_, body)
        skipped = opened(EXEC, 5)
        case(f"{name} to a number that was skipped is ignored", TO_AGENT, skipped, body)
        case(f"{name} to a stream never opened", TO_AGENT, session, body, "unknown_stream")
        case(f"{name} to a stream beyond the last", TO_AGENT, running(), _on_stream(body, 2), "unknown_stream")
        if name not in ("SIGNAL", "RESIZE", "CLOSE"):
            case(f"{name} to stream 0", TO_AGENT, running(), _on_stream(body, 0), "unknown_stream")


def channels_to_agent() -> None:
    """Offsets and credit of what the host sends."""
    five = running() + sent_to_agent(content(0, 1, 0, 5))
    full = running() + sent_to_agent(content(0, 1, 0, WINDOW))
    silent = opened(EXEC) + sent_to_host(started)
    case("stdin", TO_AGENT, running(), content(0, 1, 0, 5))
    case("stdin that goes on", TO_AGENT, five, content(0, 1, 5, 5))
    case("stdin cut off", TO_AGENT, running(), frame(DATA, 1, bytes(20), length=21), "incomplete")
    case("stdin of all the credit", TO_AGENT, running(), content(0, 1, 0, WINDOW))
    case("stdin of one byte more than the credit", TO_AGENT, running(), content(0, 1, 0, WINDOW + 1), "over_credit")
    case("stdin when the credit is used", TO_AGENT, full, content(0, 1, WINDOW, 1), "over_credit")
    case("stdin before any credit", TO_AGENT, silent, content(0, 1, 0, 1), "over_credit")
    wide = silent + sent_to_host(credit(0, 1, 0, MIB))
    case("stdin at the limit of DATA", TO_AGENT, wide, content(0, 1, 0, MIB))
    case("stdin that leaves a gap", TO_AGENT, five, content(0, 1, 6, 5), "offset_jumped")
    case("stdin that overlaps", TO_AGENT, five, content(0, 1, 4, 5), "offset_jumped")
    case("stdin at the largest offset", TO_AGENT, five, content(0, 1, (1 << 64) - 1, 1), "offset_jumped")
    ended = five + sent_to_agent(end(0, 1, 5))
    case("END of stdin", TO_AGENT, five, end(0, 1, 5))
    case("END of stdin before any credit", TO_AGENT, silent, end(0, 1, 0))
    case("END of stdin at another offset", TO_AGENT, five, end(0, 1, 6), "offset_jumped")
    case("stdin after its END", TO_AGENT, ended, content(0, 1, 5, 1), "channel_ended")
    case("a second END of stdin", TO_AGENT, ended, end(0, 1, 5), "channel_ended")
    case("stdin of a process without", TO_AGENT, running(MERGED), content(0, 1, 0, 1), "unexpected_frame")
    case("stdin of a read", TO_AGENT, running(READ), content(0, 1, 0, 1), "unexpected_frame")
    case("content of an unpack", TO_AGENT, running(UNPACK), content(0, 1, 0, 5))
    case("content of a write", TO_AGENT, running(WRITE), content(0, 1, 0, 5))
    case("END of a write", TO_AGENT, running(WRITE), end(0, 1, 0))
    told = running() + sent_to_host(content(1, 1, 0, 5))
    case("CREDIT", TO_AGENT, told, credit(1, 1, 5, WINDOW + 5))
    case("CREDIT that acknowledges nothing yet", TO_AGENT, told, credit(1, 1, 0, WINDOW))
    case("CREDIT up to the widest window", TO_AGENT, told, credit(1, 1, 5, MIB + 5))
    case("CREDIT beyond the widest window", TO_AGENT, told, credit(1, 1, 5, MIB + 6), "bad_credit")
    case("CREDIT for what was not sent", TO_AGENT, told, credit(1, 1, 6, WINDOW + 6), "bad_credit")
    case("CREDIT to the agent whose limit goes back", TO_AGENT, told, credit(1, 1, 5, WINDOW - 1), "bad_credit")
    later = told + sent_to_agent(credit(1, 1, 5, WINDOW + 5))
    case("CREDIT to the agent whose acknowledged goes back", TO_AGENT, later, credit(1, 1, 4, WINDOW + 5), "bad_credit")
    largest = credit(1, 1, (1 << 64) - 1, (1 << 64) - 1)
    case("CREDIT to the agent at the largest numbers", TO_AGENT, told, largest, "bad_credit")
    case("CREDIT for a channel that is null", TO_AGENT, running(SILENT), credit(1, 1, 0, 1), "unexpected_frame")
    case("CREDIT for channel 2 of a read", TO_AGENT, running(READ), credit(2, 1, 0, 1), "unexpected_frame")
    after = told + sent_to_host(end(1, 1, 5))
    case("CREDIT after END", TO_AGENT, after, credit(1, 1, 5, WINDOW + 5))


def render() -> str:
    """Return the content of the file."""
    cases.clear()
    for section in (
        headers,
        flags,
        greetings,
        attaches,
        opens,
        msgpack,
        streams_to_host,
        channels_to_host,
        streams_to_agent,
        channels_to_agent,
    ):
        section()
    names = [(each["direction"], each["name"]) for each in cases]
    if len(set(names)) < len(names):
        raise SystemExit(f"two cases have one name: {sorted(name for name in names if names.count(name) > 1)}")
    lines = ",\n".join(json.dumps(each) for each in cases)
    return f"[\n{lines}\n]\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the file is out of date")
    check = parser.parse_args().check
    text = render()
    if not check:
        TARGET.write_text(text)
        print(f"{TARGET.name}: {len(cases)} cases")
        return 0
    if TARGET.is_file() and TARGET.read_text() == text:
        return 0
    print("proto/frames.json is out of date; run python tools/golden_frames.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
