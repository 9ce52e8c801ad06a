"""Typed ids. An id is a prefix and 96 random bits as 20 lower-case base-32 characters.

96 bits, so that the ids of the compatible doors (22 base-62 characters, 26-character ULID forms, 20 lower-case
characters) are re-encodings of ours and need no table.
"""

from __future__ import annotations

import re
import secrets
from typing import NewType, Protocol

SandboxId = NewType("SandboxId", str)
ProcessId = NewType("ProcessId", str)
ImageId = NewType("ImageId", str)
AppId = NewType("AppId", str)
NodeId = NewType("NodeId", str)
VolumeId = NewType("VolumeId", str)
CommitId = NewType("CommitId", str)
SecretId = NewType("SecretId", str)

SANDBOX = "sb"
PROCESS = "pr"
IMAGE = "im"
APP = "ap"
NODE = "no"
VOLUME = "vo"
COMMIT = "vc"
SECRET = "st"  # noqa: S105 - the prefix of its ids

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u
_BODY_CHARS = 20
_ID = re.compile(rf"([a-z]{{2}})_([{_ALPHABET}]{{{_BODY_CHARS}}})")


class Ids(Protocol):
    """Where new ids come from; the tests give a counter instead of randomness."""

    def new(self, prefix: str) -> str:
        """Return an id that was never returned before."""


class RandomIds:
    """Ids from the operating system's random numbers."""

    def new(self, prefix: str) -> str:
        return encode(prefix, secrets.randbits(96))


def encode(prefix: str, number: int) -> str:
    """Return the id of `prefix` for a number of at most 96 bits."""
    body = []
    for _ in range(_BODY_CHARS):
        number, digit = divmod(number, 32)
        body.append(_ALPHABET[digit])
    if number:
        raise ValueError("an id carries at most 100 bits")
    return f"{prefix}_{''.join(reversed(body))}"


def body(identifier: str) -> str:
    """Return the 20 characters behind the prefix, for names on the machine that must have one fixed length."""
    return identifier.split("_", 1)[1]


def is_id(text: str, prefix: str) -> bool:
    """Tell whether `text` has the form of an id with this prefix."""
    match = _ID.fullmatch(text)
    return match is not None and match[1] == prefix
