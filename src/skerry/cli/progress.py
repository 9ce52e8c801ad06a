"""How far a copy is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TYPE_CHECKING, Final, TextIO

from skerry.model.text import printable

if TYPE_CHECKING:
    from skerry.client.copies.report import Report

EVERY_S: Final = 10.0
"""How often a line is printed where there is no terminal."""
REDRAW_S: Final = 0.1
_BAR: Final = 24


class Progress:
    """Shows a copy on stderr while the block lasts, and leaves nothing of a bar behind."""

    def __init__(self, label: str, *, quiet: bool = False, out: TextIO | None = None) -> None:
        self._label = printable(label, keep="")
        self._out = out or sys.stderr
        self._quiet = quiet
        self._live = self._out.isatty()
        self._begun = self._shown = time.monotonic()
        self._drawn = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._drawn:
            self._say("\r\x1b[K")

    def show(self, report: Report) -> None:
        """Show how far it is, if it is time again."""
        now = time.monotonic()
        if self._quiet or now - self._shown < (REDRAW_S if self._live else EVERY_S):
            return
        self._shown = now
        text = self.line(report, now - self._begun)
        if self._live:
            self._drawn = True
            self._say(f"\r{text[: shutil.get_terminal_size().columns - 1]}\x1b[K")
        else:
            self._say(f"skerry: {text}\n")

    def line(self, report: Report, seconds: float) -> str:
        """Return a report in a line."""
        done = f"{amount(report.size)}, {amount(report.size / max(seconds, 0.001))}/s"
        if report.total:
            share = min(1.0, report.size / report.total)
            full = round(share * _BAR)
            return f"{self._label} [{'#' * full}{'.' * (_BAR - full)}] {share:4.0%} {done}"
        return f"{self._label} {report.entries:,} entries, {done}"

    def _say(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def amount(size: float) -> str:
    """Return a number of bytes as people read it."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
