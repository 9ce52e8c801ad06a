"""The host's state of an agent session: a right agent is never blamed, a wrong one always, and nothing else happens."""

from __future__ import annotations

import json
import os
import random
import resource
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_agent import ModelAgent, Move, control

from skerry.node.agent_events import ContentCame, ExitTold, OperationDone, ReadyTold
from skerry.node.streams import BUSY_AFTER, WINDOW, Streams, hello_frame
from skerry.wire.frames import (
    HEADER,
    HEADER_SIZE,
    MAX_WINDOW,
    TO_HOST,
    FrameType,
    ProtocolViolation,
    encode_credit,
    encode_data_header,
    encode_end,
    encode_frame,
    split_frames,
)
from skerry.wire.messages import (
    Hello,
    Open,
    OpenExec,
    OpenList,
    OpenMkdir,
    OpenPack,
    OpenRead,
    OpenRemove,
    OpenRename,
    OpenStat,
    OpenUnpack,
    OpenWatch,
    OpenWrite,
    Setup,
    Terminal,
)

SEED = int(os.environ.get("SKERRY_FUZZ_SEED", "1"))
SECONDS = float(os.environ.get("SKERRY_FUZZ_SECONDS", "2"))
MEMORY_MIB = 256  # a READY of 1 MiB may unfold to some 90 MiB for a moment

HELLO = Hello(secret=bytes(32), proof=None, generation=0, setup=Setup(hostname="h", processes=1))
OPS: list[Open] = [
    OpenExec(argv=(b"a",), stdin="pipe", limits=(500, 500)),
    OpenExec(argv=(b"a",), stdout="null", stderr="null"),
    OpenExec(argv=(b"a",), stderr="stdout", limits=(300, 0)),
    OpenExec(
        argv=(b"a",),
        stdin="pipe",
        stderr="stdout",
        terminal=Terminal(rows=24, columns=80, term="xterm"),
        limits=(300, 0),
    ),
    OpenRead(path=b"/a", limit=400),
    OpenWrite(path=b"/a"),
    OpenList(path=b"/a", limit=100),
    OpenStat(path=b"/a"),
    OpenMkdir(path=b"/a"),
    OpenRemove(path=b"/a"),
    OpenRename(path=b"/a", target=b"/b"),
    OpenWatch(path=b"/a", kinds=("create",), limit=200),
    OpenPack(path=b"/a", limit=300),
    OpenUnpack(path=b"/a"),
]


class Session:
    """A host's session and a model agent, joined."""

    def __init__(self) -> None:
        self.streams = Streams()
        self.agent = ModelAgent()
        self.streams.begin(HELLO)
        self.agent.receive(hello_frame(HELLO))
        self.received: dict[tuple[int, int], int] = {}

    def feed(self, frame: bytes) -> list[object]:
        events = [self.streams.feed(header, payload) for header, payload in split_frames(memoryview(frame), TO_HOST)]
        for event in events:
            if isinstance(event, ContentCame):
                key = (event.stream, event.channel)
                assert event.offset == self.received.get(key, 0)
                self.received[key] = event.offset + len(event.content)
        return events

    def agent_does(self, move: Move) -> None:
        self.feed(move.frame)
        move.done()

    def host_does(self, choice: int, size: int) -> None:
        """Take one step of the host that its state allows."""
        numbers = list(self.agent.streams)
        number = numbers[size % len(numbers)] if numbers else 0
        steps: list[Callable[[], bytes]] = [
            lambda: self.streams.open(OPS[size % len(OPS)])[1],
            lambda: self.streams.ping(bytes((size % 251,))),
            lambda: self._acknowledge(number, size),
            lambda: self._send(number, size),
            lambda: self.streams.end_stdin(number),
            lambda: self.streams.signal(number, 1 + size % 64),
            lambda: self.streams.resize(number, 1 + size % 65_535, 65_535),
            lambda: self.streams.close(number) if size % 4 == 0 else b"",
        ]
        if self.agent.greeted:
            self.agent.receive(steps[choice % len(steps)]())

    def _acknowledge(self, number: int, size: int) -> bytes:
        frames = b""
        for channel in self.streams.channels(number):
            stored = self.received.get((number, channel), 0)
            frames += self.streams.acknowledge(number, channel, stored, size)
        return frames

    def _send(self, number: int, size: int) -> bytes:
        stdin = self.streams.stdin(number)
        count = 0 if stdin is None or stdin.ended else min(size, stdin.limit - stdin.sent)
        return self.streams.send(number, count) + bytes(count) if count else b""


