"""What commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence

from skerry.model.text import printable


def print_json(value: object) -> None:
    """Print a value as JSON; characters beyond ASCII, and so control characters, are escaped."""
    print(json.dumps(value, indent=2, ensure_ascii=True))


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns; what came from a sandbox cannot move the cursor."""
    for line in table(head, rows):
        print(line)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    cells = [list(head), *([printable(cell, keep="") for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def tell(text: str) -> None:
    """Print progress, which goes to stderr so that output stays the program's own."""
    print(f"skerry: {printable(text)}", file=sys.stderr, flush=True)


def command_line(argv: Sequence[str], width: int = 40) -> str:
    """Return a command as a shell would take it, cut to `width`."""
    text = shlex.join(argv)
    return text if len(text) <= width else text[: width - 1] + "…"


def amount(size: int) -> str:
    """Return a number of bytes in its largest unit."""
    for unit, bytes_ in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= bytes_:
            return f"{size / bytes_:.1f} {unit}"
    return f"{size} B"


def size(count: float) -> str:
    """Return a number of bytes in three digits and a unit of 1,024."""
    for unit in ("B", "K", "M", "G", "T"):
        if count < 999.5 or unit == "T":
            return f"{count:.0f}{unit}" if unit == "B" or count >= 99.5 else f"{count:.1f}{unit}"
        count /= 1024
    raise AssertionError("unreachable")


def duration(seconds: float) -> str:
    """Return a length of time in its two largest units."""
    whole = max(0, int(seconds))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if whole >= size:
            lesser = {"d": ("h", 3600), "h": ("m", 60), "m": ("s", 1)}[unit]
            rest = whole % size // lesser[1]
            return f"{whole // size}{unit}" + (f" {rest}{lesser[0]}" if rest else "")
    return f"{whole}s"
