"""Sandboxes: created, found again, waited for, terminated.

A live sandbox has one entry here, which is the truth about it; the store has what must outlive the server. Every move
of state goes through `Live.move`, every end through `_finish`, whoever saw it first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from skerry.engine.admission import admit, check_env, check_tags, default_resources
from skerry.engine.adoption import Missed, find, lost, remove_strays
from skerry.engine.interfaces import Clock, Images, Launch, NodeHandle, NodeView, SandboxEnded, Started, Store
from skerry.engine.live import Live, ended_error, way
from skerry.engine.placement import Places
from skerry.engine.requests import asked, check_key, without_access
from skerry.engine.secrets import Secrets
from skerry.engine.tasks import Tasks
from skerry.engine.volumes import Volumes
from skerry.model import ids as prefixes
from skerry.model.errors import (
    Error,
    InvalidError,
    NotFoundError,
    ResourceExhaustedError,
    ServerUnavailableError,
    StartFailedError,
)
from skerry.model.events import Events
from skerry.model.exits import SandboxExit, SandboxReason
from skerry.model.ids import Ids, ImageId, NodeId, ProcessId, SandboxId, VolumeId
from skerry.model.sandboxes import SandboxFilter, SandboxState, SandboxView
from skerry.model.secrets import Hidden, SecretAsk, sources
from skerry.model.specs import Resources, SandboxSpec
from skerry.model.text import escaped

log = Events("skerry.engine")

LIST_MAX = 1000
# Two sandboxes never share a time of creation, so that a list can be continued strictly before one.
_TICK_S = 1e-6


class Sandboxes:
    """Every sandbox of this server."""

    def __init__(
        self,
        *,
        store: Store,
        nodes: Mapping[NodeId, NodeHandle],
        images: Images,
        volumes: Volumes,
        secrets: Secrets,
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._store = store
        self._nodes = nodes
        self._images = images
        self._volumes = volumes
        self._secrets = secrets
        self._clock = clock
        self._ids = ids
        self._live: dict[SandboxId, Live] = {}
        self._places = Places(nodes)
        self._last_created = 0.0
        self._tasks: Tasks | None = None

    @property
    def live_count(self) -> int:
        """How many sandboxes have not ended."""
        return sum(not live.view.state.ended for live in self._live.values())

    def images_in_use(self) -> Collection[ImageId]:
        """Return the images of all sandboxes that have not ended."""
        return {live.view.spec.image for live in self._live.values() if not live.view.state.ended}

    def users_of(self, volume: VolumeId) -> Collection[SandboxId]:
        """Return the sandboxes that have not ended and mount a volume."""
        return {
            sandbox
            for sandbox, live in self._live.items()
            if not live.view.state.ended and any(one.volume == volume for one in live.view.spec.volumes)
        }

    async def supervise(self, tasks: Tasks) -> None:
        """Take up what an earlier server left, and follow the ends of all nodes for as long as `tasks` runs."""
        self._tasks = tasks
        newest = self._store.sandboxes(SandboxFilter(include_ended=True, limit=1))
        self._last_created = newest[0].created_at if newest else 0.0
        await self._adopt()
        for identifier, node in self._nodes.items():
            tasks.start(self._follow_ends(node), name=f"ends of {identifier}")

    def default_resources(self) -> Resources:
        """Return what a sandbox gets that asks for nothing."""
        return default_resources(self._largest_node())

    async def create(
        self, spec: SandboxSpec, *, secrets: Sequence[SecretAsk] = (), idempotency_key: str | None = None
    ) -> SandboxView:
        """Return the sandbox once it runs; with a key that was used before, what the first call made.

        Its processes have the variables of `secrets` too, below those of the spec. Raises InvalidError, NotFoundError
        (image, app, volume, secret), AlreadyExistsError (name) and ResourceExhaustedError at once, StartFailedError.
        """
        spec = admit(replace(spec, secrets=sources(secrets)), self._largest_node())
        if idempotency_key is not None:
            check_key(idempotency_key)
            first = self._store.sandbox_by_key(idempotency_key)
            if first is not None:
                return self._shown(await self._outcome(first, spec))
        hidden = await self._secrets.resolve(secrets)
        check_env({**hidden.reveal(), **spec.env})
        live = await self._record(spec, hidden, idempotency_key)
        return self._shown(await self._outcome(live.view, spec))

    def get(self, sandbox: SandboxId) -> SandboxView:
        """Raises NotFoundError."""
        live = self._live.get(sandbox)
        view = live.view if live else self._store.sandbox(sandbox)
        if view is None:
            raise NotFoundError(
                f"there is no sandbox {escaped(sandbox, limit=64)!r}; an ended one is forgotten after some time"
            )
        return self._shown(view)

    def list(self, which: SandboxFilter) -> Sequence[SandboxView]:
        """Return the sandboxes, newest first, at most 1,000."""
        if not 1 <= which.limit <= LIST_MAX:
            raise InvalidError(f"limit is {which.limit}; give 1 to {LIST_MAX}")
        return [
            self._shown(self._live[view.id].view) if view.id in self._live else view
            for view in self._store.sandboxes(which)
        ]

    async def wait(self, sandbox: SandboxId) -> SandboxView:
        """Return the sandbox once it has ended."""
        live = self._live.get(sandbox)
        if live is not None:
            await live.ended.wait()
            return live.view
        return self.get(sandbox)

    async def terminate(self, sandbox: SandboxId) -> SandboxView:
        """Return the ended sandbox; one that had ended keeps its first exit."""
        live = self._live.get(sandbox)
        if live is None:
            return self.get(sandbox)
        await live.settled.wait()
        if not live.view.state.ended:
            await self._terminate(live)
        await live.ended.wait()
        return live.view

    def running(self) -> Mapping[NodeId, Sequence[SandboxId]]:
        """Return the sandboxes that run, by their node."""
        found: dict[NodeId, list[SandboxId]] = {}
        for live in self._live.values():
            if live.view.state is SandboxState.RUNNING:
                found.setdefault(live.view.node, []).append(live.view.id)
        return found

    def live_output(self) -> Sequence[tuple[SandboxId, int]]:
        """Return how much output is kept of each sandbox that has not ended."""
        views = [live.view for live in self._live.values() if not live.view.state.ended]
        return [(view.id, self._nodes[view.node].output_bytes(view.id)) for view in views]

    @asynccontextmanager
    async def use(self, sandbox: SandboxId) -> AsyncIterator[None]:
        """Keep the sandbox from being idle while the block lasts; a door does so for each open stream.

        Of a sandbox that has ended, or that nobody knows, nothing is kept: what is asked of it says so.
        """
        live = self._live.get(sandbox)
        if live is not None:
            await live.settled.wait()
        if live is None or live.view.state.ended:
            yield
            return
        with self._nodes[live.view.node].use(sandbox):
            yield

    async def set_tags(self, sandbox: SandboxId, tags: Mapping[str, str]) -> SandboxView:
        """Replace the tags of a sandbox, running or ended, and return it; raises NotFoundError, InvalidError."""
        check_tags(tags)
        self.get(sandbox)
        await self._store.set_tags(sandbox, tags)
        live = self._live.get(sandbox)
        if live is not None:
            live.move(spec=replace(live.view.spec, tags=dict(tags)))
        return self.get(sandbox)

    def node_of(self, sandbox: SandboxId) -> NodeHandle:
        """Return the node that has this sandbox, or had it and keeps its output; raises NotFoundError."""
        view = self.get(sandbox)
        node = self._nodes.get(view.node)
        if node is None:
            raise NotFoundError(f"node {view.node} of sandbox {sandbox} is gone, and its output with it")
        return node

    async def running_node(self, sandbox: SandboxId) -> NodeHandle:
        """Return the node of a sandbox that runs, after its start if need be; raises SandboxEndedError."""
        live = self._live.get(sandbox)
        if live is not None:
            await live.settled.wait()
        view = self.get(sandbox)
        if view.state.ended:
            raise ended_error(view)
        return self.node_of(sandbox)

    # How a sandbox comes to run

    async def _record(self, spec: SandboxSpec, hidden: Hidden, key: str | None) -> Live:
        """Place the sandbox, write its row and begin its start; or return the one that the key made meanwhile."""
        image = self._images.root(spec.image)
        for mount in spec.volumes:
            self._volumes.get(mount.volume)
        sandbox = SandboxId(self._ids.new(prefixes.SANDBOX))
        app_name = self._app_name(spec)
        node = self._places.take(sandbox, spec.resources)
        command = spec.entrypoint or image.config.command
        entrypoint = ProcessId(self._ids.new(prefixes.PROCESS)) if command else None
        live = Live(
            SandboxView(
                id=sandbox,
                spec=without_access(spec),
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
        self._withdraw(live)
        if live.view.state is SandboxState.RUNNING:  # the write took longer than the start
            node = self._nodes[live.view.node]
            await node.terminate(live.view.id)
            node.forget(live.view.id)

    def _withdraw(self, live: Live) -> None:
        self._places.release(live.view.id)
        self._live.pop(live.view.id, None)

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
        await self._finish(live, SandboxExit(reason=SandboxReason.START_FAILED, evidence=evidence), SandboxState.FAILED)

    async def _discard(self, live: Live, exc: ResourceExhaustedError) -> None:
        """Forget a sandbox that never had a place: the same request may succeed later."""
        live.failure = exc
        await self._store.delete_sandbox(live.view.id)
        live.move(SandboxState.FAILED, ended_at=self._clock.now())
        self._withdraw(live)
        live.ended.set()

    async def _outcome(self, view: SandboxView, spec: SandboxSpec) -> SandboxView:
        """Return what came of a create, once that is known."""
        if asked(view.spec) != asked(spec):
            raise InvalidError(f"the idempotency key was used for another request, which made {view.id}; use a new key")
        live = self._live.get(view.id)
        if live is None:
            return _created(self.get(view.id))
        await live.settled.wait()
        if live.failure is not None:
            raise live.failure
        return live.view

    # How it ends

    async def _terminate(self, live: Live) -> None:
        if live.view.state is SandboxState.RUNNING:
            live.move(SandboxState.STOPPING)
        try:
            end = await self._nodes[live.view.node].terminate(live.view.id)
        except NotFoundError:
            end = SandboxExit(reason=SandboxReason.NODE_LOST, evidence="its node does not know it")
        await self._finish(live, end)

    async def _follow_ends(self, node: NodeHandle) -> None:
        async for ended in node.ended_since_start():
            try:
                await self._end_told(ended)
            except (Error, OSError) as exc:  # the others must be told all the same
                log.error("sandbox.end_not_recorded", exc=exc, sandbox=ended.sandbox)

    async def _end_told(self, ended: SandboxEnded) -> None:
        live = self._live.get(ended.sandbox)
        if live is not None:
            await self._finish(live, ended.exit, at=ended.at)

    async def _finish(
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
            self._withdraw(live)
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

    # After a restart

    async def _adopt(self) -> None:
        rows = self._store.live_sandboxes()
        for view in rows:
            live = self._live[view.id] = Live(view)
            live.settled.set()
            try:
                await self._adopt_one(live)
            except Exception as exc:  # one sandbox does not keep the server from all others
                log.error("sandbox.adoption_failed", exc=exc, sandbox=view.id)
                await self._finish(live, lost("it could not be adopted; the server's log says why"))
        await remove_strays(self._nodes.values(), self._store, {view.id for view in rows})

    async def _adopt_one(self, live: Live) -> None:
        view = live.view
        found = await find(view, self._nodes.get(view.node))
        if isinstance(found, Missed):
            await self._finish(live, found.exit, found.state, at=found.at)
            return
        live.move(*way(view.state, SandboxState.RUNNING), started_at=view.started_at or found.started_at)
        await self._store.update_sandbox(live.view)
        log.info("sandbox.adopted", sandbox=view.id, node=view.node)

    # Small things

    def _shown(self, view: SandboxView) -> SandboxView:
        """Return a sandbox with what changes by the moment."""
        if view.state is not SandboxState.RUNNING:
            return view
        node = self._nodes[view.node]
        return replace(view, idle_since=node.idle_since(view.id), volumes_lost=node.volumes_lost(view.id))

    def _app_name(self, spec: SandboxSpec) -> str | None:
        if spec.app is None:
            return None
        name = self._store.app_name(spec.app)
        if name is None:
            raise NotFoundError(f"there is no app {escaped(spec.app, limit=64)!r}; create it, or leave it out")
        return name

    def _owner(self) -> Tasks:
        if self._tasks is None:
            raise ServerUnavailableError("the server is not running yet; try again")
        return self._tasks

    def _largest_node(self) -> NodeView:
        views = [node.view() for node in self._nodes.values()]
        return max(views, key=lambda view: (view.cpus, view.memory_mib))

    def _next_created(self) -> float:
        self._last_created = max(self._clock.now(), self._last_created + _TICK_S)
        return self._last_created


def _interrupted(live: Live) -> Error | None:
    """Return the error of a start that was cut off by the end of the server."""
    if live.view.state is not SandboxState.STARTING:
        return None
    return ServerUnavailableError(f"the server stopped while sandbox {live.view.id} was starting; try again")


def _created(view: SandboxView) -> SandboxView:
    if view.state is SandboxState.FAILED:
        why = view.exit.evidence if view.exit else "the start failed"
        raise StartFailedError(f"sandbox {view.id} did not start: {escaped(why)}; create another one", sandbox=view.id)
    return view
