"""A whole screen that is drawn anew again and again, and gone afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from skerry.cli import modes

BEGIN: Final = b"\x1b[?1049h\x1b[?25l\x1b[?7l"
"""The other screen, no cursor, and lines that are cut instead of going on in the next one."""
END: Final = b"\x1b[?7h\x1b[?25h\x1b[?1049l"
RESET: Final = modes.RESET + END


def frame(lines: Sequence[str], rows: int, columns: int) -> bytes:
    """Return what draws these lines from the top on, and nothing below them; they hold no control characters."""
    shown = [line[:columns] for line in lines[:rows]]
    return b"\x1b[H" + b"\r\n".join(line.encode() + b"\x1b[K" for line in shown) + b"\x1b[J"
