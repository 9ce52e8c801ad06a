from __future__ import annotations

import io

from skerry.cli import progress
from skerry.cli.progress import Progress, amount
from skerry.client.copies.report import Report


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_file_has_a_bar_and_a_tree_a_count() -> None:
    shown = Progress("name\x1b[2J", out=io.StringIO())
    bar = shown.line(Report(entries=1, size=50_000_000, total=100_000_000), 0.5)
    assert bar == r"name\x1b[2J [############............]  50% 50.0 MB, 100 MB/s"
    assert shown.line(Report(entries=1234, size=0), 1.0) == r"name\x1b[2J 1,234 entries, 0 B, 0 B/s"


def test_a_terminal_gets_one_line_that_goes_at_the_end() -> None:
    out = Terminal()
    progress.REDRAW_S, was = 0.0, progress.REDRAW_S  # type: ignore[misc]
    try:
        with Progress("x", out=out) as shown:
            shown.show(Report(entries=1))
            shown.show(Report(entries=2))
    finally:
        progress.REDRAW_S = was  # type: ignore[misc]
    assert out.getvalue().count("\r") == 3
    assert out.getvalue().endswith("\r\x1b[K")
    assert "\n" not in out.getvalue()


def test_elsewhere_nothing_is_drawn_and_a_short_copy_says_nothing() -> None:
    out = io.StringIO()
    with Progress("x", out=out) as shown:
        shown.show(Report(entries=1))
    assert out.getvalue() == ""


def test_amounts_are_read_by_people() -> None:
    assert [amount(size) for size in (0, 999, 1500, 123_456, 7_200_000, 5e12)] == [
        "0 B", "999 B", "1.5 kB", "123 kB", "7.2 MB", "5000 GB",
    ]  # fmt: skip