steps = st.lists(st.tuples(st.booleans(), st.integers(0, 1000), st.integers(1, 3000)), max_size=120)


def play(script: list[tuple[bool, int, int]]) -> Session:
    """Let host and agent take turns as a script says."""
    session = Session()
    for is_host, choice, size in script:
        moves = list(session.agent.moves(size))
        if is_host or not moves:
            session.host_does(choice, size)
        else:
            session.agent_does(moves[choice % len(moves)])
    return session


@given(steps)
def test_an_agent_that_keeps_the_rules_is_never_blamed(script: list[tuple[bool, int, int]]) -> None:
    session = play(script)
    assert len(session.streams) == session.agent.open_streams()


@given(steps)
def test_nothing_is_kept_of_streams_that_are_over(script: list[tuple[bool, int, int]]) -> None:
    session = play(script)
    enders = (FrameType.READY, FrameType.STARTED, FrameType.END, FrameType.EXIT, FrameType.RESULT, FrameType.ERROR)
    for number in list(session.agent.streams):
        session.agent.receive(session.streams.end_stdin(number))
    while moves := [move for move in session.agent.moves() if move.kind in enders]:
        session.agent_does(moves[0])
    assert len(session.streams) == 0


def altered(frame: bytes, at: int, form: str, change: Callable[[int], int]) -> bytes:
    """Return a frame with one number in it changed."""
    copy = bytearray(frame)
    (value,) = struct.unpack_from(form, copy, at)
    struct.pack_into(form, copy, at, change(value) % (1 << 8 * struct.calcsize(form)))
    return bytes(copy)


def mutations(frame: bytes) -> dict[str, tuple[bytes, set[str]]]:
    """Return wrong forms of a right frame, and the rules that each may break."""
    kind = frame[8]
    wrong: dict[str, tuple[bytes, set[str]]] = {
        "a reserved bit": (altered(frame, 10, "<H", lambda _: 1), {"malformed_frame"}),
        "an unknown type": (altered(frame, 8, "<B", lambda _: 99), {"unknown_type"}),
        "the other direction": (altered(frame, 8, "<B", lambda _: FrameType.OPEN), {"unknown_type"}),
        "a flag": (altered(frame, 9, "<B", lambda flags: flags + 3), {"malformed_frame"}),
        "a huge length": (altered(frame, 0, "<I", lambda _: 1 << 24), {"frame_too_large"}),
        "another stream": (
            altered(frame, 4, "<I", lambda _: 999_999),
            {"unknown_stream", "malformed_frame", "hello_expected"},
        ),
    }
    if kind in (FrameType.DATA, FrameType.END):
        for change in (1, -1, 1 << 40):
            moved = altered(frame, HEADER_SIZE, "<Q", lambda offset, change=change: offset + change)
            wrong[f"an offset moved by {change}"] = (moved, {"offset_jumped"})
    if kind == FrameType.CREDIT:
        wrong["a limit too wide"] = (altered(frame, HEADER_SIZE + 8, "<Q", lambda n: n + MAX_WINDOW), {"bad_credit"})
        wrong["bytes not sent"] = (altered(frame, HEADER_SIZE, "<Q", lambda n: n + (1 << 32)), {"bad_credit"})
    if kind in (FrameType.STARTED, FrameType.EXIT, FrameType.ERROR, FrameType.RESULT, FrameType.READY):
        header, payload = frame[:HEADER_SIZE], frame[HEADER_SIZE:]
        for name, body in {
            "trailing": payload + b"\x00",
            "cut off": payload[:-1],
            "no map": b"\x01",
            "deep": b"\x81\xa1x" + b"\x91" * 9 + b"\xc0",
        }.items():
            resized = altered(header, 0, "<I", lambda _, body=body: len(body)) + body
            wrong[name] = (resized, {"malformed_payload"})
    return wrong


@given(steps, st.integers(0, 1000), st.integers(0, 1000))
def test_an_agent_that_breaks_a_rule_is_told_which(script: list[tuple[bool, int, int]], move: int, change: int) -> None:
    session = play(script)
    moves = list(session.agent.moves())
    if not moves:
        return
    frame = moves[move % len(moves)].frame
    wrong = list(mutations(frame).values())
    broken, rules = wrong[change % len(wrong)]
    with pytest.raises(ProtocolViolation) as caught:
        session.feed(broken)
    assert caught.value.rule in rules


