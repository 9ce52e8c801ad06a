"""What a program in a sandbox has switched on in this terminal and not off again: to be put right when it is left."""

from __future__ import annotations

import re
from typing import Final

# Private modes (ECMA-48 and xterm's ctlseqs) that outlive the program, and whether they are on in a terminal at rest.
_AT_REST: Final = {
    1: False,  # cursor keys of applications
    7: True,  # long lines wrap
    9: False,  # the mouse, in seven ways
    25: True,  # the cursor is visible
    47: False,  # the other screen, in three ways
    1000: False,
    1002: False,
    1003: False,
    1004: False,
    1005: False,
    1006: False,
    1015: False,
    1047: False,
    1049: False,
    2004: False,  # marks around what is pasted
}
_SWITCH: Final = re.compile(rb"\x1b\[\?([0-9;]{1,64})([hl])")
_CARRIED: Final = 70  # a switch that is cut in two is no longer than that
_COLOURS: Final = b"\x1b[0m"

RESET: Final = _COLOURS + b"".join(
    b"\x1b[?%d%s" % (mode, b"h" if on else b"l") for mode, on in _AT_REST.items() if mode not in (47, 1047, 1049)
)
"""Puts all of them right without having seen anything. Not the screen: that would move the cursor."""


class Modes:
    """Follows what a terminal is sent, which is hostile: it keeps the last few bytes and a handful of numbers."""

    def __init__(self) -> None:
        self._changed: dict[int, bool] = {}
        self._rest = b""

    def see(self, shown: bytes) -> None:
        """Take note of what was sent."""
        text = self._rest + shown
        for found in _SWITCH.finditer(text):
            for number in found[1].split(b";"):
                self._switch(int(number or b"0"), found[2] == b"h")
        begun = text.rfind(b"\x1b", max(0, len(text) - _CARRIED))
        self._rest = text[begun:] if begun >= 0 else b""

    def undo(self) -> bytes:
        """Return what puts the terminal to rest."""
        switches = [b"\x1b[?%d%s" % (mode, b"l" if on else b"h") for mode, on in self._changed.items()]
        return b"".join(switches) + _COLOURS

    def _switch(self, mode: int, on: bool) -> None:
        if mode not in _AT_REST:
            return
        if on is _AT_REST[mode]:
            self._changed.pop(mode, None)
        else:
            self._changed[mode] = on
