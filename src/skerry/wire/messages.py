"""The control payloads of the agent protocol, strictly decoded.

What the agent sends is hostile. `decode` therefore checks the whole payload, keys that nobody knows included: msgpack
maps with string keys, at most eight levels, no extension types, nothing after the map. Whatever is wrong with it, the
caller gets ProtocolViolation("malformed_payload").
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from skerry.wire.frames import Buffer, ProtocolViolation

VERSION: Final = 1
MAX_NESTING: Final = 8
MAX_MESSAGE: Final = 1024
MAX_FILES: Final = 16
MAX_ATTRIBUTES: Final = 256

# 2**63 - 1 is what both a Rust i64 and msgspec's own bounds can hold.
Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
StreamNumber = Annotated[int, Meta(ge=1, le=(1 << 32) - 1)]
Key = Annotated[bytes, Meta(min_length=32, max_length=32)]

ErrorCode = Literal[
    "not_found",
    "is_directory",
    "not_directory",
    "already_exists",
    "not_empty",
    "permission_denied",
    "no_space",
    "too_large",
    "not_regular",
    "invalid_argument",
    "failed_precondition",
    "resource_exhausted",
    "unimplemented",
    "aborted",
    "io",
]


class Message(msgspec.Struct, frozen=True):
    """One control payload."""


class Setup(Message, frozen=True, kw_only=True):
    """What the agent arranges once, at the claim."""

    hostname: str
    files: tuple[tuple[str, Count, bytes], ...] = ()
    attributes: tuple[tuple[bytes, str, bytes], ...] = ()
    cpus: Count = 0
    processes: Count
    cgroup: bool = False

    def __post_init__(self) -> None:
        if len(self.files) > MAX_FILES or not all(path.startswith("/") for path, _, _ in self.files):
            raise ValueError(f"files are at most {MAX_FILES}, with absolute paths")
        if len(self.attributes) > MAX_ATTRIBUTES or not all(map(_is_attribute, self.attributes)):
            raise ValueError(f"attributes are at most {MAX_ATTRIBUTES}, with absolute paths and names")


def _is_attribute(attribute: tuple[bytes, str, bytes]) -> bool:
    path, name, _ = attribute
    return path.startswith(b"/") and b"\0" not in path and bool(name) and "\0" not in name


class Hello(Message, frozen=True, kw_only=True):
    version: Literal[1] = VERSION
    secret: Key
    proof: Key | None
    generation: Count
    setup: Setup | None

    def __post_init__(self) -> None:
        if (self.proof is None) == (self.setup is None):
            raise ValueError("a claim has a setup and an attach has a proof, never both")


class Exit(Message, frozen=True):
    """How a process ended, as its agent saw it."""

    code: Annotated[int, Meta(ge=0, le=255)] | None
    signal: Annotated[int, Meta(ge=1, le=64)] | None
    reason: Literal["exited", "signaled", "killed", "timeout"]
    evidence: str

    def __post_init__(self) -> None:
        if (self.code is None) == (self.signal is None):
            raise ValueError("exactly one of code and signal is set")


class StdinState(Message, frozen=True):
    acknowledged: Count
    limit: Count
    ended: bool


class ChannelState(Message, frozen=True):
    channel: Literal[1, 2]
    acknowledged: Count
    end: Count
    ended: bool

    def __post_init__(self) -> None:
        if self.acknowledged > self.end:
            raise ValueError("acknowledged lies beyond the end")


class StreamState(Message, frozen=True):
    """A stream that the agent has not forgotten, as READY tells it after an attach."""

    stream: StreamNumber
    op: Literal["exec", "read", "write", "list", "stat", "mkdir", "remove", "rename", "watch", "pack", "unpack"]
    pid: Count | None
    exit: Exit | None
    stdin: StdinState | None
    channels: Annotated[tuple[ChannelState, ...], Meta(max_length=2)]

    def __post_init__(self) -> None:
        if len({state.channel for state in self.channels}) < len(self.channels):
            raise ValueError("a channel is told twice")


class Ready(Message, frozen=True):
    version: Literal[1]
    agent: str
    generation: Count
    last_stream: Annotated[int, Meta(ge=0, le=(1 << 32) - 1)]
    streams: Annotated[tuple[StreamState, ...], Meta(max_length=1024)]

    def __post_init__(self) -> None:
        numbers = {state.stream for state in self.streams}
        if len(numbers) < len(self.streams) or any(number > self.last_stream for number in numbers):
            raise ValueError("a stream is told twice, or lies beyond last_stream")


class Started(Message, frozen=True):
    pid: Count | None
    size: Count | None = None


class ErrorReply(Message, frozen=True):
    """The operation failed; the stream is over."""

    code: ErrorCode
    message: str

    def __post_init__(self) -> None:
        if len(self.message.encode()) > MAX_MESSAGE:
            raise ValueError(f"a message has at most {MAX_MESSAGE} bytes")


class Done(Message, frozen=True):
    """The result of an operation that returns nothing."""


class Written(Message, frozen=True):
    size: Count


class Unpacked(Message, frozen=True, kw_only=True):
    """Where a tree is, and what there was of it."""

    path: bytes
    entries: Count
    size: Count


class Entry(Message, frozen=True, kw_only=True):
    """One file, as `stat` and `list` tell it. Everything in it was chosen inside the sandbox."""

    name: bytes
    type: Literal["file", "directory", "symlink", "fifo", "socket", "device"]
    size: Count
    mode: Count
    uid: Count
    gid: Count
    owner: str
    group: str
    modified: float
    target: bytes | None


class Change(Message, frozen=True, kw_only=True):
    """One change of a watched path; a move has the old and the new path where both were seen."""

    kind: Literal["create", "modify", "remove", "move", "access", "overflow"]
    paths: Annotated[tuple[bytes, ...], Meta(min_length=1, max_length=2)]


Side = Annotated[int, Meta(ge=1, le=(1 << 16) - 1)]


class Terminal(Message, frozen=True, kw_only=True):
    """The terminal that a process gets; `term` becomes TERM where its environment has none."""

    rows: Side
    columns: Side
    term: str


class OpenExec(Message, frozen=True, kw_only=True, tag_field="op", tag="exec"):
    argv: tuple[bytes, ...]
    env: tuple[bytes, ...] = ()
    cwd: bytes = b"/"
    user: str = "root"
    stdin: Literal["null", "pipe"] = "null"
    stdout: Literal["null", "pipe"] = "pipe"
    stderr: Literal["null", "pipe", "stdout"] = "pipe"
    timeout_ms: Count = 0
    no_new_privileges: bool = False
    terminal: Terminal | None = None
    limits: tuple[Count, Count] = (256 << 10, 256 << 10)


class OpenRead(Message, frozen=True, kw_only=True, tag_field="op", tag="read"):
    path: bytes
    offset: Count = 0
    length: Count | None = None
    limit: Count = 1 << 20


class OpenWrite(Message, frozen=True, kw_only=True, tag_field="op", tag="write"):
    path: bytes
    mode: Count | None = None
    parents: bool = False
    append: bool = False


class OpenList(Message, frozen=True, kw_only=True, tag_field="op", tag="list"):
    path: bytes
    limit: Count = 1 << 20


class OpenStat(Message, frozen=True, kw_only=True, tag_field="op", tag="stat"):
    path: bytes


class OpenMkdir(Message, frozen=True, kw_only=True, tag_field="op", tag="mkdir"):
    path: bytes
    mode: Count = 0o755
    parents: bool = False


class OpenRemove(Message, frozen=True, kw_only=True, tag_field="op", tag="remove"):
    path: bytes
    recursive: bool = False


class OpenRename(Message, frozen=True, kw_only=True, tag_field="op", tag="rename"):
    path: bytes
    target: bytes


class OpenWatch(Message, frozen=True, kw_only=True, tag_field="op", tag="watch"):
    path: bytes
    recursive: bool = False
    kinds: tuple[str, ...]
    timeout_ms: Count = 0
    limit: Count = 1 << 20


class OpenPack(Message, frozen=True, kw_only=True, tag_field="op", tag="pack"):
    path: bytes
    limit: Count = 1 << 20


class OpenUnpack(Message, frozen=True, kw_only=True, tag_field="op", tag="unpack"):
    path: bytes
    name: bytes | None = None
    parents: bool = False


OpenContent = OpenRead | OpenList | OpenWatch | OpenPack
"""What has content on channel 1."""
OpenAnswer = OpenStat | OpenMkdir | OpenRemove | OpenRename
"""What is answered at once."""
OpenInput = OpenWrite | OpenUnpack
"""What takes content on channel 0."""
Open = OpenExec | OpenContent | OpenInput | OpenAnswer

M = TypeVar("M", bound=Message)

_encoder = msgspec.msgpack.Encoder()
_anything = msgspec.msgpack.Decoder(dict[str, Any])
_decoders: dict[type[Message], msgspec.msgpack.Decoder[Any]] = {}


def encode(message: Message) -> bytes:
    """Return the payload of a control frame."""
    return _encoder.encode(message)


def decode(payload: Buffer, kind: type[M]) -> M:
    """Return the message in a payload, or raise ProtocolViolation("malformed_payload")."""
    try:
        _check_shape(_anything.decode(payload))
        message: M = _decoder(kind).decode(payload)
    # Beside its own errors msgspec lets UnicodeDecodeError (a ValueError) and RecursionError through.
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise ProtocolViolation("malformed_payload", f"{kind.__name__}: {exc}") from exc
    return message


def _decoder(kind: type[M]) -> msgspec.msgpack.Decoder[M]:
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.msgpack.Decoder(kind)
    return decoder


def _check_shape(outer: dict[str, Any]) -> None:
    """Refuse what typed decoding would skip: deep nesting and foreign types under unknown keys."""
    level: list[Any] = [outer]
    for _ in range(MAX_NESTING):
        level = [child for container in level for child in _children(container)]
        if not level:
            return
    raise ValueError(f"nested deeper than {MAX_NESTING}")


def _children(container: dict[Any, Any] | list[Any]) -> list[Any]:
    """Return the containers inside a container."""
    inner: Any = container
    if type(container) is dict:
        if any(type(key) is not str for key in container):
            raise ValueError("a map with a key that is no string")
        inner = container.values()
    children = [value for value in inner if type(value) not in _SCALARS]
    if any(type(child) not in _CONTAINERS for child in children):
        raise ValueError("an extension type")
    return children


_SCALARS = frozenset({type(None), bool, int, float, str, bytes})
_CONTAINERS = frozenset({dict, list})