def greeted() -> Session:
    session = Session()
    session.agent_does(next(session.agent.moves()))
    return session


def started(op: Open) -> Session:
    """Return a session in which stream 1 runs `op`."""
    session = greeted()
    session.agent.receive(session.streams.open(op)[1])
    session.feed(control(FrameType.STARTED, 1, {"pid": 7}))
    return session


def test_more_credit_is_due_when_half_a_window_is_used() -> None:
    session = started(OpenExec(argv=(b"a",), limits=(WINDOW, WINDOW)))
    half = WINDOW // 2
    session.feed(encode_data_header(1, 1, 0, half - 1) + bytes(half - 1))
    assert session.streams.acknowledge(1, 1, half - 1, WINDOW) == b""
    session.feed(encode_data_header(1, 1, half - 1, 1) + b"x")
    assert session.streams.acknowledge(1, 1, half, WINDOW) == encode_credit(1, 1, half, half + WINDOW)
    assert session.streams.acknowledge(1, 1, half, WINDOW) == b""


def test_credit_is_due_at_once_where_the_sender_waits_for_it() -> None:
    session = started(OpenExec(argv=(b"a",), limits=(10, 0)))
    session.feed(encode_data_header(1, 1, 0, 10) + bytes(10))
    assert session.streams.acknowledge(1, 1, 10, 0) == b""
    assert session.streams.acknowledge(1, 1, 10, 50) == encode_credit(1, 1, 10, 60)


def test_what_is_stored_late_is_acknowledged_after_the_end() -> None:
    session = started(OpenExec(argv=(b"a",), limits=(WINDOW, 0)))
    session.feed(encode_data_header(1, 1, 0, 9) + bytes(9) + encode_end(1, 1, 9))
    assert session.streams.acknowledge(1, 1, 0, WINDOW) == b""
    acknowledged = session.streams.acknowledge(1, 1, 9, WINDOW)
    assert acknowledged[HEADER_SIZE : HEADER_SIZE + 8] == struct.pack("<Q", 9)


def test_a_busy_channel_gets_the_widest_window() -> None:
    session = started(OpenExec(argv=(b"a",), limits=(MAX_WINDOW, MAX_WINDOW)))
    assert session.streams.window(1, 1) == WINDOW
    session.feed(encode_data_header(1, 1, 0, BUSY_AFTER) + bytes(BUSY_AFTER))
    assert session.streams.window(1, 1) == MAX_WINDOW
    assert session.streams.window(1, 2) == WINDOW


def test_a_host_that_has_stored_less_than_it_acknowledged_is_not_let_on() -> None:
    channel = {"channel": 1, "acknowledged": 100, "end": 150, "ended": False}
    told = {"stream": 4, "op": "exec", "pid": 7, "exit": None, "stdin": None, "channels": [channel]}
    ready = {"version": 1, "agent": "a", "generation": 3, "last_stream": 4, "streams": [told]}
    for stored in (99, 151):
        streams = Streams()
        streams.begin(Hello(secret=bytes(32), proof=bytes(32), generation=3, setup=None))
        frames = split_frames(memoryview(control(FrameType.READY, 0, ready)), TO_HOST)
        assert isinstance(streams.feed(*next(frames)), ReadyTold)
        with pytest.raises(ProtocolViolation):
            streams.grant(4, 1, stored, stored)


def test_stream_numbers_are_not_used_twice_even_when_all_are_used() -> None:
    session = greeted()
    session.streams.last_stream = (1 << 32) - 2
    assert session.streams.open(OPS[0])[0] == (1 << 32) - 1
    with pytest.raises(OverflowError):
        session.streams.open(OPS[0])


def test_a_closed_stream_says_only_its_last_word() -> None:
    session = started(OpenExec(argv=(b"a",), stderr="null", limits=(100, 0)))
    session.agent.receive(session.streams.close(1))
    assert session.feed(encode_data_header(1, 1, 0, 5) + bytes(5)) == [None]
    assert session.feed(encode_end(1, 1, 5)) == [None]
    assert session.streams.signal(1, 9) == session.streams.resize(1, 1, 1) == session.streams.close(1) == b""
    assert 1 in session.streams
    assert session.feed(control(FrameType.EXIT, 1, EXITED)) == [None]
    assert 1 not in session.streams


