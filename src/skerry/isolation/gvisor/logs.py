"""What a sandbox says on stderr: files in memory whose size is sealed, so that it fills nothing of the machine's.

A sentry that was broken into can write to whatever it holds. A limit on the size of its files (RLIMIT_FSIZE) would also
hit the memory of the guest, which is a file too; a pipe would block it, or make it spin, while no server reads. Beyond
the size a write fails (memfd_create(2), F_SEAL_GROW), which gVisor's log takes for a line that is lost.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Self

from skerry.model.text import printable

LOG_BYTES: Final = 64 << 10
"""Counted as memory of the sandbox once it is written. What is said first is kept, the end of a long story is not."""
SENTRY: Final = "sentry"
GOFER: Final = "gofer"
KEEPER: Final = "keeper"
AGENT: Final = "agent"
ATTACH: Final = "attach"

_PREFIX: Final = "skerry-"
_SEALS: Final = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
_NAMES: Final = (GOFER, SENTRY, KEEPER, AGENT, ATTACH)  # the nearer to the guest, the later it speaks
# These alone: of other names a sentry that was broken into could hold as many as a node may open files.
_LINK: Final = re.compile(rf"/memfd:{_PREFIX}({'|'.join(_NAMES)}) \(deleted\)")
_LAST_BYTES: Final = 4096
_LAST_LINES: Final = 5


class Log:
    """One log. Its descriptor goes to a sandbox, which writes from the beginning."""

    def __init__(self, fd: int) -> None:
        """Take over a descriptor."""
        self.fd = fd

    @classmethod
    def new(cls, name: str) -> Self:
        fd = os.memfd_create(f"{_PREFIX}{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, LOG_BYTES)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        return cls(fd)

    def said(self) -> str:
        """Return the end of what was written; it is a guest's until it has been made printable."""
        written = os.pread(self.fd, LOG_BYTES, 0).rstrip(b"\0")
        return written[-_LAST_BYTES:].decode(errors="replace").replace("\0", "")

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Logs:
    """The logs of one member, by name; closing them leaves them to the sandbox."""

    def __init__(self) -> None:
        self._logs: dict[str, Log] = {}

    @classmethod
    def of(cls, pid: int) -> Self:
        """Return the logs that a sentry of an earlier node holds, as far as it still does."""
        found = cls()
        with contextlib.suppress(OSError):
            for link in Path(f"/proc/{pid}/fd").iterdir():
                found._adopt(link)
        return found

    def new(self, name: str) -> int:
        """Begin a log, in place of an earlier one of that name; return its descriptor, which stays the caller's."""
        log = Log.new(name)
        self._put(name, log)
        return log.fd

    def last_words(self) -> str:
        """Return the last lines of all logs as one line of printable text, empty if nothing was said."""
        return last_lines(log.said() for _, log in sorted(self._logs.items(), key=_by_nearness))

    def close(self) -> None:
        for log in self._logs.values():
            log.close()
        self._logs.clear()

    def _adopt(self, link: Path) -> None:
        """Open a log through the sentry's descriptor, which may be anything by now."""
        with contextlib.suppress(OSError):
            named = _LINK.fullmatch(os.readlink(link))
            if named is None:
                return
            log = Log(os.open(link, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY))
            if stat.S_ISREG(os.fstat(log.fd).st_mode):
                self._put(named[1], log)
            else:
                log.close()

    def _put(self, name: str, log: Log) -> None:
        if name in self._logs:
            self._logs[name].close()
        self._logs[name] = log


def last_lines(texts: Iterable[str]) -> str:
    """Return the last lines of some texts, each once, as one line of printable text."""
    lines = [line.strip() for text in texts for line in text.splitlines()]
    last = [line for line in lines if line][-_LAST_LINES:]
    return printable("; ".join(dict.fromkeys(last)), keep="")


def _by_nearness(named: tuple[str, Log]) -> int:
    """Let what is nearest to the guest speak last."""
    return _NAMES.index(named[0])
