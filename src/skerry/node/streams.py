"""The host's side of the agent protocol, without I/O: which streams are open, how far each channel is, and what is due.

`Streams` judges every frame of the agent by the rules of proto/agent.md and turns it into an event, and it returns the
frames that the host's own steps need. A frame that breaks a rule raises ProtocolViolation; nothing else is ever raised
for what an agent sends, and what is kept is bounded by what the host itself has opened.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from skerry.node.agent_events import (
    ChannelEnded,
    ContentCame,
    Event,
    ExitTold,
    OperationDone,
    OperationFailed,
    PongCame,
    ReadyTold,
    Result,
    StartedTold,
    StdinGranted,
)
from skerry.wire.frames import (
    CREDIT,
    MAX_WINDOW,
    OFFSET,
    STDERR,
    STDIN,
    STDOUT,
    FrameType,
    Header,
    ProtocolViolation,
    encode_credit,
    encode_data_header,
    encode_end,
    encode_frame,
    encode_resize,
    encode_signal,
)
from skerry.wire.messages import (
    Done,
    Entry,
    ErrorReply,
    Exit,
    Hello,
    Open,
    OpenContent,
    OpenExec,
    OpenInput,
    Ready,
    Started,
    StreamState,
    Unpacked,
    Written,
    decode,
    encode,
)

WINDOW: Final = 256 << 10
"""The window of a channel at first, so that many quiet processes can be open at once."""
BUSY_AFTER: Final = 1 << 20
"""A channel that has carried this much gets the widest window."""
LAST_NUMBER: Final = (1 << 32) - 1


@dataclass(slots=True)
class Incoming:
    """A channel to the host. `available` is how far an attached agent says it can go, None when it was not attached."""

    limit: int
    received: int = 0
    acknowledged: int = 0
    ended: bool = False
    available: int | None = None

    def window(self) -> int:
        return MAX_WINDOW if self.received >= BUSY_AFTER else WINDOW


@dataclass(slots=True)
class Outgoing:
    """A channel to the agent."""

    sent: int = 0
    acknowledged: int = 0
    limit: int = 0
    ended: bool = False


@dataclass(slots=True)
class _Stream:
    op: str
    channels: dict[int, Incoming]
    stdin: Outgoing | None = None
    started: bool = False
    exited: bool = False
    closed: bool = False

    def is_over(self) -> bool:
        return self.exited and all(channel.ended for channel in self.channels.values())


_RESULTS: Final[dict[str, type[Result]]] = {
    "read": Done,
    "write": Written,
    "list": Done,
    "stat": Entry,
    "mkdir": Done,
    "remove": Done,
    "rename": Done,
    "watch": Done,
    "pack": Done,
    "unpack": Unpacked,
}
_AT_ONCE: Final = frozenset({"stat", "mkdir", "remove", "rename"})
"""Operations that have no STARTED."""


def hello_frame(hello: Hello) -> bytes:
    return encode_frame(FrameType.HELLO, 0, encode(hello))


class Streams:
    """The state of one channel to an agent, from HELLO on."""

    def __init__(self) -> None:
        self.last_stream = 0
        self._hello: Hello | None = None
        self._greeted = False
        self._pings: deque[bytes] = deque()
        self._open: dict[int, _Stream] = {}

    def __len__(self) -> int:
        """How many streams are open."""
        return len(self._open)

    def __contains__(self, number: int) -> bool:
        return number in self._open

    # What the host does: each step returns the frame to send, empty where the stream is over or closed already.

    def begin(self, hello: Hello) -> None:
        """Begin the session: the agent is sent this, or has it already (`hello_frame`)."""
        self._hello = hello

    def ping(self, payload: bytes) -> bytes:
        self._pings.append(payload)
        return encode_frame(FrameType.PING, 0, payload)

    def open(self, op: Open) -> tuple[int, bytes]:
        """Return the number of a new stream, and its OPEN."""
        if self.last_stream >= LAST_NUMBER:
            raise OverflowError("every stream number of this sandbox has been used")
        stream = _new_stream(op)
        frame = encode_frame(FrameType.OPEN, self.last_stream + 1, encode(op))
        self.last_stream += 1
        self._open[self.last_stream] = stream
        return self.last_stream, frame

    def grant(self, number: int, channel: int, stored: int, limit: int) -> bytes:
        """Acknowledge what is stored and let the agent send up to `limit`, which the widest window bounds."""
        stream = self._open.get(number)
        if stream is None or stream.closed:
            return b""
        incoming = stream.channels[channel]
        if incoming.available is not None:
            _go_on_at(incoming, stored)
        limit = max(incoming.limit, min(limit, stored + MAX_WINDOW))
        if not incoming.acknowledged <= stored <= incoming.received:
            raise ValueError(f"stored {stored} of {incoming.received}; {incoming.acknowledged} are acknowledged")
        incoming.acknowledged, incoming.limit = stored, limit
        return encode_credit(number, channel, stored, limit)

    def acknowledge(self, number: int, channel: int, stored: int, room: int) -> bytes:
        """Return the CREDIT that is due now, if one is: `room` is how much more than `stored` may be sent."""
        stream = self._open.get(number)
        if stream is None or stream.closed:
            return b""
        incoming = stream.channels[channel]
        if not _credit_is_due(incoming, stored, room):
            return b""
        return self.grant(number, channel, stored, stored + room)

    def window(self, number: int, channel: int) -> int:
        """Return how far beyond what is stored this channel may be allowed to go."""
        stream = self._open.get(number)
        return stream.channels[channel].window() if stream is not None and channel in stream.channels else 0

    def channels(self, number: int) -> tuple[int, ...]:
        """Return the channels to the host that a stream has."""
        stream = self._open.get(number)
        return tuple(stream.channels) if stream is not None else ()

    def stdin(self, number: int) -> Outgoing | None:
        """Return where channel 0 is, or None where there is none (any more)."""
        stream = self._open.get(number)
        return None if stream is None or stream.closed else stream.stdin

    def send(self, number: int, size: int) -> bytes:
        """Return what goes before the next `size` bytes of channel 0; there must be credit for them."""
        outgoing = self.stdin(number)
        if outgoing is None or outgoing.ended or outgoing.sent + size > outgoing.limit:
            raise ValueError(f"stream {number} may not send {size} bytes now")
        header = encode_data_header(number, STDIN, outgoing.sent, size)
        outgoing.sent += size
        return header

    def end_stdin(self, number: int) -> bytes:
        outgoing = self.stdin(number)
        if outgoing is None or outgoing.ended:
            return b""
        outgoing.ended = True
        return encode_end(number, STDIN, outgoing.sent)

    def signal(self, number: int, signal: int) -> bytes:
        stream = self._open.get(number)
        if stream is None or stream.closed or stream.op != "exec":
            return b""
        return encode_signal(number, signal)

    def resize(self, number: int, rows: int, columns: int) -> bytes:
        stream = self._open.get(number)
        if stream is None or stream.closed or stream.op != "exec":
            return b""
        return encode_resize(number, rows, columns)

    def close(self, number: int) -> bytes:
        """Give a stream up before its last word; from here on only that last word is waited for."""
        stream = self._open.get(number)
        if stream is None or stream.closed:
            return b""
        stream.closed = True
        self.drop_if_over(number)
        return encode_frame(FrameType.CLOSE, number)

    def drop_if_over(self, number: int) -> bool:
        """Tell whether a process has said its last word; then its stream is not open any more."""
        over = self._open[number].is_over()
        if over:
            del self._open[number]
        return over

    def forget(self, number: int) -> bytes:
        """Return the CLOSE that answers a last word."""
        return encode_frame(FrameType.CLOSE, number)

    # What the agent says

    def feed(self, header: Header, payload: memoryview) -> Event | None:
        """Return what a frame means; None for what belongs to a stream that was closed early."""
        kind, number = header.type, header.stream
        if not self._greeted:
            return self._on_first(kind, payload)
        if kind == FrameType.PONG:
            return self._on_pong(payload)
        if kind == FrameType.READY:
            raise ProtocolViolation("second_hello", "READY came again")
        stream = self._open.get(number)
        if stream is None:
            raise ProtocolViolation("unknown_stream", f"{FrameType(kind).name} for stream {number}, which is not open")
        event = _HANDLERS[kind](self, number, stream, header.flags, payload)
        return None if stream.closed else event

    def _on_first(self, kind: int, payload: memoryview) -> Event:
        if kind != FrameType.READY or self._hello is None:
            raise ProtocolViolation("hello_expected", f"{FrameType(kind).name} came before READY")
        ready = decode(payload, Ready)
        if ready.generation != self._hello.generation:
            detail = f"READY of generation {ready.generation}; the HELLO was {self._hello.generation}"
            raise ProtocolViolation("malformed_payload", detail)
        self._greeted = True
        self.last_stream = ready.last_stream
        self._open = {state.stream: _told_stream(state) for state in ready.streams}
        return ReadyTold(ready)

    def _on_pong(self, payload: memoryview) -> Event:
        if not self._pings or self._pings[0] != payload:
            raise ProtocolViolation("unexpected_frame", "PONG does not answer the oldest PING")
        return PongCame(self._pings.popleft())

    def _on_started(self, number: int, stream: _Stream, _flags: int, payload: memoryview) -> Event:
        if stream.started or stream.op in _AT_ONCE:
            raise ProtocolViolation("unexpected_frame", f"STARTED for stream {number} ({stream.op})")
        started = decode(payload, Started)
        stream.started = True
        return StartedTold(number, started)

    def _on_data(self, number: int, stream: _Stream, flags: int, payload: memoryview) -> Event:
        channel = _incoming(number, stream, flags)
        (offset,) = OFFSET.unpack_from(payload)
        content = payload[OFFSET.size :]
        _check_position(number, flags, channel, offset)
        received = offset + len(content)
        if received > channel.limit:
            detail = f"stream {number} channel {flags} sent up to {received}; its limit is {channel.limit}"
            raise ProtocolViolation("over_credit", detail)
        channel.received = received
        return ContentCame(number, flags, offset, content)

    def _on_end(self, number: int, stream: _Stream, flags: int, payload: memoryview) -> Event:
        channel = _incoming(number, stream, flags)
        (offset,) = OFFSET.unpack_from(payload)
        _check_position(number, flags, channel, offset)
        channel.ended = True
        return ChannelEnded(number, flags, offset, self.drop_if_over(number))

    def _on_credit(self, number: int, stream: _Stream, _flags: int, payload: memoryview) -> Event:
        outgoing = stream.stdin
        if outgoing is None or not stream.started:
            raise ProtocolViolation("unexpected_frame", f"CREDIT for stream {number} ({stream.op})")
        acknowledged, limit = CREDIT.unpack(payload)
        if not (
            outgoing.acknowledged <= acknowledged <= outgoing.sent
            and outgoing.limit <= limit <= acknowledged + MAX_WINDOW
        ):
            detail = f"stream {number} was granted {acknowledged}, {limit} after {outgoing}"
            raise ProtocolViolation("bad_credit", detail)
        outgoing.acknowledged, outgoing.limit = acknowledged, limit
        return StdinGranted(number)

    def _on_exit(self, number: int, stream: _Stream, _flags: int, payload: memoryview) -> Event:
        if stream.exited:
            raise ProtocolViolation("second_exit", f"EXIT for stream {number} came again")
        if not stream.started or stream.op != "exec":
            raise ProtocolViolation("unexpected_frame", f"EXIT for stream {number} ({stream.op})")
        told = decode(payload, Exit)
        stream.exited = True
        return ExitTold(number, told, self.drop_if_over(number))

    def _on_error(self, number: int, stream: _Stream, _flags: int, payload: memoryview) -> Event:
        if stream.started and stream.op == "exec":
            raise ProtocolViolation("unexpected_frame", f"ERROR for stream {number}, whose process has started")
        error = decode(payload, ErrorReply)
        del self._open[number]
        return OperationFailed(number, error)

    def _on_result(self, number: int, stream: _Stream, _flags: int, payload: memoryview) -> Event:
        kind = _RESULTS.get(stream.op)
        if kind is None or not _may_be_done(stream):
            raise ProtocolViolation("unexpected_frame", f"RESULT for stream {number} ({stream.op})")
        result = decode(payload, kind)
        del self._open[number]
        return OperationDone(number, result)


_Handler = Callable[[Streams, int, _Stream, int, memoryview], Event]
_HANDLERS: Final[dict[int, _Handler]] = {
    FrameType.STARTED: Streams._on_started,
    FrameType.DATA: Streams._on_data,
    FrameType.END: Streams._on_end,
    FrameType.CREDIT: Streams._on_credit,
    FrameType.EXIT: Streams._on_exit,
    FrameType.ERROR: Streams._on_error,
    FrameType.RESULT: Streams._on_result,
}


def _new_stream(op: Open) -> _Stream:
    """Return the stream that an OPEN makes, with the channels of its operation."""
    if isinstance(op, OpenExec):
        channels = {}
        if op.stdout == "pipe":
            channels[STDOUT] = Incoming(op.limits[0])
        if op.stderr == "pipe":
            channels[STDERR] = Incoming(op.limits[1])
        return _Stream("exec", channels, Outgoing() if op.stdin == "pipe" else None)
    if isinstance(op, OpenContent):
        return _Stream(str(op.__struct_config__.tag), {STDOUT: Incoming(op.limit)})
    if isinstance(op, OpenInput):
        return _Stream(str(op.__struct_config__.tag), {}, Outgoing())
    return _Stream(str(op.__struct_config__.tag), {})


def _told_stream(state: StreamState) -> _Stream:
    """Return a stream as READY tells it; nothing may come on its channels until the host has granted anew."""
    return _Stream(
        state.op,
        {
            told.channel: Incoming(told.acknowledged, told.acknowledged, told.acknowledged, available=told.end)
            for told in state.channels
        },
        _told_stdin(state),
        started=state.op != "exec" or state.pid is not None or state.exit is not None,
        exited=state.exit is not None,
    )


def _told_stdin(state: StreamState) -> Outgoing | None:
    told = state.stdin
    if told is None:
        return None
    return Outgoing(told.acknowledged, told.acknowledged, told.limit, told.ended)


def _incoming(number: int, stream: _Stream, flags: int) -> Incoming:
    channel = stream.channels.get(flags)
    if channel is None or not stream.started:
        raise ProtocolViolation("unexpected_frame", f"channel {flags} of stream {number} ({stream.op})")
    return channel


def _check_position(number: int, flags: int, channel: Incoming, offset: int) -> None:
    if channel.ended:
        raise ProtocolViolation("channel_ended", f"channel {flags} of stream {number} goes on after END")
    if offset != channel.received:
        detail = f"stream {number} channel {flags} came at {offset}; {channel.received} was expected"
        raise ProtocolViolation("offset_jumped", detail)


def _may_be_done(stream: _Stream) -> bool:
    """Tell whether everything that comes before RESULT has come."""
    if not stream.started and stream.op not in _AT_ONCE:
        return False
    if stream.stdin is not None and not stream.stdin.ended:
        return False
    return all(channel.ended for channel in stream.channels.values())


def _go_on_at(incoming: Incoming, stored: int) -> None:
    """Place a channel after an attach where the host's store ends, which must be within what the agent still has."""
    available = incoming.available or 0
    if not incoming.acknowledged <= stored <= available:
        detail = f"{stored} bytes are stored; the agent has {incoming.acknowledged} to {available}"
        raise ProtocolViolation("offset_jumped", detail)
    incoming.received, incoming.available = stored, None


def _credit_is_due(incoming: Incoming, stored: int, room: int) -> bool:
    """Tell whether to send CREDIT now: in batches of half a window, at once where the sender waits or has ended."""
    if incoming.available is not None:
        return True
    fresh = stored - incoming.acknowledged
    if incoming.ended:
        return fresh > 0
    growth = stored + room - incoming.limit
    waits = incoming.received >= incoming.limit and growth > 0
    return waits or 2 * max(fresh, growth) >= incoming.window()