EXITED = {"code": 3, "signal": None, "reason": "exited", "evidence": ""}


def test_the_last_word_of_a_process_is_whatever_comes_last() -> None:
    session = started(OpenExec(argv=(b"a",), stderr="null"))
    (exited,) = session.feed(control(FrameType.EXIT, 1, EXITED))
    assert isinstance(exited, ExitTold)
    assert not exited.last
    (ended,) = session.feed(encode_end(1, 1, 0))
    assert ended == (1, 1, 0, True)


def test_a_file_operation_ends_with_its_result() -> None:
    session = greeted()
    session.agent.receive(session.streams.open(OpenStat(path=b"/"))[1])
    (move,) = [move for move in session.agent.moves() if move.kind == FrameType.RESULT]
    (done,) = session.feed(move.frame)
    assert isinstance(done, OperationDone)
    assert done.result.name == b"a"


# Fuzzing: seeded, SKERRY_FUZZ_SECONDS long.

GOLDEN: list[dict[str, Any]] = json.loads((Path(__file__).parents[3] / "proto" / "frames.json").read_text())


def golden_bytes(segments: list[dict[str, Any]]) -> bytes:
    return b"".join(
        bytes.fromhex(s["hex"]) if "hex" in s else bytes.fromhex(s["repeat"]) * s["times"] for s in segments
    )


CORPUS = [golden_bytes(case["bytes"]) for case in GOLDEN]


def mangled(frame: bytes, rng: random.Random) -> bytes:
    """Return a frame with a few bytes changed, cut out, put in or doubled."""
    copy = bytearray(frame)
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(copy) + 1)
        match rng.randrange(5):
            case 0 if copy:
                copy[at % len(copy)] = rng.randrange(256)
            case 1:
                del copy[at : at + rng.randrange(1, 9)]
            case 2:
                copy[at:at] = rng.randbytes(rng.randrange(1, 9))
            case 3 if copy:
                copy[at % len(copy)] ^= 1 << rng.randrange(8)
            case _:
                copy[at:at] = copy[at : at + rng.randrange(1, 65)]
    return bytes(copy)


def right_length(frame: bytes) -> bytes:
    """Return the frame with a length that fits, so that the fuzzer gets past the header."""
    if len(frame) < HEADER_SIZE:
        return frame
    return struct.pack("<I", len(frame) - HEADER_SIZE) + frame[4:8] + frame[8:]


def random_frame(rng: random.Random, session: Session) -> bytes:
    """Return something that an evil agent could send: right, mangled, or made up."""
    moves = list(session.agent.moves(rng.choice([1, 100, 70_000])))
    right = rng.choice(moves).frame if moves else b""
    match rng.randrange(4):
        case 0:
            return mangled(rng.choice(CORPUS) if len(right) == 0 or rng.random() < 0.5 else right, rng)
        case 1:
            return right_length(mangled(right, rng))
        case 2:
            payload = rng.randbytes(rng.choice([0, 1, 8, 9, 16, 30, 300]))
            kind = rng.randrange(18)
            return HEADER.pack(len(payload), rng.randrange(4), kind, rng.choice([0, 0, 1, 2, 3]), 0) + payload
        case _:
            return encode_frame(FrameType(rng.randrange(1, 17)), rng.randrange(4), rng.choice(CORPUS)[HEADER_SIZE:])


def torment(rng: random.Random) -> int:
    """Feed one session until it is over, by a violation or after many frames; return how many it took."""
    session = play(
        [(rng.random() < 0.5, rng.randrange(1000), rng.randrange(1, 3000)) for _ in range(rng.randrange(40))]
    )
    opened = session.streams.last_stream
    for count in range(200):
        try:
            for header, payload in split_frames(memoryview(random_frame(rng, session)), TO_HOST):
                session.streams.feed(header, payload)
        except ProtocolViolation:
            return count + 1
        assert len(session.streams) <= max(opened, 1024)
    return 200


def test_nothing_but_a_violation_comes_of_any_bytes() -> None:
    rng = random.Random(SEED)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    deadline = time.monotonic() + SECONDS
    frames = 0
    while time.monotonic() < deadline:
        frames += torment(rng)
    assert frames > 100 * SECONDS
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
    assert grown < MEMORY_MIB, f"{grown} MiB more after {frames} frames"
