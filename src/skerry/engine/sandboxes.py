"""Sandboxes: created, found again, waited for, terminated.

A live sandbox has one entry here, which is the truth about it; the store has what must outlive the server. Every move
of state goes through `Live.move`. How one comes to run is in `starts.py`, how it ends in `ends.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from skerry.engine.admission import admit, check_env, check_tags, default_resources
from skerry.engine.adoption import Adoption
from skerry.engine.ends import Ends
from skerry.engine.interfaces import Clock, Images, NodeHandle, NodeView, Store
from skerry.engine.live import Live, ended_error
from skerry.engine.placement import Places
from skerry.engine.requests import asked, check_key
from skerry.engine.secrets import Secrets
from skerry.engine.starts import Starts
from skerry.engine.tasks import Tasks
from skerry.engine.volumes import Volumes
from skerry.model.errors import (
    InvalidError,
    NotFoundError,
    StartFailedError,
)
from skerry.model.events import Events
from skerry.model.ids import Ids, ImageId, NodeId, SandboxId, VolumeId
from skerry.model.sandboxes import SandboxFilter, SandboxState, SandboxView
from skerry.model.secrets import SecretAsk, sources
from skerry.model.specs import Resources, SandboxSpec
from skerry.model.text import escaped

log = Events("skerry.engine")

LIST_MAX = 1000


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
        self._live: dict[SandboxId, Live] = {}
        places = Places(nodes)
        self._ends = Ends(store=store, nodes=nodes, live=self._live, places=places, clock=clock)
        self._starts = Starts(
            store=store, nodes=nodes, live=self._live, places=places, ends=self._ends, clock=clock, ids=ids
        )

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
        newest = self._store.sandboxes(SandboxFilter(include_ended=True, limit=1))
        self._starts.supervise(tasks, last_created=newest[0].created_at if newest else 0.0)
        await Adoption(store=self._store, nodes=self._nodes, live=self._live, ends=self._ends).run()
        for identifier, node in self._nodes.items():
            tasks.start(self._ends.follow(node), name=f"ends of {identifier}")

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
        image = self._images.root(spec.image)
        for mount in spec.volumes:
            self._volumes.get(mount.volume)
        app_name = self._app_name(spec)
        live = await self._starts.begin(spec, hidden, image, app_name=app_name, key=idempotency_key)
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
            await self._ends.terminate(live)
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

    # What came of a create

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

    def _largest_node(self) -> NodeView:
        views = [node.view() for node in self._nodes.values()]
        return max(views, key=lambda view: (view.cpus, view.memory_mib))


def _created(view: SandboxView) -> SandboxView:
    if view.state is SandboxState.FAILED:
        why = view.exit.evidence if view.exit else "the start failed"
        raise StartFailedError(f"sandbox {view.id} did not start: {escaped(why)}; create another one", sandbox=view.id)
    return view
