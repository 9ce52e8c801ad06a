"""The keys with which a terminal is left without ending what runs there."""

from __future__ import annotations

from typing import Final

import click

DEFAULT: Final = "ctrl-p,ctrl-q"
NONE: Final = "none"

_NAMED: Final = {"ctrl-@": 0, "ctrl-[": 27, "ctrl-\\": 28, "ctrl-]": 29, "ctrl-^": 30, "ctrl-_": 31}


def parse(text: str) -> bytes:
    """Return the bytes of a sequence such as `ctrl-p,ctrl-q` or `ctrl-],d`; nothing for `none`."""
    if text == NONE:
        return b""
    return bytes(_key(name, text) for name in text.split(","))


def _key(name: str, text: str) -> int:
    lowered = name.lower()
    if lowered in _NAMED:
        return _NAMED[lowered]
    if lowered.startswith("ctrl-") and len(lowered) == 6 and "a" <= lowered[5] <= "z":
        return ord(lowered[5]) - ord("a") + 1
    if len(name) == 1 and "!" <= name <= "~":
        return ord(name)
    raise click.BadParameter(
        f"{text!r}: {name!r} is no key; give single characters and ctrl-a to ctrl-z, "
        f"ctrl-@ [ \\ ] ^ _, with commas between, such as {DEFAULT}, or {NONE}"
    )


class DetachKeys:
    """Watches what is typed for the sequence. The keys of one that has begun are held back until it is clear."""

    def __init__(self, sequence: bytes) -> None:
        self._sequence = sequence
        self._held = b""

    @property
    def holds(self) -> bool:
        """Tell whether keys are held back."""
        return bool(self._held)

    def feed(self, typed: bytes) -> tuple[bytes, bool]:
        """Return what goes to the process now, and whether the sequence was typed; what came after it is dropped."""
        if not self._sequence:
            return typed, False
        known = self._held + typed
        at = known.find(self._sequence)
        if at >= 0:
            self._held = b""
            return known[:at], True
        size = self._begun(known)
        self._held = known[len(known) - size :]
        return known[: len(known) - size], False

    def release(self) -> bytes:
        """Return the keys that were held back: the sequence did not go on."""
        held, self._held = self._held, b""
        return held

    def _begun(self, known: bytes) -> int:
        """Return how many of the last bytes may be the beginning of the sequence."""
        sizes = range(min(len(self._sequence) - 1, len(known)), 0, -1)
        return next((size for size in sizes if known.endswith(self._sequence[:size])), 0)
