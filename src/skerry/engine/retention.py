"""How long ended sandboxes are remembered, and their output kept."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from skerry.engine.interfaces import Clock, NodeHandle, Store
from skerry.engine.tasks import repeat
from skerry.model import limits
from skerry.model.events import Events
from skerry.model.ids import NodeId, SandboxId
from skerry.model.sandboxes import EndedRow

log = Events("skerry.engine")


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What is kept of ended sandboxes: whichever bound is reached first."""

    age_s: float = 24 * 3600.0
    rows: int = 10_000
    output_bytes: int = 10 * limits.GIB
    every_s: float = 60.0


@dataclass(frozen=True, kw_only=True)
class EndedSandbox:
    """One ended sandbox, as the decision sees it."""

    id: SandboxId
    ended_at: float
    output_bytes: int


def expired(kept: Iterable[EndedSandbox], *, now: float, bounds: Bounds) -> list[SandboxId]:
    """Return the sandboxes to forget: too old, or beyond the newest that fit into the bounds."""
    rows = size = 0
    goes: list[SandboxId] = []
    for one in sorted(kept, key=lambda one: one.ended_at, reverse=True):
        rows, size = rows + 1, size + one.output_bytes
        if now - one.ended_at > bounds.age_s or rows > bounds.rows or size > bounds.output_bytes:
            goes.append(one.id)
    return goes


class Retention:
    """Forgets ended sandboxes, row and output together."""

    def __init__(
        self, *, store: Store, nodes: Mapping[NodeId, NodeHandle], clock: Clock, bounds: Bounds | None = None
    ) -> None:
        self._store = store
        self._nodes = nodes
        self._clock = clock
        self._bounds = bounds or Bounds()

    async def run(self) -> None:
        """Sweep now, and every minute."""
        await repeat(self.sweep, clock=self._clock, every_s=self._bounds.every_s, log=log, failed="retention.failed")

    @property
    def bounds(self) -> Bounds:
        """What is kept without anybody asking."""
        return self._bounds

    def look(self, bounds: Bounds | None = None) -> tuple[list[EndedSandbox], set[SandboxId]]:
        """Return every ended sandbox, and those that `sweep` would forget."""
        rows = self._store.ended_sandboxes()
        kept = [EndedSandbox(id=row.id, ended_at=row.ended_at, output_bytes=self._size(row)) for row in rows]
        return kept, set(expired(kept, now=self._clock.now(), bounds=bounds or self._bounds))

    async def sweep(self, bounds: Bounds | None = None) -> Collection[SandboxId]:
        """Forget what is beyond the bounds, or beyond those given; return what was forgotten."""
        rows = self._store.ended_sandboxes()
        _, goes = self.look(bounds)
        for row in rows:
            if row.id in goes:
                await self._forget(row)
        if goes:
            log.info("retention.swept", sandboxes=len(goes), kept=len(rows) - len(goes))
        return goes

    async def _forget(self, row: EndedRow) -> None:
        node = self._nodes.get(row.node)
        if node is not None:
            node.forget(row.id)  # before the row: without a row nobody would know of the output
        await self._store.delete_sandbox(row.id)

    def _size(self, row: EndedRow) -> int:
        node = self._nodes.get(row.node)
        return 0 if node is None else node.output_bytes(row.id)
