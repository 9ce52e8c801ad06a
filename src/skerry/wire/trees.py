"""A file or a tree as one stream of records: proto/agent.md, section 5.

Agents make and take it, clients make and take it; everybody between carries bytes. What comes out of a sandbox is
hostile: whatever breaks the format raises ProtocolViolation.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from skerry.wire.frames import Buffer, ProtocolViolation

CONTENT_BYTES: Final = 256 << 10
"""The most bytes of content in one record."""
MAP_BYTES: Final = 64 << 10
PATH_BYTES: Final = 4095
DEPTH: Final = 128
"""Folders inside folders."""

_HEAD: Final = struct.Struct("<IB")
_ENTRY, _CONTENT, _DONE, _SKIPPED = range(1, 5)
_LIMITS: Final = {_ENTRY: (1, MAP_BYTES), _CONTENT: (1, CONTENT_BYTES), _DONE: (0, 0), _SKIPPED: (1, MAP_BYTES)}

Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Path = Annotated[bytes, Meta(max_length=PATH_BYTES)]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of a file, a folder or a link before its content. The path is below the root, whose own is empty."""

    path: Path
    type: Literal["file", "directory", "symlink"]
    mode: Annotated[int, Meta(ge=0, le=0o777)]
    modified_ns: Count
    size: Count
    target: Annotated[bytes, Meta(min_length=1, max_length=PATH_BYTES)] | None

    def __post_init__(self) -> None:
        if (self.type == "symlink") != (self.target is not None):
            raise ValueError("a link has a target, and nothing else has one")
        if self.path and not all(map(_is_name, self.path.split(b"/"))):
            raise ValueError("a path that leads elsewhere")
        if b"\0" in self.path or (self.target is not None and b"\0" in self.target):
            raise ValueError("a NUL byte in a name")


class Skipped(msgspec.Struct, frozen=True, kw_only=True):
    """What was left out, and why. If its content had begun, there is no more of it."""

    path: Path
    reason: Annotated[str, Meta(max_length=1024)]


class Done(msgspec.Struct, frozen=True):
    """The file that was told last is whole."""


DONE: Final = Done()
Record = Entry | Skipped | Done | memoryview
"""A view is content of the file that was told last; it holds until the next bytes are fed."""

_encoder = msgspec.msgpack.Encoder()
_entries = msgspec.msgpack.Decoder(Entry)
_skipped = msgspec.msgpack.Decoder(Skipped)


class TreeReader:
    """Cuts a stream into records. It holds at most one unfinished one."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, content: Buffer) -> Iterator[Record]:
        """Yield the records that `content` completes; all of them have to be taken."""
        view = memoryview(self._rest + bytes(content) if self._rest else content)
        at, end = 0, len(view)
        while end - at >= _HEAD.size:
            length, kind = _HEAD.unpack_from(view, at)
            _check_head(kind, length)
            start = at + _HEAD.size
            if start + length > end:
                break
            at = start + length
            yield _record(kind, view[start:at])
        self._rest = bytes(view[at:])

    def end(self) -> None:
        """Raise ProtocolViolation if the stream ended inside a record."""
        if self._rest:
            raise _broken("it ends inside a record")


def encode_entry(entry: Entry) -> bytes:
    return _framed(_ENTRY, _encoder.encode(entry))


def encode_content_head(size: int) -> bytes:
    """Return what goes before `size` bytes of content, of which one record holds CONTENT_BYTES at most."""
    return _HEAD.pack(size, _CONTENT)


def encode_skipped(skipped: Skipped) -> bytes:
    return _framed(_SKIPPED, _encoder.encode(skipped))


ENCODED_DONE: Final = _HEAD.pack(0, _DONE)


def _framed(kind: int, payload: bytes) -> bytes:
    return _HEAD.pack(len(payload), kind) + payload


def _check_head(kind: int, length: int) -> None:
    least, most = _LIMITS.get(kind, (1, 0))
    if not least <= length <= most:
        raise _broken(f"a record of kind {kind} with {length} bytes")


def _record(kind: int, payload: memoryview) -> Record:
    if kind == _CONTENT:
        return payload
    if kind == _DONE:
        return DONE
    try:
        return _entries.decode(payload) if kind == _ENTRY else _skipped.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise _broken(str(exc)) from exc


def _is_name(name: bytes) -> bool:
    return name not in (b"", b".", b"..")


def _broken(how: str) -> ProtocolViolation:
    return ProtocolViolation("malformed_payload", f"a tree: {how}")
