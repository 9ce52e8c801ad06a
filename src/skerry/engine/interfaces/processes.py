"""What the engine asks of a process in a sandbox, and of its output."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from skerry.model.exits import ProcessExit
from skerry.model.sandboxes import ProcessView


class Output(Protocol):
    """One output channel of a process: bytes addressed by offset."""

    @property
    def base(self) -> int:
        """The oldest offset still kept."""

    @property
    def end(self) -> int: ...

    @property
    def ended(self) -> bool: ...

    async def read_old(self, offset: int, limit: int) -> tuple[int, bytes]:
        """Return what is kept at `offset`, or at `base` if that is later, and the offset at which it begins."""

    def times(self, offset: int) -> Sequence[tuple[int, float]]:
        """Return when the bytes from `offset` on came: pairs of offset and Unix seconds, the first for `offset`."""

    def offset_at(self, when: float) -> int:
        """Return where the bytes begin that came at a time or later, to the second; `end` if none did."""

    def follow(self, offset: int) -> AsyncIterator[tuple[int, bytes | memoryview]]:
        """Yield `(offset, bytes)` from `offset`, or from `base` if that is later, until the channel has ended."""


class ProcessHandle(Protocol):
    """A process in a sandbox, live or ended, as long as its output is kept."""

    @property
    def view(self) -> ProcessView: ...

    def output(self, channel: int) -> Output:
        """Channel 1 is stdout, 2 stderr."""

    @property
    def stdin_acknowledged(self) -> int:
        """How many bytes of stdin the process has taken."""

    @property
    def stdin_sent(self) -> int:
        """How many bytes of stdin were written, by whoever did, whether or not they are taken yet."""

    async def write_stdin(self, offset: int, data: bytes | memoryview, *, known: int | None = None) -> int:
        """Send bytes whose first has this offset, waiting while the process takes none; return what is acknowledged.

        That may be less than what was sent: it is told in batches. Bytes already taken are dropped; a gap, or a closed
        stdin, raises ConflictError. So does, with `details["writer"]`, what somebody else has written beyond the
        `known` bytes: those of the caller would be taken for a repetition of it.
        """

    async def end_stdin(self) -> None: ...

    async def signal(self, number: int) -> None:
        """Send a signal to the process group; a process that has ended is left alone."""

    async def resize(self, rows: int, columns: int) -> None:
        """Resize the terminal, and tell its foreground process group; raises ConflictError if there is none."""

    async def wait(self) -> ProcessExit: ...

    async def drain(self, still_s: float) -> None:
        """Let the output of an ended process arrive, until its channels end or nothing more comes for so long."""
