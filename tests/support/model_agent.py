"""An agent that keeps to proto/agent.md and does nothing else: it tells which frames it may send next.

It shares no state with the host's side, so that the two can be held against each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from skerry.wire.frames import (
    CREDIT,
    HEADER_SIZE,
    MAX_WINDOW,
    OFFSET,
    TO_AGENT,
    FrameType,
    encode_credit,
    encode_data_header,
    encode_end,
    encode_frame,
    parse_header,
    split_frames,
)

WINDOW = 4096
EXIT = {"code": 0, "signal": None, "reason": "exited", "evidence": ""}
ENTRY = {
    "name": b"a",
    "type": "file",
    "size": 1,
    "mode": 0o100644,
    "uid": 0,
    "gid": 0,
    "owner": "root",
    "group": "root",
    "modified": 1.5,
    "target": None,
}
UNPACKED = {"path": b"/a", "entries": 1, "size": 0}
RESULTS: dict[str, Any] = {
    "read": {},
    "write": {"size": 1},
    "list": {},
    "stat": ENTRY,
    "mkdir": {},
    "remove": {},
    "rename": {},
    "watch": {},
    "pack": {},
    "unpack": UNPACKED,
}
AT_ONCE = ("stat", "mkdir", "remove", "rename")


def control(kind: FrameType, stream: int, fields: object) -> bytes:
    return encode_frame(kind, stream, msgspec.msgpack.encode(fields))


@dataclass
class Move:
    """A frame that the agent may send, and what it does to the agent when it is sent."""

    frame: bytes
    done: Callable[[], None] = lambda: None

    @property
    def kind(self) -> int:
        return self.frame[8]


@dataclass
class Channel:
    limit: int
    sent: int = 0
    ended: bool = False


@dataclass
class Stdin:
    limit: int = 0
    received: int = 0
    acknowledged: int = 0
    ended: bool = False


@dataclass
class AgentSide:
    op: str
    channels: dict[int, Channel] = field(default_factory=dict)
    stdin: Stdin | None = None
    started: bool = False
    exited: bool = False
    closed: bool = False


class ModelAgent:
    def __init__(self) -> None:
        self.streams: dict[int, AgentSide] = {}
        self.pings: list[bytes] = []
        self.greeted = False
        self.signals: list[int] = []
        self.stdin_bytes: dict[int, bytes] = {}

    def receive(self, data: bytes) -> None:
        """Take frames of the host, which must be right."""
        for header, payload in split_frames(memoryview(data), TO_AGENT):
            self._receive(header.type, header.stream, header.flags, payload)

    def _receive(self, kind: int, number: int, flags: int, payload: memoryview) -> None:
        if kind == FrameType.PING:
            self.pings.append(bytes(payload))
        elif kind == FrameType.OPEN:
            assert number not in self.streams
            self.streams[number] = _opened(msgspec.msgpack.decode(payload))
        elif number in self.streams:
            self._receive_on(kind, number, self.streams[number], flags, payload)

    def _receive_on(self, kind: int, number: int, side: AgentSide, flags: int, payload: memoryview) -> None:
        if kind == FrameType.CREDIT:
            acknowledged, limit = CREDIT.unpack(payload)
            channel = side.channels[flags]
            assert acknowledged <= channel.sent
            assert channel.limit <= limit <= acknowledged + MAX_WINDOW
            channel.limit = limit
        elif kind == FrameType.DATA:
            assert side.stdin is not None
            assert OFFSET.unpack_from(payload) == (side.stdin.received,)
            assert not side.stdin.ended
            side.stdin.received += len(payload) - OFFSET.size
            self.stdin_bytes[number] = self.stdin_bytes.get(number, b"") + bytes(payload[OFFSET.size :])
            assert side.stdin.received <= side.stdin.limit
        elif kind == FrameType.END:
            assert side.stdin is not None
            side.stdin.ended = True
        elif kind == FrameType.SIGNAL:
            self.signals.append(payload[0])
        elif kind == FrameType.CLOSE:
            side.closed = True
            if self._is_over(side):
                del self.streams[number]

    def open_streams(self) -> int:
        return sum(not self._is_over(side) for side in self.streams.values())

    def moves(self, size: int = 100) -> Iterator[Move]:
        """Yield every frame that may be sent now; DATA with up to `size` bytes."""
        if not self.greeted:
            yield Move(control(FrameType.READY, 0, READY), self._set_greeted)
            return
        if self.pings:
            yield Move(encode_frame(FrameType.PONG, 0, self.pings[0]), lambda: self.pings.pop(0) and None)
        for number, side in list(self.streams.items()):
            if not self._is_over(side):
                yield from self._moves_of(number, side, size)

    def _set_greeted(self) -> None:
        self.greeted = True

    def _moves_of(self, number: int, side: AgentSide, size: int) -> Iterator[Move]:
        if side.op != "exec" or not side.started:
            error = {"code": "io", "message": "no"}
            yield Move(control(FrameType.ERROR, number, error), lambda: self._over(number))
        if side.op not in AT_ONCE and not side.started:
            yield Move(control(FrameType.STARTED, number, {"pid": 7}), lambda: _set(side, "started"))
            return
        for channel, state in side.channels.items():
            yield from self._channel_moves(number, channel, state, size)
        if side.stdin is not None:
            yield self._credit_move(number, side.stdin)
        if side.op == "exec" and not side.exited:
            yield Move(control(FrameType.EXIT, number, EXIT), lambda: _set(side, "exited"))
        if side.op in RESULTS and self._all_ended(side):
            yield Move(control(FrameType.RESULT, number, RESULTS[side.op]), lambda: self._over(number))

    def _channel_moves(self, number: int, channel: int, state: Channel, size: int) -> Iterator[Move]:
        if state.ended:
            return
        yield Move(encode_end(number, channel, state.sent), lambda: _set(state, "ended"))
        count = min(size, state.limit - state.sent)
        if count:
            header = encode_data_header(number, channel, state.sent, count)
            yield Move(header + bytes(count), lambda: _advance(state, count))

    def _credit_move(self, number: int, stdin: Stdin) -> Move:
        limit = stdin.received + WINDOW

        def granted() -> None:
            stdin.acknowledged, stdin.limit = stdin.received, limit

        return Move(encode_credit(number, 0, stdin.received, limit), granted)

    def _all_ended(self, side: AgentSide) -> bool:
        return all(channel.ended for channel in side.channels.values()) and (side.stdin is None or side.stdin.ended)

    def _is_over(self, side: AgentSide) -> bool:
        return side.exited and all(channel.ended for channel in side.channels.values())

    def _over(self, number: int) -> None:
        del self.streams[number]


READY = {"version": 1, "agent": "model", "generation": 0, "last_stream": 0, "streams": []}


def _opened(op: dict[str, Any]) -> AgentSide:
    side = AgentSide(op["op"])
    if side.op == "exec":
        outputs = {1: op["stdout"] == "pipe", 2: op["stderr"] == "pipe"}
        side.channels = {number: Channel(op["limits"][number - 1]) for number, piped in outputs.items() if piped}
        side.stdin = Stdin() if op["stdin"] == "pipe" else None
    elif side.op in ("read", "list", "watch", "pack"):
        side.channels = {1: Channel(op["limit"])}
    elif side.op in ("write", "unpack"):
        side.stdin = Stdin()
    return side


def _set(thing: object, name: str) -> None:
    setattr(thing, name, True)


def _advance(state: Channel, count: int) -> None:
    state.sent += count


def kind_of(frame: bytes) -> int:
    return parse_header(frame, 0, TO_AGENT).type


def body(frame: bytes) -> bytes:
    return frame[HEADER_SIZE:]
