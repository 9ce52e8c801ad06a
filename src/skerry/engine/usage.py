"""What sandboxes take from the machine. It is measured when somebody asks, and only then."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from skerry.engine.interfaces import Clock, NodeHandle
from skerry.engine.sandboxes import Sandboxes
from skerry.model.ids import NodeId, SandboxId
from skerry.model.usage import SandboxUsage

FRESH_S: Final = 0.5
"""How old a sample may be that is given to somebody else: many who look cost as much as one."""


class Usage:
    """The samples of all running sandboxes."""

    def __init__(self, *, sandboxes: Sandboxes, nodes: Mapping[NodeId, NodeHandle], clock: Clock) -> None:
        self._sandboxes = sandboxes
        self._nodes = nodes
        self._clock = clock
        self._last: dict[SandboxId, tuple[float, SandboxUsage]] = {}
        self._turn = asyncio.Lock()

    async def sample(self, sandbox: SandboxId | None = None) -> Sequence[SandboxUsage]:
        """Return a sample of each running sandbox, or of one; raises NotFoundError for one that is not known."""
        running = self._sandboxes.running()
        if sandbox is not None:
            view = self._sandboxes.get(sandbox)
            running = {view.node: [sandbox]} if sandbox in running.get(view.node, ()) else {}
        async with self._turn:
            for node, some in running.items():
                await self._measure(node, self._stale(some))
            alive = {one for some in self._sandboxes.running().values() for one in some}
            self._last = {one: last for one, last in self._last.items() if one in alive}
        return [self._last[one][1] for some in running.values() for one in some if one in self._last]

    def _stale(self, sandboxes: Collection[SandboxId]) -> list[SandboxId]:
        now = self._clock.monotonic()
        return [one for one in sandboxes if one not in self._last or now - self._last[one][0] >= FRESH_S]

    async def _measure(self, node: NodeId, sandboxes: Collection[SandboxId]) -> None:
        for usage in await self._nodes[node].usage(sandboxes):
            self._last[usage.id] = (self._clock.monotonic(), usage)
