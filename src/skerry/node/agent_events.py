"""What a frame of the agent means, once `Streams` has judged it."""

from __future__ import annotations

from typing import NamedTuple

from skerry.wire.messages import Done, Entry, ErrorReply, Exit, Ready, Started, Unpacked, Written

Result = Done | Written | Unpacked | Entry


class ReadyTold(NamedTuple):
    ready: Ready


class PongCame(NamedTuple):
    payload: bytes


class StartedTold(NamedTuple):
    stream: int
    started: Started


class ContentCame(NamedTuple):
    """Bytes of a channel; `content` is a view into the receiver's buffer and soon invalid."""

    stream: int
    channel: int
    offset: int
    content: memoryview


class ChannelEnded(NamedTuple):
    stream: int
    channel: int
    end: int
    last: bool


class StdinGranted(NamedTuple):
    stream: int


class ExitTold(NamedTuple):
    stream: int
    exit: Exit
    last: bool


class OperationFailed(NamedTuple):
    stream: int
    error: ErrorReply


class OperationDone(NamedTuple):
    stream: int
    result: Result


Event = (
    ReadyTold
    | PongCame
    | StartedTold
    | ContentCame
    | ChannelEnded
    | StdinGranted
    | ExitTold
    | OperationFailed
    | OperationDone
)
"""What a frame of the agent means. `last` says that it was the stream's last word."""
