"""When the bytes of an output channel came, to the second: offsets and times in a file beside its log.

A line is written when a second or more has passed since the last one, so a command that is over within a second costs
none, and one that prints for a day at most 1.4 MB. What cannot be written is left out: its bytes then count as older.
"""

from __future__ import annotations

import contextlib
import os
import struct
from bisect import bisect_right
from pathlib import Path
from typing import Final

STEP_S: Final = 1.0
_ENTRY: Final = struct.Struct("<Qd")


class OutputTimes:
    """The times of one channel, whose first bytes came at `began` or within a second of it."""

    def __init__(self, path: Path, *, began: float) -> None:
        self._path = path
        self._began = began
        self._last = began
        self._count: int | None = None  # of lines in the file, once that is known

    def note(self, offset: int, now: float) -> None:
        """Note that bytes come at `offset`."""
        if 0 <= now - self._last < STEP_S:
            return
        self._last = now
        with contextlib.suppress(OSError):
            self._append(_ENTRY.pack(offset, now))

    def since(self, offset: int) -> list[tuple[int, float]]:
        """Return from which offset on bytes came at which time: first what holds at `offset`, then each later one."""
        entries = [(0, self._began), *self._read()]
        first = bisect_right(entries, offset, key=lambda entry: entry[0]) - 1
        return [(max(at, offset), when) for at, when in entries[max(first, 0) :]]

    def at(self, when: float) -> int | None:
        """Return where the bytes begin that came at `when` or up to a second earlier; None if none came since then."""
        entries = [(0, self._began), *self._read()]
        return next((offset for offset, noted in entries if noted + STEP_S > when), None)

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)

    def _append(self, entry: bytes) -> None:
        """Write a line behind the last whole one: a full disk may have cut the one after it."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if self._count is None:
                self._count = os.fstat(descriptor).st_size // _ENTRY.size
            if os.pwrite(descriptor, entry, self._count * _ENTRY.size) == _ENTRY.size:
                self._count += 1
        finally:
            os.close(descriptor)

    def _read(self) -> list[tuple[int, float]]:
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return []
        whole = len(content) - len(content) % _ENTRY.size
        return list(_ENTRY.iter_unpack(content[:whole]))
