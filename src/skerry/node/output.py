"""The output of a process: a log for each channel, bounded together, and the sink of its stream.

The agent gets credit for what is stored, as far as the bounds of process, sandbox and node leave room
(`output_quota.py`). So a process whose reader is slow or absent runs on until the bound, and only then waits for an
attached reader, or loses its oldest bytes where there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from skerry.model.events import Events
from skerry.model.limits import OUTPUT_PROCESS_BYTES
from skerry.node.output_log import CHANNEL_BYTES, OutputLog
from skerry.node.output_quota import Ask, SandboxQuota, decide
from skerry.wire.frames import MAX_WINDOW, STDERR, STDOUT

BATCHES: Final = 16
"""At a bound, a sixteenth of the smaller one goes at once."""

PROCESS_BYTES: Final = OUTPUT_PROCESS_BYTES + 2 * MAX_WINDOW
"""The bound, and a window for each channel: without it, credit for a byte that never comes would cost the oldest ones
of a process that wrote exactly as much as is promised."""

log = Events("skerry.node.output")


class ProcessOutput:
    """What one process has written, in `<folder>/<name>.1` and `<folder>/<name>.2`; opened again it goes on.

    That of a `fresh` process has no files yet, and none are looked for. Its kept bytes count in `quota` from the
    beginning until `remove`.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        quota: SandboxQuota,
        began: float = 0.0,
        limit: int = PROCESS_BYTES,
        fresh: bool = False,
    ) -> None:
        self._name = name
        self._quota = quota
        self._limit = limit
        self._logs = {
            channel: OutputLog(folder / f"{name}.{channel}", began=began, on_read=self._on_read, fresh=fresh)
            for channel in (STDOUT, STDERR)
        }
        self._granted: dict[int, int] = {}
        self._wake: Callable[[int], None] | None = None
        self._counted = 0
        quota.add(self)
        self._settle()

    def log(self, channel: int) -> OutputLog:
        """Return the log of channel 1 or 2, to read and follow."""
        return self._logs[channel]

    @property
    def kept(self) -> int:
        """How many bytes are kept, of both channels."""
        return sum(each.kept for each in self._logs.values())

    @property
    def pending(self) -> bool:
        """Whether there are bytes that could not be stored yet, because the disk is full."""
        return any(each.pending for each in self._logs.values())

    # The sink of the process's stream

    def store(self, channel: int, parts: Sequence[memoryview]) -> None:
        failure = self._logs[channel].append(parts)
        self._settle()
        if failure is not None:
            log.warning("output.not_stored", process=self._name, channel=channel, error=str(failure))
            self._quota.wait(self)

    def end(self, channel: int) -> None:
        """Nothing more comes on this channel. May be repeated."""
        self._granted.pop(channel, None)
        self._logs[channel].finish()

    def fail(self, error: Exception) -> None:
        """The stream ended early. Whether output goes on after an attach is for the owner to say, with `end`."""

    def stored(self, channel: int) -> int:
        return self._logs[channel].end

    def room(self, channel: int, window: int) -> int:
        """Return how much more may be sent; at a bound, drop the oldest bytes for it where nobody has to read them."""
        each = self._logs[channel]
        if each.pending or each.end + window > CHANNEL_BYTES:
            return self._refuse()
        node_left, sandbox_left = self._quota.node_left(window), self._quota.left()
        process_left = self._limit - self._counted - self._outstanding(other_than=channel)
        room = window
        if min(node_left, sandbox_left, process_left) < window:
            room = self._make_room(window, node_left, sandbox_left, process_left)
        if not room:
            return self._refuse()
        self._granted[channel] = each.end + room
        return room

    def on_room(self, wake: Callable[[int], None]) -> None:
        self._wake = wake

    # For the quota

    def droppable(self) -> int:
        return sum(each.droppable() for each in self._logs.values())

    def drop(self, size: int) -> int:
        """Drop about `size` of the oldest bytes, first of the channel that keeps the most, and return how many went."""
        dropped = 0
        for channel in sorted(self._logs, key=lambda channel: -self._logs[channel].kept):
            wanted = min(size - dropped, self._logs[channel].droppable())
            if wanted > 0:
                dropped += self._logs[channel].drop(wanted)
        self._settle()
        return dropped

    def recheck(self) -> None:
        """There may be room again: store what waits in memory, and let the link ask."""
        for channel, each in self._logs.items():
            if each.retry() is not None:
                self._quota.wait(self)
            self._settle()
            if self._wake is not None:
                self._wake(channel)

    # The end

    def close(self) -> None:
        """Close the files; what they hold stays and still counts."""
        self._wake = None
        for each in self._logs.values():
            each.close()

    def remove(self) -> None:
        """Delete the files; what they held counts no more."""
        self._wake = None
        for each in self._logs.values():
            each.remove()
        self._settle()
        self._quota.remove(self)

    def _make_room(self, window: int, node_left: int, sandbox_left: int, process_left: int) -> int:
        """Return how much may be sent near a bound, after dropping for it what has to go."""
        verdict = decide(
            Ask(
                window=window,
                node_left=node_left,
                process_left=process_left,
                process_droppable=self.droppable(),
                sandbox_left=sandbox_left,
                sandbox_droppable=self._quota.droppable() if sandbox_left < window else 0,
                batch=min(self._limit, self._quota.limit) // BATCHES,
            )
        )
        self.drop(verdict.drop_process)
        self._quota.drop(verdict.drop_sandbox)
        return verdict.room

    def _settle(self) -> None:
        """Count what has changed."""
        kept = self.kept
        self._quota.count(kept - self._counted)
        self._counted = kept

    def _outstanding(self, *, other_than: int) -> int:
        """Return how much the other channel may still send, which counts as kept already."""
        return sum(
            max(0, limit - self._logs[channel].end) for channel, limit in self._granted.items() if channel != other_than
        )

    def _refuse(self) -> int:
        self._quota.wait(self)
        return 0

    def _on_read(self) -> None:
        """A reader has read on, or has gone: that may be room for whoever waits in this sandbox."""
        self._quota.tell()
