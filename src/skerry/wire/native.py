"""The native door's socket: which frames go which way, and what their payloads hold.

The header and the rules are those of the agent protocol (`frames.py`); the tables, the window and the payloads here are
the socket's own. The page is proto/native/socket.md.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from skerry.wire.frames import (
    CREDIT,
    MAX_OPEN,
    MAX_PING,
    OFFSET,
    STDERR,
    STDIN,
    STDOUT,
    Buffer,
    FrameRule,
    FrameTable,
    FrameType,
    ProtocolViolation,
    data,
    fixed,
)

PROTOCOL: Final = 1
SOCKET_NAME: Final = f"v{PROTOCOL}.sock"
"""The socket's name carries the protocol's version, so that servers of two versions can stand side by side."""
WINDOW: Final = 16 << 20
"""How far a client may grant beyond what it has acknowledged."""
STDIN_WINDOW: Final = 1 << 20
"""How far the server grants beyond what the process has acknowledged."""
STREAMS: Final = 1024
"""Streams open at once on one connection."""

# Close codes of the WebSocket (RFC 6455, section 7.4.1).
CLOSE_PROTOCOL: Final = 1002

_OUTPUTS: Final = frozenset({STDOUT, STDERR})

TO_SERVER: Final[FrameTable] = {
    FrameType.PING: FrameRule(limit=MAX_PING, connection=True),
    FrameType.OPEN: FrameRule(limit=MAX_OPEN),
    FrameType.DATA: data(STDIN),
    FrameType.END: fixed(OFFSET.size, flags=frozenset({STDIN})),
    FrameType.CREDIT: fixed(CREDIT.size, flags=_OUTPUTS),
    FrameType.SIGNAL: fixed(1),
    FrameType.RESIZE: fixed(4),
    FrameType.CLOSE: fixed(0),
}

TO_CLIENT: Final[FrameTable] = {
    FrameType.PONG: FrameRule(limit=MAX_PING, connection=True),
    FrameType.STARTED: FrameRule(),
    FrameType.DATA: data(STDOUT, STDERR),
    FrameType.END: fixed(OFFSET.size, flags=_OUTPUTS),
    FrameType.CREDIT: fixed(CREDIT.size, flags=frozenset({STDIN})),
    FrameType.EXIT: FrameRule(),
    FrameType.ERROR: FrameRule(),
    FrameType.RESULT: FrameRule(),
}

Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Seconds = Annotated[float, Meta(ge=0)]
Name = bytes
"""A name inside a sandbox, which may be any bytes but NUL and slash."""


class Payload(msgspec.Struct, frozen=True, kw_only=True):
    """One control payload."""


Side = Annotated[int, Meta(ge=1, le=(1 << 16) - 1)]


class Terminal(Payload, frozen=True, kw_only=True):
    """The terminal that a process gets; `term` is TERM where its environment has none."""

    rows: Side
    columns: Side
    term: str


class SecretSource(Payload, frozen=True, kw_only=True):
    """Secret variables: a stored secret by its name, or values that come with the request."""

    name: str | None = None
    required_keys: tuple[str, ...] = ()
    env: dict[str, str] | None = None


class OpenExec(Payload, frozen=True, kw_only=True, tag_field="op", tag="exec"):
    """Start a process, or find the one that this id started before."""

    sandbox: str
    process: str
    argv: tuple[str, ...]
    env: dict[str, str] = {}
    secrets: tuple[SecretSource, ...] = ()
    workdir: str | None = None
    user: str | None = None
    timeout_s: float | None = None
    stdin: Literal["null", "pipe"] = "null"
    stdout: Literal["null", "pipe"] = "pipe"
    stderr: Literal["null", "pipe", "stdout"] = "pipe"
    no_new_privileges: bool = False
    terminal: Terminal | None = None
    limits: tuple[Count, Count] = (0, 0)


class OpenProcess(Payload, frozen=True, kw_only=True, tag_field="op", tag="process"):
    """Follow a process that exists; `entrypoint` names the entrypoint.

    `fresh` lets stdin begin behind all that anybody has written: of one who has written none of it himself.
    """

    sandbox: str
    process: str
    offsets: tuple[Count, Count] = (0, 0)
    limits: tuple[Count, Count] = (0, 0)
    stdin: bool = False
    fresh: bool = False


class OpenRead(Payload, frozen=True, kw_only=True, tag_field="op", tag="read"):
    sandbox: str
    path: Name
    offset: Count = 0
    length: Count | None = None
    limit: Count = 1 << 20


class OpenWrite(Payload, frozen=True, kw_only=True, tag_field="op", tag="write"):
    sandbox: str
    path: Name
    mode: Annotated[int, Meta(ge=0, le=0o7777)] | None = None
    parents: bool = True
    append: bool = False


class OpenList(Payload, frozen=True, kw_only=True, tag_field="op", tag="list"):
    sandbox: str
    path: Name


class OpenStat(Payload, frozen=True, kw_only=True, tag_field="op", tag="stat"):
    sandbox: str
    path: Name


class OpenMkdir(Payload, frozen=True, kw_only=True, tag_field="op", tag="mkdir"):
    sandbox: str
    path: Name
    parents: bool = True


class OpenRemove(Payload, frozen=True, kw_only=True, tag_field="op", tag="remove"):
    sandbox: str
    path: Name
    recursive: bool = False


class OpenRename(Payload, frozen=True, kw_only=True, tag_field="op", tag="rename"):
    sandbox: str
    path: Name
    target: Name


class OpenPack(Payload, frozen=True, kw_only=True, tag_field="op", tag="pack"):
    sandbox: str
    path: Name
    limit: Count = 1 << 20


class OpenUnpack(Payload, frozen=True, kw_only=True, tag_field="op", tag="unpack"):
    """With `name` it goes into the folder at `path` under that name, if one is there."""

    sandbox: str
    path: Name
    name: Name | None = None
    parents: bool = True


class OpenWatch(Payload, frozen=True, kw_only=True, tag_field="op", tag="watch"):
    """`kinds` nil means all; `timeout_s` nil means for as long as the stream is open."""

    sandbox: str
    path: Name
    recursive: bool = False
    kinds: tuple[str, ...] | None = None
    timeout_s: Seconds | None = None
    limit: Count = 1 << 20


class OpenVolumeRead(Payload, frozen=True, kw_only=True, tag_field="op", tag="volume_read"):
    """Read a file of a volume as it is now, or as it was at a commit."""

    volume: str
    path: Name
    commit: str | None = None
    limit: Count = 1 << 20


class OpenVolumeWrite(Payload, frozen=True, kw_only=True, tag_field="op", tag="volume_write"):
    volume: str
    path: Name
    mode: Annotated[int, Meta(ge=0, le=0o7777)] | None = None


class OpenVolumeList(Payload, frozen=True, kw_only=True, tag_field="op", tag="volume_list"):
    volume: str
    path: Name
    recursive: bool = False
    commit: str | None = None


class OpenVolumeStat(Payload, frozen=True, kw_only=True, tag_field="op", tag="volume_stat"):
    volume: str
    path: Name
    commit: str | None = None


class OpenVolumeRemove(Payload, frozen=True, kw_only=True, tag_field="op", tag="volume_remove"):
    volume: str
    path: Name
    recursive: bool = False


OpenContent = OpenRead | OpenWatch | OpenPack | OpenVolumeRead
"""What has content on channel 1."""
OpenInput = OpenWrite | OpenUnpack | OpenVolumeWrite
"""What takes content on channel 0."""
OpenOfFiles = (
    OpenRead | OpenWrite | OpenList | OpenStat | OpenMkdir | OpenRemove | OpenRename | OpenWatch | OpenPack | OpenUnpack
)
OpenInSandbox = OpenExec | OpenProcess | OpenOfFiles
OpenInVolume = OpenVolumeRead | OpenVolumeWrite | OpenVolumeList | OpenVolumeStat | OpenVolumeRemove
Open = OpenInSandbox | OpenInVolume


class ProcessStarted(Payload, frozen=True, kw_only=True):
    """`stdin` is where DATA on channel 0 begins: what the process has acknowledged, or with `fresh` all that was
    written. `stdin_limit` is its first limit."""

    process: str
    stdin: Count = 0
    stdin_limit: Count = 0


class ReadStarted(Payload, frozen=True, kw_only=True):
    size: Count


class WriteStarted(Payload, frozen=True, kw_only=True):
    stdin_limit: Count


class Exit(Payload, frozen=True, kw_only=True):
    code: int | None
    signal: int | None
    reason: str
    evidence: str


class ErrorReply(Payload, frozen=True, kw_only=True):
    """The stream is over: the fields of an error of the model."""

    code: str
    kind: str
    message: str
    details: dict[str, Any] = {}


class Done(Payload, frozen=True, kw_only=True):
    """The result of an operation that returns nothing."""


class Written(Payload, frozen=True, kw_only=True):
    size: Count


class Unpacked(Payload, frozen=True, kw_only=True):
    path: Name
    entries: Count
    size: Count


class Entry(Payload, frozen=True, kw_only=True):
    """One file, as `stat` and `list` tell it."""

    name: Name
    path: Name
    type: str
    size: Count
    mode: Count
    owner: str
    group: str
    modified: float
    target: Name | None = None


class Change(Payload, frozen=True, kw_only=True):
    """One change of a watched path, a record in the content of channel 1."""

    kind: str
    paths: tuple[Name, ...]


class Listed(Payload, frozen=True, kw_only=True):
    entries: tuple[Entry, ...]
    more: bool


P = TypeVar("P", bound=Payload)

_encoder = msgspec.msgpack.Encoder()
_open_decoder: msgspec.msgpack.Decoder[Open] = msgspec.msgpack.Decoder(Open)
_decoders: dict[type[Payload], msgspec.msgpack.Decoder[Any]] = {}


def encode(payload: Payload) -> bytes:
    """Return the payload of a control frame."""
    return _encoder.encode(payload)


def decode_open(payload: Buffer) -> Open:
    """Return the OPEN in a payload, or raise ProtocolViolation("malformed_payload")."""
    try:
        return _open_decoder.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise ProtocolViolation("malformed_payload", f"OPEN: {exc}") from exc


def decode(payload: Buffer, kind: type[P]) -> P:
    """Return what the server said, or raise ProtocolViolation("malformed_payload")."""
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.msgpack.Decoder(kind)
    try:
        message: P = decoder.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise ProtocolViolation("malformed_payload", f"{kind.__name__}: {exc}") from exc
    return message


def encode_name(name: str) -> Name:
    """Return a name as it travels; the model has bytes that are no UTF-8 as surrogates."""
    return name.encode("utf-8", "surrogateescape")


def decode_name(name: Name) -> str:
    """Return a name as the model has it."""
    return name.decode("utf-8", "surrogateescape")
