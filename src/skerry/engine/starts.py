"""How a sandbox comes to run: its place and its row, then its node; and what becomes of a start that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from skerry.engine.ends import Ends
from skerry.engine.interfaces import Clock, Launch, NodeHandle, RootImage, Started, Store
from skerry.engine.live import Live
from skerry.engine.placement import Places
from skerry.engine.tasks import Tasks
from skerry.model import ids as prefixes
from skerry.model.errors import Error, ResourceExhaustedError, ServerUnavailableError, StartFailedError
from skerry.model.events import Events
from skerry.model.exits import SandboxExit, SandboxReason
from skerry.model.ids import Ids, NodeId, ProcessId, SandboxId
from skerry.model.sandboxes import SandboxState, SandboxView
from skerry.model.secrets import Hidden
from skerry.model.specs import SandboxSpec
from skerry.model.text import escaped

log = Events("skerry.engine")

# Two sandboxes never share a time of creation, so that a list can be continued strictly before one.
_TICK_S = 1e-6


class Starts:
    """The starts of all sandboxes."""

    def __init__(
        self,
        *,
        store: Store,
        nodes: Mapping[NodeId, NodeHandle],
        live: dict[SandboxId, Live],
        places: Places,
        ends: Ends,
        clock: Clock,
        ids: Ids,
    ) -> None:
        """`live` gets an entry for each sandbox that begins."""
        self._store = store
        self._nodes = nodes
        self._live = live
        self._places = places
        self._ends = ends
        self._clock = clock
        self._ids = ids
        self._last_created = 0.0
        self._tasks: Tasks | None = None

    def supervise(self, tasks: Tasks, *, last_created: float) -> None:
        """Let `tasks` own the starts from now on; each sandbox is younger than one created at `last_created`."""
        self._tasks = tasks
        self._last_created = last_created

    async def begin(
        self, spec: SandboxSpec, hidden: Hidden, image: RootImage, *, app_name: str | None, key: str | None
    ) -> Live:
        """Place the sandbox, write its row and begin its start; or return the one that the key made meanwhile."""
        sandbox = SandboxId(self._ids.new(prefixes.SANDBOX))
        node = self._places.take(sandbox, spec.resources)
        command = spec.entrypoint or image.config.command
        entrypoint = ProcessId(self._ids.new(prefixes.PROCESS)) if command else None
        live = Live(
            SandboxView(
                id=sandbox,
                spec=spec.without_access(),
                state=SandboxState.PENDING,
                node=node,
                created_at=self._next_created(),
                app_name=app_name,
                entrypoint=entrypoint,
            )
        )
        live.move(SandboxState.STARTING)
        self._live[sandbox] = live
        launch = Launch(sandbox=sandbox, spec=spec, image=image, entrypoint=entrypoint)
        # The row is there long before it runs; a sandbox without one would be ended by the next server.
        start = self._owner().start(self._start(live, launch, hidden), name=f"start of {sandbox}")
        try:
            kept = await self._store.put_sandbox(live.view, idempotency_key=key)
        except BaseException:
            await asyncio.shield(self._take_back(live, start))
            raise
        if kept.id != sandbox:
            await asyncio.shield(self._take_back(live, start))
            return self._live.get(kept.id) or Live(kept)
        return live

    async def _take_back(self, live: Live, start: asyncio.Task[None]) -> None:
        """Undo a start that has no row of its own: the write has failed, or its key had made another."""
        start.cancel()
        await asyncio.wait([start])
        self._ends.withdraw(live)
        if live.view.state is SandboxState.RUNNING:  # the write took longer than the start
            node = self._nodes[live.view.node]
            await node.terminate(live.view.id)
            node.forget(live.view.id)

    async def _start(self, live: Live, launch: Launch, hidden: Hidden) -> None:
        node = self._nodes[live.view.node]
        self._places.release(live.view.id)  # from here on the node counts it
        try:
            started = await node.start(launch, hidden)
        except ResourceExhaustedError as exc:
            await self._discard(live, exc)
        except Exception as exc:
            await self._start_failed(live, exc)
        else:
            await self._started(live, started)
        finally:
            live.failure = live.failure or _interrupted(live)
            live.settled.set()

    async def _started(self, live: Live, started: Started) -> None:
        # Its end may have been told already: a program that exits at once.
        states = (SandboxState.RUNNING,) if live.view.state is SandboxState.STARTING else ()
        live.move(*states, started_at=started.started_at, stages=started.stages)
        live.settled.set()  # whoever waits need not wait for the row: a successor hears from the node that it runs
        await self._store.update_sandbox(live.view)
        log.info(
            "sandbox.started",
            sandbox=live.view.id,
            node=live.view.node,
            image=live.view.spec.image,
            ms=round(sum(stage.ms for stage in started.stages), 1),
        )

    async def _start_failed(self, live: Live, exc: Exception) -> None:
        if isinstance(exc, Error):
            live.failure = exc
        else:
            log.error("sandbox.start_failed", exc=exc, sandbox=live.view.id)
            live.failure = StartFailedError(f"sandbox {live.view.id} could not be started; the server's log says why")
        evidence = escaped(live.failure.message)
        await self._ends.finish(
            live, SandboxExit(reason=SandboxReason.START_FAILED, evidence=evidence), SandboxState.FAILED
        )

    async def _discard(self, live: Live, exc: ResourceExhaustedError) -> None:
        """Forget a sandbox that never had a place: the same request may succeed later."""
        live.failure = exc
        await self._store.delete_sandbox(live.view.id)
        live.move(SandboxState.FAILED, ended_at=self._clock.now())
        self._ends.withdraw(live)
        live.ended.set()

    def _owner(self) -> Tasks:
        if self._tasks is None:
            raise ServerUnavailableError("the server is not running yet; try again")
        return self._tasks

    def _next_created(self) -> float:
        self._last_created = max(self._clock.now(), self._last_created + _TICK_S)
        return self._last_created


def _interrupted(live: Live) -> Error | None:
    """Return the error of a start that was cut off by the end of the server."""
    if live.view.state is not SandboxState.STARTING:
        return None
    return ServerUnavailableError(f"the server stopped while sandbox {live.view.id} was starting; try again")
