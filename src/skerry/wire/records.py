"""Records in the content of a channel: each a `u32` length and one control payload."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from skerry.wire.frames import MAX_CONTROL, Buffer, ProtocolViolation

R = TypeVar("R")

_LENGTH: Final = struct.Struct("<I")


class RecordReader(Generic[R]):
    """Cuts the content of a channel into records. It holds at most one unfinished record, so under 64 KiB."""

    def __init__(self, decode: Callable[[bytes], R]) -> None:
        self._decode = decode
        self._rest = bytearray()

    def feed(self, content: Buffer) -> list[R]:
        """Return the records that `content` completes."""
        self._rest += content
        records, at = [], 0
        while len(self._rest) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._rest, at)
            if length > MAX_CONTROL:
                raise ProtocolViolation("malformed_payload", f"a record of {length} bytes; at most {MAX_CONTROL}")
            start = at + _LENGTH.size
            if len(self._rest) < start + length:
                break
            at = start + length
            records.append(self._decode(bytes(self._rest[start:at])))
        del self._rest[:at]
        return records

    def end(self) -> None:
        """Raise ProtocolViolation if the content ended inside a record."""
        if self._rest:
            raise ProtocolViolation("malformed_payload", f"it ended inside a record ({len(self._rest)} bytes)")


def encode_record(payload: bytes) -> bytes:
    """Return a payload as a record."""
    return _LENGTH.pack(len(payload)) + payload
