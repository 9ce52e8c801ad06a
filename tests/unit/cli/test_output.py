from __future__ import annotations

import json

import pytest

from skerry.cli.output import command_line, duration, print_json, print_table


def test_what_came_from_a_sandbox_cannot_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("ID", "COMMAND"), [("sb_1", "echo \x1b[2J\n\x07"), ("sb_22", "x")])
    assert capsys.readouterr().out.splitlines() == [
        "ID     COMMAND",
        "sb_1   echo \\x1b[2J\\x0a\\x07",
        "sb_22  x",
    ]
    print_json({"text": "\x1b[2J\u202e"})
    out = capsys.readouterr().out
    assert out.isascii()
    assert json.loads(out) == {"text": "\x1b[2J\u202e"}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0s"), (0, "0s"), (59.9, "59s"), (60, "1m"), (3599, "59m 59s"), (3660, "1h 1m"), (90000, "1d 1h")],
)
def test_a_length_of_time_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_command_is_shown_as_a_shell_takes_it() -> None:
    assert command_line(["sh", "-c", "echo a b"]) == "sh -c 'echo a b'"
    assert command_line(["x" * 50]) == "x" * 39 + "…"
