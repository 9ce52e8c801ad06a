"""A person at a terminal: a program started in a window, keys typed into it, what it shows read from it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from typing import Any

PATIENCE_S = 60.0


class Window:
    """A terminal with a program in its foreground, as a shell would start it."""

    def __init__(
        self, argv: Sequence[str], environ: dict[str, str], *, rows: int = 30, columns: int = 100, **streams: Any
    ) -> None:
        self.user, self._its = pty.openpty()
        self.resize(rows, columns)
        self.before = termios.tcgetattr(self._its)
        self.shown = bytearray()
        its = self._its

        def lead() -> None:
            os.setsid()
            fcntl.ioctl(its, termios.TIOCSCTTY, 0)

        stdio = {"stdin": its, "stdout": its, "stderr": its, **streams}
        self.program = subprocess.Popen(list(argv), env=environ, preexec_fn=lead, close_fds=True, **stdio)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.user, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: str | bytes) -> None:
        os.write(self.user, keys.encode() if isinstance(keys, str) else keys)

    def until(self, text: str | bytes, *, after: int = 0) -> int:
        """Read until the window has shown this behind `after`; return where it ends."""
        wanted = text.encode() if isinstance(text, str) else text
        self.wait(lambda: self.shown.find(wanted, after) >= 0, repr(wanted))
        return self.shown.find(wanted, after) + len(wanted)

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """Go on reading until the condition holds."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not come; shown was {bytes(self.shown[-2000:])!r}"
            self.read(0.05)

    def read(self, seconds: float) -> None:
        """Take what is shown within a moment."""
        if select.select([self.user], [], [], seconds)[0]:
            self.shown += os.read(self.user, 65536)

    def ended(self) -> int:
        """Return the exit code of the program once it has ended, with all that it has shown."""
        self.wait(lambda: self.program.poll() is not None, "the end of the program")
        while select.select([self.user], [], [], 0)[0]:
            self.read(0)
        assert self.program.returncode is not None
        return self.program.returncode

    @property
    def is_raw(self) -> bool:
        return not termios.tcgetattr(self._its)[3] & termios.ICANON

    @property
    def is_as_before(self) -> bool:
        return termios.tcgetattr(self._its) == self.before

    def close(self) -> None:
        if self.program.poll() is None:
            self.program.send_signal(signal.SIGKILL)
            self.program.wait()
        for descriptor in (self.user, self._its):
            if descriptor >= 0:
                os.close(descriptor)

    def slam(self) -> None:
        """Close the window while the program runs."""
        os.close(self._its)
        os.close(self.user)
        self.user = self._its = -1
