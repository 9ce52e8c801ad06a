"""What tells one create from another."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from skerry.model.errors import InvalidError
from skerry.model.specs import SandboxSpec

KEY_CHARS: Final = 256


def check_key(key: str) -> None:
    """Raise InvalidError for what cannot be an idempotency key."""
    if not 1 <= len(key) <= KEY_CHARS or not key.isascii() or not key.isprintable():
        raise InvalidError(
            f"an idempotency key has 1 to {KEY_CHARS} printable ASCII characters; use a UUID, for example"
        )


def asked(spec: SandboxSpec) -> SandboxSpec:
    """Return what two requests with one key must have in common: not the tags, which may have been changed since."""
    return replace(spec.without_access(), tags={})
