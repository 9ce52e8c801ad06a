"""A store in memory. Matches the engine's `Store`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from skerry.model.errors import NotFoundError
from skerry.model.ids import APP, AppId, CommitId, Ids, ImageId, SandboxId, VolumeId
from skerry.model.sandboxes import EndedRow, ImageView, SandboxFilter, SandboxView, name_taken
from skerry.model.specs import HostAccess, ImageDefinition
from skerry.model.volumes import CommitView, VolumeView
from skerry.testing.vault import MemorySecrets


class MemoryStore:
    """Rows that last as long as this object."""

    def __init__(self, *, ids: Ids) -> None:
        self._ids = ids
        self._sandboxes: dict[SandboxId, SandboxView] = {}
        self._keys: dict[str, SandboxId] = {}
        self._apps: dict[str, AppId] = {}
        self._images: dict[ImageId, ImageView] = {}
        self._volumes: dict[VolumeId, VolumeView] = {}
        self._commits: dict[CommitId, CommitView] = {}
        self._commit_keys: dict[str, CommitId] = {}
        self.secrets = MemorySecrets()

    def close(self) -> None:
        """Nothing to do."""

    async def put_sandbox(self, view: SandboxView, *, idempotency_key: str | None = None) -> SandboxView:
        if idempotency_key is not None:
            known = self.sandbox_by_key(idempotency_key)
            if known is not None:
                return known
        if view.spec.name is not None:
            for holder in self.live_sandboxes():
                if (holder.spec.app, holder.spec.name) == (view.spec.app, view.spec.name):
                    raise name_taken(view, holder.id)
        if idempotency_key is not None:
            self._keys[idempotency_key] = view.id
        self._sandboxes[view.id] = _kept(view)
        return view

    async def update_sandbox(self, view: SandboxView) -> None:
        if view.id not in self._sandboxes:
            raise NotFoundError(f"there is no row of sandbox {view.id}")
        self._sandboxes[view.id] = _tagged(_kept(view), self._sandboxes[view.id].spec.tags)

    async def set_tags(self, sandbox: SandboxId, tags: Mapping[str, str]) -> None:
        if sandbox not in self._sandboxes:
            raise NotFoundError(f"there is no row of sandbox {sandbox}")
        self._sandboxes[sandbox] = _tagged(self._sandboxes[sandbox], tags)

    async def delete_sandbox(self, sandbox: SandboxId) -> None:
        self._sandboxes.pop(sandbox, None)
        self._keys = {key: owner for key, owner in self._keys.items() if owner != sandbox}

    def sandbox(self, sandbox: SandboxId) -> SandboxView | None:
        return self._sandboxes.get(sandbox)

    def sandbox_by_key(self, idempotency_key: str) -> SandboxView | None:
        owner = self._keys.get(idempotency_key)
        return None if owner is None else self._sandboxes[owner]

    def sandboxes(self, which: SandboxFilter) -> Sequence[SandboxView]:
        before = math.inf if which.before is None else which.before
        found = [
            view
            for view in self._newest_first()
            if view.created_at < before
            and (which.app is None or view.spec.app == which.app)
            and (which.name is None or view.spec.name == which.name)
            and which.tags.items() <= view.spec.tags.items()
            and (which.include_ended or view.ended_at is None)
        ]
        return found[: which.limit]

    def live_sandboxes(self) -> Sequence[SandboxView]:
        return [view for view in self._newest_first() if view.ended_at is None]

    def ended_sandboxes(self) -> Sequence[EndedRow]:
        ended = [
            EndedRow(id=view.id, node=view.node, ended_at=view.ended_at)
            for view in self._sandboxes.values()
            if view.ended_at is not None
        ]
        return sorted(ended, key=lambda row: row.ended_at)

    async def app(self, name: str, *, create: bool) -> AppId | None:
        if name not in self._apps and create:
            self._apps[name] = AppId(self._ids.new(APP))
        return self._apps.get(name)

    def app_name(self, app: AppId) -> str | None:
        return next((name for name, known in self._apps.items() if known == app), None)

    async def put_image(self, view: ImageView, definition: ImageDefinition) -> None:
        self._images[view.id] = view

    def image(self, image: ImageId) -> ImageView | None:
        return self._images.get(image)

    def images(self) -> Sequence[ImageId]:
        return list(self._images)

    async def delete_image(self, image: ImageId) -> None:
        self._images.pop(image, None)

    def image_by_key(self, definition_key: str) -> ImageView | None:
        fitting = [view for view in self._images.values() if view.definition_key == definition_key]
        return max(fitting, key=lambda view: view.created_at, default=None)

    async def put_volume(self, volume: VolumeView) -> None:
        self._volumes[volume.id] = volume

    def volume(self, volume: VolumeId) -> VolumeView | None:
        return self._volumes.get(volume)

    def volume_by_name(self, name: str) -> VolumeView | None:
        return next((one for one in self._volumes.values() if one.name == name), None)

    def volumes(self) -> Sequence[VolumeView]:
        return sorted(self._volumes.values(), key=lambda one: one.name)

    async def delete_volume(self, volume: VolumeId) -> None:
        self._volumes.pop(volume, None)
        for commit in self.commits(volume):
            await self.delete_commit(commit.id)

    async def put_commit(self, commit: CommitView, *, idempotency_key: str | None = None) -> None:
        self._commits[commit.id] = commit
        if idempotency_key is not None:
            self._commit_keys[idempotency_key] = commit.id

    def commits(self, volume: VolumeId) -> Sequence[CommitView]:
        found = [one for one in reversed(self._commits.values()) if one.volume == volume]
        return sorted(found, key=lambda one: one.created_at, reverse=True)

    def commit_by_key(self, idempotency_key: str) -> CommitView | None:
        owner = self._commit_keys.get(idempotency_key)
        return None if owner is None else self._commits[owner]

    async def delete_commit(self, commit: CommitId) -> None:
        self._commits.pop(commit, None)
        self._commit_keys = {key: owner for key, owner in self._commit_keys.items() if owner != commit}

    def _newest_first(self) -> Sequence[SandboxView]:
        return sorted(self._sandboxes.values(), key=lambda view: view.created_at, reverse=True)


def _tagged(view: SandboxView, tags: Mapping[str, str]) -> SandboxView:
    return replace(view, spec=replace(view.spec, tags=dict(tags)))


def _kept(view: SandboxView) -> SandboxView:
    return replace(view, spec=replace(view.spec, host_access=HostAccess()))
