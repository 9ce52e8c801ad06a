"""The client's half of a WebSocket (RFC 6455), without I/O: the handshake, message headers, masking.

Written here rather than taken from a library for two measured reasons: importing one costs each short program about
50 ms, and copying every message three times costs a third of the throughput (docs/decisions/0009). It knows what
the native door sends: binary messages in one piece, pings, closes. Anything else ends the connection.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_FINAL: Final = 0x80
_MASKED: Final = 0x80
_SHORT_MAX: Final = 125
_U16_MAX: Final = 0xFFFF
# Below this size the arithmetic of Python's integers masks faster than the library with the C loop can be imported.
_MASK_IN_PYTHON: Final = 16 * 1024

BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10

HEAD_BYTES_MAX: Final = 16 * 1024
_WHY_BYTES: Final = 500


class SocketProtocolError(Exception):
    """The server sent what the native door never sends."""


class MessageHeader(NamedTuple):
    """Where a message's payload lies: `size` bytes from `start`."""

    opcode: int
    start: int
    size: int


@dataclass(frozen=True)
class Handshake:
    """The request that turns an HTTP connection into a WebSocket, and the answer it must get."""

    path: str
    host: str
    key: bytes

    @classmethod
    def new(cls, path: str, host: str) -> Handshake:
        return cls(path, host, base64.b64encode(secrets.token_bytes(16)))

    def request(self) -> bytes:
        return (
            f"GET {self.path} HTTP/1.1\r\nHost: {self.host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {self.key.decode()}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        ).encode("ascii")

    def check(self, head: bytes, rest: bytes = b"") -> None:
        """Raise SocketProtocolError unless `head` accepts the upgrade; `rest` may hold why it does not."""
        status, *lines = head.decode("latin-1").split("\r\n")
        if status.split(" ", 2)[1:2] != ["101"]:
            why = f": {rest[:_WHY_BYTES].decode(errors='replace')!r}" if rest else ""
            raise SocketProtocolError(f"the server refused the upgrade: {status[:200]!r}{why}")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        expected = base64.b64encode(hashlib.sha1(self.key + _GUID, usedforsecurity=False).digest()).decode()
        if headers.get("sec-websocket-accept") != expected:
            raise SocketProtocolError("the server's answer does not fit the handshake")


def parse_header(buffer: bytearray | memoryview, start: int, end: int, limit: int) -> MessageHeader | None:
    """Return the header of the message at `start`, None while it is incomplete; the payload may still be on its way."""
    if end - start < 2:
        return None
    first, second = buffer[start], buffer[start + 1]
    if first & 0x70 or not first & _FINAL or second & _MASKED:
        raise SocketProtocolError(f"a message that begins with {first:#04x} {second:#04x}")
    size, at = second, start + 2
    if second > _SHORT_MAX:
        form = struct.Struct(">H" if second == _SHORT_MAX + 1 else ">Q")
        if end - at < form.size:
            return None
        (size,) = form.unpack_from(buffer, at)
        at += form.size
    if size > limit:
        raise SocketProtocolError(f"a message of {size} bytes; at most {limit}")
    return MessageHeader(first & 0x0F, at, size)


def encode(opcode: int, *parts: bytes | memoryview) -> list[bytes]:
    """Return the pieces of one masked message whose payload is `parts` in a row."""
    payload = parts[0] if len(parts) == 1 else b"".join(parts)
    key = secrets.token_bytes(4)
    return [_encode_header(opcode, len(payload)) + key, mask(payload, key)]


def mask(payload: bytes | memoryview, key: bytes) -> bytes:
    """Return `payload` xor the repeated key."""
    size = len(payload)
    if size > _MASK_IN_PYTHON:
        with suppress(ImportError):  # the C loop is optional there
            from websockets.speedups import apply_mask

            return apply_mask(bytes(payload), key)
    repeated = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(repeated, "little")).to_bytes(size, "little")


def _encode_header(opcode: int, size: int) -> bytes:
    first = _FINAL | opcode
    if size <= _SHORT_MAX:
        return bytes((first, _MASKED | size))
    if size <= _U16_MAX:
        return struct.pack(">BBH", first, _MASKED | 126, size)
    return struct.pack(">BBQ", first, _MASKED | 127, size)
