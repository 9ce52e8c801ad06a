"""What has become of the sandboxes that an earlier server left: asked of their nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from skerry.engine.interfaces import NodeHandle, Started, Store
from skerry.model.errors import NotFoundError
from skerry.model.events import Events
from skerry.model.exits import SandboxExit, SandboxReason
from skerry.model.ids import SandboxId
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
