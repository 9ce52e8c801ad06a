"""The order in which the channels of a log are read, and their bytes as lines. Without I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from skerry.model.sandboxes import KeptOutput

LINE_BYTES: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of one channel whose bytes came at one time."""

    channel: int
    end: int
    time: float


@dataclass(frozen=True, slots=True)
class Piece:
    """A line, or a part of one, with its first byte's offset and time."""

    offset: int
    time: float
    data: bytes


def plan(kept: Sequence[KeptOutput]) -> list[Segment]:
    """Return what is kept in the order of time; what came in the same second stays together, stdout first."""
    segments = []
    for one in kept:
        ends = [*(at for at, _ in one.times[1:]), one.end]
        segments += [Segment(one.channel, end, when) for (_, when), end in zip(one.times, ends, strict=True)]
    return sorted(segments, key=lambda segment: segment.time)


class LineCutter:
    """Cuts the bytes of one channel into lines; a line that has not ended waits for more, up to 64 KiB of it.

    With `each` off the lines that are complete are one piece. With `whole` off nothing waits.
    """

    def __init__(self, *, each: bool = True, whole: bool = True) -> None:
        self._each = each
        self._whole = whole
        self._begun: Piece | None = None

    def feed(self, offset: int, time: float, data: bytes) -> list[Piece]:
        """Return the pieces that are complete."""
        if self._begun is not None:
            offset, time, data = self._begun.offset, self._begun.time, self._begun.data + data
            self._begun = None
        end = len(data) if not self._whole else data.rfind(b"\n") + 1
        if end < len(data) < end + LINE_BYTES:
            self._begun = Piece(offset + end, time, data[end:])
            data = data[:end]
        if not self._each:
            return [Piece(offset, time, data)] if data else []
        pieces = []
        for line in _lines(data):
            pieces.append(Piece(offset, time, line))
            offset += len(line)
        return [part for piece in pieces for part in _bounded(piece)]

    def rest(self) -> list[Piece]:
        """Return the line that has not ended."""
        begun, self._begun = self._begun, None
        return [] if begun is None else [begun]


def _lines(data: bytes) -> list[bytes]:
    """Return lines that end with a newline alone: a carriage return is part of one."""
    *whole, rest = data.split(b"\n")
    return [line + b"\n" for line in whole] + ([rest] if rest else [])


def _bounded(piece: Piece) -> list[Piece]:
    if len(piece.data) <= LINE_BYTES:
        return [piece]
    starts = range(0, len(piece.data), LINE_BYTES)
    return [Piece(piece.offset + at, piece.time, piece.data[at : at + LINE_BYTES]) for at in starts]
