from __future__ import annotations

import fcntl
import os
import pty
import struct
import termios
from collections.abc import Iterator

import pytest

from skerry.client import terminals
from skerry.model.errors import InvalidError
from skerry.model.specs import Terminal


@pytest.fixture
def window(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A terminal that is this program's stdin."""
    user, its = pty.openpty()
    fcntl.ioctl(user, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    monkeypatch.setattr(terminals, "_STDIN", its)
    yield user
    os.close(user)
    os.close(its)


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A stdin that is no terminal."""
    reader, writer = os.pipe()
    monkeypatch.setattr(terminals, "_STDIN", reader)
    yield
    os.close(reader)
    os.close(writer)


def chosen(*, pty: bool = True, size: object = None) -> Terminal | None:
    return terminals.chosen(pty, size, call="exec")  # type: ignore[arg-type]


def test_a_program_at_a_terminal_passes_its_size_and_type_on(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "vt220")
    monkeypatch.setenv("COLORTERM", "truecolor")
    terminal = chosen()
    assert terminal == Terminal(rows=40, columns=120, term="vt220")
    assert terminals.with_colours({}, terminal) == {"COLORTERM": "truecolor"}
    assert terminals.with_colours({"COLORTERM": "no"}, terminal) == {"COLORTERM": "no"}
    assert terminals.with_colours({}, None) == {}


def test_a_program_without_one_gets_the_usual(pipe: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "vt220")
    monkeypatch.setenv("COLORTERM", "truecolor")
    assert chosen() == Terminal(rows=24, columns=80, term="xterm-256color")
    assert terminals.with_colours({}, chosen()) == {}


@pytest.mark.parametrize("term", ["", "x" * 65, "a b", "\x1b[2J", "t\u00e9rm"])
def test_a_type_that_no_terminal_has_is_not_passed_on(window: int, term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", term)
    assert chosen() == Terminal(rows=40, columns=120, term="xterm-256color")


def test_a_terminal_that_does_not_know_its_size_has_the_usual_one(window: int) -> None:
    fcntl.ioctl(window, termios.TIOCSWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
    terminal = chosen()
    assert terminal is not None
    assert (terminal.rows, terminal.columns) == (24, 80)


def test_a_size_goes_before_the_windows_and_the_standard_librarys_is_understood(window: int) -> None:
    for size in ((10, 20), [10, 20], os.terminal_size((20, 10))):
        terminal = chosen(size=size)
        assert terminal is not None
        assert (terminal.rows, terminal.columns) == (10, 20)


def test_without_a_terminal_there_is_none_and_no_size_either() -> None:
    assert chosen(pty=False) is None
    with pytest.raises(InvalidError, match="say pty=True"):
        chosen(pty=False, size=(24, 80))
    with pytest.raises(InvalidError, match="give True"):
        terminals.chosen("yes", None, call="exec")  # type: ignore[arg-type]
