"""How a sandbox ends: on purpose, or as its node tells; every end is recorded here, whoever saw it first."""

from __future__ import annotations

from collections.abc import Mapping

from skerry.engine.interfaces import Clock, NodeHandle, SandboxEnded, Store
from skerry.engine.live import Live, way
from skerry.engine.placement import Places
from skerry.model.errors import Error, NotFoundError
from skerry.model.events import Events
from skerry.model.exits import SandboxExit, SandboxReason
from skerry.model.ids import NodeId, SandboxId
from skerry.model.sandboxes import SandboxState
from skerry.model.text import escaped

log = Events("skerry.engine")


class Ends:
    """The ends of all sandboxes."""

    def __init__(
        self,
        *,
        store: Store,
        nodes: Mapping[NodeId, NodeHandle],
        live: dict[SandboxId, Live],
        places: Places,
        clock: Clock,
    ) -> None:
        """`live` are the entries of the sandboxes that have not ended; an end takes its own out."""
        self._store = store
        self._nodes = nodes
        self._live = live
        self._places = places
        self._clock = clock

    async def terminate(self, live: Live) -> None:
        """End a sandbox whose start is over."""
        if live.view.state is SandboxState.RUNNING:
            live.move(SandboxState.STOPPING)
        try:
            end = await self._nodes[live.view.node].terminate(live.view.id)
        except NotFoundError:
            end = SandboxExit(reason=SandboxReason.NODE_LOST, evidence="its node does not know it")
        await self.finish(live, end)

    async def follow(self, node: NodeHandle) -> None:
        """Record every end that a node tells of."""
        async for ended in node.ended_since_start():
            try:
                await self._end_told(ended)
            except (Error, OSError) as exc:  # the others must be told all the same
                log.error("sandbox.end_not_recorded", exc=exc, sandbox=ended.sandbox)

    async def _end_told(self, ended: SandboxEnded) -> None:
        live = self._live.get(ended.sandbox)
        if live is not None:
            await self.finish(live, ended.exit, at=ended.at)

    async def finish(
        self,
        live: Live,
        end: SandboxExit,
        state: SandboxState = SandboxState.STOPPED,
        *,
        at: float | None = None,
    ) -> None:
        """Record the end, once; it shows to others when it is on disk."""
        if live.finishing:
            return
        live.finishing = True
        live.move(*way(live.view.state, state), exit=end, ended_at=self._clock.now() if at is None else at)
        try:
            await self._store.update_sandbox(live.view)
        except Exception as exc:
            # The entry stays and tells the end until the server's; its successor asks the node again.
            log.error("sandbox.end_not_kept", exc=exc, sandbox=live.view.id)
        else:
            self.withdraw(live)
        finally:
            self._places.release(live.view.id)
            live.ended.set()
        log.info(
            "sandbox.ended",
            sandbox=live.view.id,
            reason=end.reason.value,
            code=end.code,
            signal=end.signal,
            evidence=escaped(end.evidence),
        )

    def withdraw(self, live: Live) -> None:
        """Take its entry out, and let go of its place."""
        self._places.release(live.view.id)
        self._live.pop(live.view.id, None)
