"""The frame codec: a header in front of a payload, judged by a table of what one direction allows.

The agent's pipes and the client's socket use the same header and the same types; each direction has a table of its
own (`TO_AGENT` and `TO_HOST` here, the socket's beside it). Nothing here does I/O, and no payload is copied: the
caller keeps the bytes in one buffer and asks for the header at a position. The rules are those of proto/agent.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal, NamedTuple

Rule = Literal[
    "unknown_type",
    "frame_too_large",
    "malformed_frame",
    "hello_expected",
    "second_hello",
    "stream_reused",
    "unknown_stream",
    "second_exit",
    "unexpected_frame",
    "malformed_payload",
    "channel_ended",
    "offset_jumped",
    "over_credit",
    "bad_credit",
]
"""Every rule whose breach ends the session, in the order in which a frame is judged."""

Buffer = bytes | bytearray | memoryview


class ProtocolViolation(Exception):
    """The other side broke a rule of the protocol; the session cannot go on."""

    def __init__(self, rule: Rule, detail: str) -> None:
        super().__init__(f"{rule}: {detail}")
        self.rule: Rule = rule
        self.detail = detail


class FrameType(IntEnum):
    HELLO = 1
    READY = 2
    PING = 3
    PONG = 4
    OPEN = 5
    STARTED = 6
    DATA = 7
    END = 8
    CREDIT = 9
    SIGNAL = 10
    RESIZE = 11
    EXIT = 12
    ERROR = 13
    RESULT = 14
    CLOSE = 15
    SHUTDOWN = 16


STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2

MAX_DATA: Final = 1 << 20
"""The most content bytes that a receiver accepts in one DATA."""
SENT_DATA: Final = 256 << 10
"""The most content bytes that a sender puts into one DATA."""
MAX_WINDOW: Final = 1 << 20
"""How far a limit may lie beyond what is acknowledged."""
MAX_CONTROL: Final = 64 << 10
MAX_OPEN: Final = 256 << 10
MAX_READY: Final = 1 << 20
MAX_PING: Final = 64

HEADER: Final = struct.Struct("<IIBBH")
HEADER_SIZE: Final = HEADER.size
OFFSET: Final = struct.Struct("<Q")
CREDIT: Final = struct.Struct("<QQ")
SIZE: Final = struct.Struct("<HH")
"""Rows and columns of a terminal."""
_DATA_HEADER: Final = struct.Struct("<IIBBHQ")
_END: Final = struct.Struct("<IIBBHQ")
_CREDIT: Final = struct.Struct("<IIBBHQQ")


class Header(NamedTuple):
    """What precedes a payload of `length` bytes."""

    length: int
    stream: int
    type: int
    flags: int


@dataclass(frozen=True, slots=True)
class FrameRule:
    """What one type may look like in one direction."""

    limit: int = MAX_CONTROL
    least: int = 0
    most: int | None = None
    """The size that a fixed payload has at most; beyond it, up to `limit`, a frame is malformed, not too large."""
    flags: frozenset[int] = frozenset({0})
    connection: bool = False
    """Whether the frame belongs to the connection (stream 0) rather than to a stream."""


FrameTable = Mapping[int, FrameRule]


def fixed(size: int, *, flags: frozenset[int] = frozenset({0}), connection: bool = False) -> FrameRule:
    """Return the rule of a type whose payload always has `size` bytes."""
    return FrameRule(least=size, most=size, flags=flags, connection=connection)


def data(*channels: int) -> FrameRule:
    """Return the rule of DATA on these channels: an offset and at least one byte."""
    return FrameRule(limit=OFFSET.size + MAX_DATA, least=OFFSET.size + 1, flags=frozenset(channels))


TO_AGENT: Final[FrameTable] = {
    FrameType.HELLO: FrameRule(connection=True),
    FrameType.PING: FrameRule(limit=MAX_PING, connection=True),
    FrameType.OPEN: FrameRule(limit=MAX_OPEN),
    FrameType.DATA: data(STDIN),
    FrameType.END: fixed(OFFSET.size, flags=frozenset({STDIN})),
    FrameType.CREDIT: fixed(CREDIT.size, flags=frozenset({STDOUT, STDERR})),
    FrameType.SIGNAL: fixed(1),
    FrameType.RESIZE: fixed(4),
    FrameType.CLOSE: fixed(0),
    FrameType.SHUTDOWN: fixed(4, connection=True),
}

TO_HOST: Final[FrameTable] = {
    FrameType.READY: FrameRule(limit=MAX_READY, connection=True),
    FrameType.PONG: FrameRule(limit=MAX_PING, connection=True),
    FrameType.STARTED: FrameRule(),
    FrameType.DATA: data(STDOUT, STDERR),
    FrameType.END: fixed(OFFSET.size, flags=frozenset({STDOUT, STDERR})),
    FrameType.CREDIT: fixed(CREDIT.size, flags=frozenset({STDIN})),
    FrameType.EXIT: FrameRule(),
    FrameType.ERROR: FrameRule(),
    FrameType.RESULT: FrameRule(),
}


def parse_header(buffer: Buffer, at: int, table: FrameTable) -> Header:
    """Return the header at `at`, of which 12 bytes must be there; raise ProtocolViolation where `table` forbids it."""
    length, stream, kind, flags, zero = HEADER.unpack_from(buffer, at)
    rule = table.get(kind)
    if rule is None:
        raise ProtocolViolation("unknown_type", f"type {kind} is not known in this direction")
    if length > rule.limit:
        raise ProtocolViolation("frame_too_large", f"{_name(kind)} of {length} bytes; at most {rule.limit}")
    if zero or flags not in rule.flags or (rule.connection and stream):
        raise ProtocolViolation(
            "malformed_frame", f"{_name(kind)} with stream {stream}, flags {flags}, reserved {zero}"
        )
    if length < rule.least or (rule.most is not None and length > rule.most):
        raise ProtocolViolation("malformed_frame", f"{_name(kind)} with {length} bytes of payload")
    return Header(length, stream, kind, flags)


def split_frames(view: memoryview, table: FrameTable) -> Iterator[tuple[Header, memoryview]]:
    """Yield the whole frames at the start of `view`, payloads as views into it; a partial last frame is left out.

    Its header is judged all the same, so that a frame that can never be right is refused before its payload arrives.
    """
    at, end = 0, len(view)
    while end - at >= HEADER_SIZE:
        header = parse_header(view, at, table)
        start = at + HEADER_SIZE
        at = start + header.length
        if at > end:
            return
        yield header, view[start:at]


def encode_frame(kind: FrameType, stream: int = 0, payload: bytes = b"", *, flags: int = 0) -> bytes:
    """Return a whole frame."""
    return HEADER.pack(len(payload), stream, kind, flags, 0) + payload


def encode_data_header(stream: int, channel: int, offset: int, size: int) -> bytes:
    """Return what goes before `size` content bytes, so that the content itself need not be copied."""
    return _DATA_HEADER.pack(OFFSET.size + size, stream, FrameType.DATA, channel, 0, offset)


def encode_end(stream: int, channel: int, offset: int) -> bytes:
    return _END.pack(OFFSET.size, stream, FrameType.END, channel, 0, offset)


def encode_credit(stream: int, channel: int, acknowledged: int, limit: int) -> bytes:
    return _CREDIT.pack(CREDIT.size, stream, FrameType.CREDIT, channel, 0, acknowledged, limit)


def encode_signal(stream: int, number: int) -> bytes:
    return encode_frame(FrameType.SIGNAL, stream, bytes((number,)))


def encode_resize(stream: int, rows: int, columns: int) -> bytes:
    return encode_frame(FrameType.RESIZE, stream, SIZE.pack(rows, columns))


def encode_shutdown(grace_ms: int) -> bytes:
    return encode_frame(FrameType.SHUTDOWN, 0, struct.pack("<I", grace_ms))


def _name(kind: int) -> str:
    return FrameType(kind).name
