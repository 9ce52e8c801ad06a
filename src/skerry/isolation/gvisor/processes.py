"""Processes of the machine: told apart by pid and start time, watched and killed through pidfds."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProcessKey:
    """Which process: a pid alone may have been given to another one since."""

    pid: int
    start: int  # field 22 of /proc/PID/stat, in clock ticks since the machine's boot

    def alive(self) -> bool:
        """Tell whether it runs; one that has ended and waits for its parent does not."""
        return key_of(self.pid) == self


def key_of(pid: int) -> ProcessKey | None:
    """Return the key of a process that runs, or None."""
    try:
        raw = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the name in parentheses and may hold anything, parentheses and spaces too.
    fields = raw[raw.rindex(b")") + 2 :].split()
    if fields[0] in b"ZX":
        return None
    return ProcessKey(pid, int(fields[19]))


class Watch:
    """One process held by a pidfd: it can be waited for and killed, and never mistaken for another with its pid."""

    def __init__(self, key: ProcessKey) -> None:
        """Raise ProcessLookupError if the process has ended."""
        self.key = key
        self._pidfd = os.pidfd_open(key.pid)
        self._over = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        if not key.alive():
            self.close()
            raise ProcessLookupError(f"process {key.pid} has ended")

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def ended(self) -> None:
        """Return when the process has ended; any number of tasks may wait."""
        if self._loop is None and self._pidfd >= 0:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._pidfd, self._notice)
        await self._over.wait()

    def close(self) -> None:
        """Let go of it; whoever still waits is told that it has ended."""
        self._notice()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def _notice(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self._pidfd)
            self._loop = None
        self._over.set()


def reap(pid: int) -> None:
    """Collect a child of ours that has ended; of another's, say nothing."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def arguments_of(pid: int) -> list[str]:
    """Return the arguments of a process; none if it has ended, or has none."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return raw.decode(errors="replace").rstrip("\0").split("\0") if raw else []


def all_arguments() -> Iterator[tuple[int, list[str]]]:
    """The pid and the arguments of every process that has some."""
    for entry in Path("/proc").iterdir():
        arguments = arguments_of(int(entry.name)) if entry.name.isdigit() else []
        if arguments:
            yield int(entry.name), arguments
