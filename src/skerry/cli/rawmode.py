"""This program's terminal in raw mode: every key is a byte that goes on, and afterwards all is as it was.

A guard, a child of this program, puts the terminal right if this program is gone without having done so: killed with
SIGKILL, say, or crashed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import termios
import tty
from typing import Any, Final, Self

from skerry.cli.modes import RESET
from skerry.model.errors import InvalidError

_IGNORED: Final = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGTSTP,
    signal.SIGTTOU,
    signal.SIGPIPE,
)
_DONE: Final = b"."


class RawTerminal:
    """The terminal behind a descriptor. As a block it is made raw by `begin` and put right at the end."""

    def __init__(self, descriptor: int, *, instead: str, reset: bytes = RESET) -> None:
        """Raise InvalidError if it is no terminal; `instead` says what to do then. The guard writes `reset`."""
        self.descriptor = descriptor
        self._reset = reset
        try:
            self._before: list[Any] = termios.tcgetattr(descriptor)
        except (termios.error, OSError) as exc:
            raise InvalidError(f"stdin is no terminal; {instead}") from exc
        self._raw = False
        self._guard = -1

    def __enter__(self) -> Self:
        self._guard = _start_guard(self.descriptor, self._before, self._reset)
        return self

    def __exit__(self, *exc: object) -> None:
        self.restore()
        with contextlib.suppress(OSError):
            os.write(self._guard, _DONE)
        os.close(self._guard)

    def begin(self) -> None:
        """Make it raw."""
        tty.setraw(self.descriptor, termios.TCSADRAIN)
        self._raw = True

    def restore(self) -> None:
        """Put it right, at once: a window that takes no more bytes must not stop us. May be repeated."""
        if self._raw:
            self._raw = False
            with contextlib.suppress(termios.error, OSError):  # it is gone
                termios.tcsetattr(self.descriptor, termios.TCSANOW, self._before)


def _start_guard(descriptor: int, before: list[Any], reset: bytes) -> int:
    """Return the end of a pipe that tells the guard, by a byte, that all is well; its closing alone, that it is not."""
    reader, writer = os.pipe()
    # Twice, so that the guard is nobody's child who would have to wait for it.
    child = os.fork()
    if child == 0:
        try:
            if os.fork() == 0:
                _guard(reader, writer, descriptor, before, reset)
        finally:
            os._exit(0)  # also where there can be no guard: the program is our parent's to run
    os.close(reader)
    os.waitpid(child, 0)
    return writer


def _guard(reader: int, writer: int, descriptor: int, before: list[Any], reset: bytes) -> None:
    """Wait for the end of the program, and put its terminal right if it did not."""
    try:
        os.setpgid(0, 0)  # what is sent to the program's group is not for us
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)
        os.close(writer)
        if os.read(reader, 1) == b"":
            termios.tcsetattr(descriptor, termios.TCSANOW, before)
            os.write(descriptor, reset)
    finally:
        os._exit(0)
