"""The terminal that a program asks for with `pty=True`: as large as its own and of the same type, where it has one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from skerry.model import limits
from skerry.model.errors import InvalidError
from skerry.model.specs import Terminal

Size = tuple[int, int]
"""Rows and columns."""

_STDIN: Final = 0


def chosen(pty: bool, size: Size | None, *, call: str) -> Terminal | None:
    """Return the terminal that a call asks for, None for pipes; raises InvalidError for a size that cannot be."""
    if not isinstance(pty, bool):
        raise InvalidError(f"{call}: pty={pty!r}: give True for a terminal, False for pipes")
    if not pty:
        if size is not None:
            raise InvalidError(f"{call}: pty_size={size!r} without a terminal; say pty=True too")
        return None
    rows, columns = check_size(size, what=f"{call}: pty_size") if size is not None else size_of(_STDIN)
    return Terminal(rows=rows, columns=columns, term=_term(os.environ))


def check_size(size: object, *, what: str) -> Size:
    """Return rows and columns; an `os.terminal_size`, which has them the other way round, is taken for what it is."""
    if isinstance(size, os.terminal_size):
        size = size.lines, size.columns
    if not isinstance(size, (tuple, list)) or len(size) != 2:
        raise InvalidError(f"{what}={size!r}: give a pair (rows, columns)")
    rows, columns = size
    for side in (rows, columns):
        if isinstance(side, bool) or not isinstance(side, int) or not 1 <= side <= limits.TERMINAL_SIDE_MAX:
            raise InvalidError(f"{what}={size!r}: rows and columns are 1 to {limits.TERMINAL_SIDE_MAX:,}")
    return rows, columns


def size_of(descriptor: int) -> Size:
    """Return the size of this program's terminal; the usual one where it has none, or one that does not know."""
    try:
        size = os.get_terminal_size(descriptor)
    except OSError:
        return limits.TERMINAL_ROWS, limits.TERMINAL_COLUMNS
    return size.lines or limits.TERMINAL_ROWS, size.columns or limits.TERMINAL_COLUMNS


def with_colours(env: dict[str, str], terminal: Terminal | None) -> dict[str, str]:
    """Return the environment with what this program's terminal says of its colours, which TERM alone does not."""
    colours = os.environ.get("COLORTERM", "")
    if terminal is None or not colours or not colours.isprintable() or not os.isatty(_STDIN):
        return env
    return {"COLORTERM": colours, **env}


def _term(environ: Mapping[str, str]) -> str:
    term = environ.get("TERM", "")
    fits = 0 < len(term) <= limits.TERM_CHARS and all("!" <= char <= "~" for char in term)
    return term if fits and os.isatty(_STDIN) else Terminal.term
