"""What has become of the sandboxes that an earlier server left: asked of their nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from skerry.engine.ends import Ends
from skerry.engine.interfaces import NodeHandle, Started, Store
from skerry.engine.live import Live, way
from skerry.model.errors import NotFoundError
from skerry.model.events import Events
from skerry.model.exits import SandboxExit, SandboxReason
from skerry.model.ids import NodeId, SandboxId
from skerry.model.sandboxes import SandboxState, SandboxView

log = Events("skerry.engine")

# A node that knows of an end tells it at once.
_KNOWN_S: Final = 10.0


@dataclass(frozen=True, kw_only=True)
class Missed:
    """An end that came while no server was there; `at` None where nobody knows when."""

    exit: SandboxExit
    state: SandboxState = SandboxState.STOPPED
    at: float | None = None


class Adoption:
    """The sandboxes that an earlier server left, taken up."""

    def __init__(
        self, *, store: Store, nodes: Mapping[NodeId, NodeHandle], live: dict[SandboxId, Live], ends: Ends
    ) -> None:
        self._store = store
        self._nodes = nodes
        self._live = live
        self._ends = ends

    async def run(self) -> None:
        """Give each an entry, or record how it has ended; then remove what belongs to no sandbox."""
        rows = self._store.live_sandboxes()
        for view in rows:
            live = self._live[view.id] = Live(view)
            live.settled.set()
            try:
                await self._adopt_one(live)
            except Exception as exc:  # one sandbox does not keep the server from all others
                log.error("sandbox.adoption_failed", exc=exc, sandbox=view.id)
                await self._ends.finish(live, lost("it could not be adopted; the server's log says why"))
        await remove_strays(self._nodes.values(), self._store, {view.id for view in rows})

    async def _adopt_one(self, live: Live) -> None:
        view = live.view
        found = await find(view, self._nodes.get(view.node))
        if isinstance(found, Missed):
            await self._ends.finish(live, found.exit, found.state, at=found.at)
            return
        live.move(*way(view.state, SandboxState.RUNNING), started_at=view.started_at or found.started_at)
        await self._store.update_sandbox(live.view)
        log.info("sandbox.adopted", sandbox=view.id, node=view.node)


async def find(view: SandboxView, node: NodeHandle | None) -> Started | Missed:
    """Return how a sandbox runs on its node, or how it has ended meanwhile."""
    if node is None:
        return Missed(exit=lost(f"node {view.node} is not there any more"))
    return node.running().get(view.id) or await _missed(view, node)


async def _missed(view: SandboxView, node: NodeHandle) -> Missed:
    try:
        async with asyncio.timeout(_KNOWN_S):
            ended = await node.wait_ended(view.id)
    except NotFoundError:
        if view.started_at is not None:
            return Missed(exit=lost("its node came back without it"))
        end = SandboxExit(reason=SandboxReason.START_FAILED, evidence="the server ended during its start")
        return Missed(exit=end, state=SandboxState.FAILED)
    return Missed(exit=ended.exit, at=ended.at)


async def remove_strays(nodes: Iterable[NodeHandle], store: Store, known: Collection[SandboxId]) -> None:
    """End what runs without a row, and delete the output of what has none."""
    for node in nodes:
        for stray in [sandbox for sandbox in node.running() if sandbox not in known]:
            log.warning("sandbox.stray", sandbox=stray, node=node.view().id)
            await node.terminate(stray, SandboxReason.EVICTED)
        # Of strays, and of builds that a kill cut off: nobody can ask for it any more.
        for orphan in [sandbox for sandbox in node.kept() if store.sandbox(sandbox) is None]:
            log.warning("sandbox.output_of_nobody", sandbox=orphan, node=node.view().id)
            node.forget(orphan)


def lost(evidence: str) -> SandboxExit:
    return SandboxExit(reason=SandboxReason.NODE_LOST, evidence=evidence)
