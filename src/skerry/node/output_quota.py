"""How much output may be kept, on a node and in each sandbox, and who has to wait when there is no more room.

Whether a sender may send on is decided by `decide`, from numbers alone. Its rules, in this order:

- Nobody gets credit while the disk has no more than its reserve free, so that the database can be written.
- When the node keeps more than its total, a sandbox above its share gets no credit; nobody's bytes go for it.
- At the bound of a process, or of its sandbox, the oldest bytes that no attached reader still has to read go. If that
  is not enough, a reader is attached, and the process waits for it as on any pipe.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from skerry.model.limits import GIB, OUTPUT_SANDBOX_BYTES

NODE_BYTES: Final = 64 * GIB
RESERVE_BYTES: Final = 1 * GIB
LOOK_S: Final = 0.01
POLL_S: Final = 1.0
"""How often a full disk is looked at while somebody waits for it; there is no event for that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A sender wants to send on by a `window`. What is left may be negative where a bound is exceeded."""

    window: int
    node_left: int
    process_left: int
    process_droppable: int
    sandbox_left: int
    sandbox_droppable: int
    batch: int


class Verdict(NamedTuple):
    """How much may be sent on, once as much was dropped from the process and then from its sandbox."""

    room: int
    drop_process: int = 0
    drop_sandbox: int = 0


def decide(ask: Ask) -> Verdict:
    """Tell whether a sender may send on. It waits rather than get less than half a window, which makes small frames."""
    if ask.node_left < ask.window:
        return Verdict(0)
    from_process = _to_drop(ask.window - ask.process_left, ask.process_droppable, ask.batch)
    missing = ask.window - ask.sandbox_left - from_process
    from_sandbox = _to_drop(missing, max(0, ask.sandbox_droppable - from_process), ask.batch)
    room = min(
        ask.window,
        ask.process_left + from_process,
        ask.sandbox_left + from_process + from_sandbox,
    )
    if 2 * room < ask.window:
        return Verdict(0)
    return Verdict(room, from_process, from_sandbox)


def _to_drop(missing: int, droppable: int, batch: int) -> int:
    """Return how much to drop where `missing` bytes are needed: a batch, so that it is not done for every frame."""
    return min(droppable, max(missing, batch)) if missing > 0 else 0


class KeptOutput(Protocol):
    """The output of one process, as its sandbox's quota sees it."""

    def droppable(self) -> int: ...

    def drop(self, size: int) -> int:
        """Drop about `size` of its oldest bytes and return how many went."""

    def recheck(self) -> None:
        """There may be room again."""


class NodeQuota:
    """The output of all sandboxes of a node. `free_bytes` tells the free space of the disk that holds it."""

    def __init__(
        self,
        free_bytes: Callable[[], int],
        *,
        total: int = NODE_BYTES,
        reserve: int = RESERVE_BYTES,
        poll_s: float = POLL_S,
    ) -> None:
        self._free_bytes = free_bytes
        self._total = total
        self._reserve = reserve
        self._poll_s = poll_s
        self._sandboxes: set[SandboxQuota] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.used = 0

    def sandbox(self, *, limit: int = OUTPUT_SANDBOX_BYTES) -> SandboxQuota:
        """Return the quota of one more sandbox, which counts until it is closed."""
        quota = SandboxQuota(self, limit=limit)
        self._sandboxes.add(quota)
        return quota

    def left(self, used: int, window: int) -> int:
        """Return how much more a sandbox that keeps `used` bytes may have, as far as the node is concerned."""
        disk = self._free_bytes() - self._reserve
        if self.used + window <= self._total:
            return disk
        return min(disk, self._total // max(1, len(self._sandboxes)) - used)

    def count(self, change: int) -> None:
        self.used += change

    def forget(self, quota: SandboxQuota) -> None:
        """Let a sandbox go; the share of the others grows."""
        self._sandboxes.discard(quota)
        self.tell()

    def tell(self) -> None:
        """Let everybody who waits ask again."""
        for quota in list(self._sandboxes):
            quota.tell()

    def watch(self) -> None:
        """See to it that whoever waits asks again before long, even if nothing tells of room: the disk does not."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._poll_s, self._look)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        self.tell()


class SandboxQuota:
    """The output of one sandbox: what its processes keep, oldest process first."""

    def __init__(self, node: NodeQuota, *, limit: int) -> None:
        self._node = node
        self._outputs: dict[KeptOutput, None] = {}
        self._waiting: dict[KeptOutput, None] = {}
        self._closed = False
        self.limit = limit
        self.used = 0

    def add(self, output: KeptOutput) -> None:
        self._outputs[output] = None

    def remove(self, output: KeptOutput) -> None:
        """Let the output of a process go, once it counts nothing any more."""
        self._outputs.pop(output, None)
        self._waiting.pop(output, None)
        self._node.tell()

    def count(self, change: int) -> None:
        """Count bytes that were stored, or with a minus dropped."""
        if not self._closed:
            self.used += change
            self._node.count(change)

    def left(self) -> int:
        return self.limit - self.used

    def node_left(self, window: int) -> int:
        return self._node.left(self.used, window)

    def droppable(self) -> int:
        return sum(output.droppable() for output in self._outputs)

    def drop(self, size: int) -> None:
        """Drop the oldest bytes of the oldest processes."""
        for output in self._outputs:
            if size <= 0:
                return
            size -= output.drop(size)

    def wait(self, output: KeptOutput) -> None:
        """Have an output rechecked when there may be room again."""
        self._waiting[output] = None
        self._node.watch()

    def tell(self) -> None:
        """Let those who wait ask again."""
        waiting, self._waiting = self._waiting, {}
        for output in waiting:
            output.recheck()

    def close(self) -> None:
        """The sandbox and its output are gone, and count no more."""
        self.count(-self.used)
        self._closed = True
        self._outputs.clear()
        self._waiting.clear()
        self._node.forget(self)


def free_bytes_of(folder: Path) -> Callable[[], int]:
    """Return a function that tells the free space of the file system of a folder, as it was at most LOOK_S ago.

    It is asked some times in each exec; what a disk takes meanwhile is small beside the reserve.
    """
    free, until = 0, 0.0

    def free_bytes() -> int:
        nonlocal free, until
        now = time.monotonic()
        if now >= until:
            found = os.statvfs(folder)
            free, until = found.f_bavail * found.f_frsize, now + LOOK_S
        return free

    return free_bytes
