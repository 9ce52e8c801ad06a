"""The rows of a local server: sandboxes, apps, images, volumes. Matches the engine's `Store`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import msgspec

from skerry.model.errors import InvalidError, NotFoundError
from skerry.model.exits import SandboxExit
from skerry.model.ids import APP, AppId, CommitId, Ids, ImageId, NodeId, ProcessId, SandboxId, VolumeId
from skerry.model.sandboxes import (
    EndedRow,
    ImageView,
    SandboxFilter,
    SandboxState,
    SandboxView,
    Stage,
    name_taken,
)
from skerry.model.specs import HostAccess, ImageDefinition, SandboxSpec
from skerry.model.volumes import CommitView, VolumeView
from skerry.store.sqlite.database import Database, Write
from skerry.store.sqlite.queries import load_queries
from skerry.store.sqlite.secrets import SecretRows

SANDBOXES: Final = load_queries("sandboxes")
APPS: Final = load_queries("apps")
IMAGES: Final = load_queries("images")
VOLUMES: Final = load_queries("volumes")


class SqliteStore:
    """Rows in `skerry.db` of the data folder."""

    def __init__(self, folder: Path, *, ids: Ids) -> None:
        """Open the folder; ConflictError if another server holds it."""
        self._database = Database(folder)
        self._ids = ids
        self.secrets = SecretRows(self._database)

    def close(self) -> None:
        self._database.close()

    # Sandboxes

    async def put_sandbox(self, view: SandboxView, *, idempotency_key: str | None = None) -> SandboxView:
        """Insert it, or return the sandbox that was made with the same key; raises AlreadyExistsError."""
        row = {**_row(view), "idempotency_key": idempotency_key}

        def put(write: Write) -> SandboxView:
            if idempotency_key is not None:
                found = write.rows(SANDBOXES["sandbox_by_key"], {"key": idempotency_key})
                if found:
                    return _view(found[0])
            if view.spec.name is not None:
                holders = write.rows(SANDBOXES["live_sandbox_by_name"], {"app": row["app"], "name": row["name"]})
                if holders:
                    raise name_taken(view, SandboxId(holders[0][0]))
            write.rows(SANDBOXES["insert_sandbox"], row)
            return view

        return await self._database.write(put)

    async def update_sandbox(self, view: SandboxView) -> None:
        """Replace the row, but for its tags; a sandbox without one raises NotFoundError."""
        row = _row(view)

        def update(write: Write) -> None:
            if not write.rows(SANDBOXES["update_sandbox"], row):
                raise NotFoundError(f"there is no row of sandbox {view.id}")

        await self._database.write(update)

    async def set_tags(self, sandbox: SandboxId, tags: Mapping[str, str]) -> None:
        """Replace the tags; a sandbox without a row raises NotFoundError."""
        row = {"id": sandbox, "tags": _json(tags)}

        def put(write: Write) -> None:
            if not write.rows(SANDBOXES["set_tags"], row):
                raise NotFoundError(f"there is no row of sandbox {sandbox}")

        await self._database.write(put)

    async def delete_sandbox(self, sandbox: SandboxId) -> None:
        await self._database.write(lambda write: write.rows(SANDBOXES["delete_sandbox"], {"id": sandbox}))

    def sandbox(self, sandbox: SandboxId) -> SandboxView | None:
        return _first(self._database.read(SANDBOXES["sandbox"], {"id": sandbox}))

    def sandbox_by_key(self, idempotency_key: str) -> SandboxView | None:
        return _first(self._database.read(SANDBOXES["sandbox_by_key"], {"key": idempotency_key}))

    def sandboxes(self, which: SandboxFilter) -> Sequence[SandboxView]:
        """Return the newest sandboxes that match, newest first."""
        name = "newest_sandboxes" if which.include_ended else "newest_live_sandboxes"
        if which.app is not None:
            name += "_of_app"
        values: dict[str, Any] = {
            "app": which.app,
            "name": which.name,
            "tags": _json(which.tags),
            "before": math.inf if which.before is None else which.before,
            "limit": which.limit,
        }
        if which.app is None:
            del values["app"]
        return [_view(row) for row in self._database.read(SANDBOXES[name], values)]

    def live_sandboxes(self) -> Sequence[SandboxView]:
        return [_view(row) for row in self._database.read(SANDBOXES["live_sandboxes"])]

    def ended_sandboxes(self) -> Sequence[EndedRow]:
        rows = self._database.read(SANDBOXES["ended_sandboxes"])
        return [EndedRow(id=SandboxId(id), node=NodeId(node), ended_at=ended_at) for id, node, ended_at in rows]

    # Apps

    async def app(self, name: str, *, create: bool) -> AppId | None:
        """Return the app of this name, made now if there is none and `create` says so."""
        found = self._database.read(APPS["app_by_name"], {"name": name})
        if found or not create:
            return AppId(found[0][0]) if found else None
        row = {"id": self._ids.new(APP), "name": name}

        def insert(write: Write) -> AppId:
            write.rows(APPS["insert_app"], row)
            return AppId(write.rows(APPS["app_by_name"], {"name": name})[0][0])

        return await self._database.write(insert)

    def app_name(self, app: AppId) -> str | None:
        found = self._database.read(APPS["app_name"], {"id": app})
        return found[0][0] if found else None

    # Images

    async def put_image(self, view: ImageView, definition: ImageDefinition) -> None:
        row = {
            "id": view.id,
            "definition_key": view.definition_key,
            "created_at": view.created_at,
            "view": _json(view),
            "definition": _json(definition),
        }
        await self._database.write(lambda write: write.rows(IMAGES["put_image"], row))

    def image(self, image: ImageId) -> ImageView | None:
        return _image(self._database.read(IMAGES["image"], {"id": image}))

    def images(self) -> Sequence[ImageId]:
        return [ImageId(identifier) for (identifier,) in self._database.read(IMAGES["images"])]

    async def delete_image(self, image: ImageId) -> None:
        await self._database.write(lambda write: write.rows(IMAGES["delete_image"], {"id": image}))

    def image_by_key(self, definition_key: str) -> ImageView | None:
        """Return the newest image of a definition."""
        return _image(self._database.read(IMAGES["image_by_key"], {"key": definition_key}))

    # Volumes

    async def put_volume(self, volume: VolumeView) -> None:
        row = asdict(volume)
        await self._database.write(lambda write: write.rows(VOLUMES["insert_volume"], row), durable=True)

    def volume(self, volume: VolumeId) -> VolumeView | None:
        return _volume(self._database.read(VOLUMES["volume"], {"id": volume}))

    def volume_by_name(self, name: str) -> VolumeView | None:
        return _volume(self._database.read(VOLUMES["volume_by_name"], {"name": name}))

    def volumes(self) -> Sequence[VolumeView]:
        return [made for row in self._database.read(VOLUMES["volumes"]) if (made := _volume([row])) is not None]

    async def delete_volume(self, volume: VolumeId) -> None:
        await self._database.write(lambda write: write.rows(VOLUMES["delete_volume"], {"id": volume}))

    async def put_commit(self, commit: CommitView, *, idempotency_key: str | None = None) -> None:
        row = {**asdict(commit), "idempotency_key": idempotency_key}
        await self._database.write(lambda write: write.rows(VOLUMES["insert_commit"], row), durable=True)

    def commits(self, volume: VolumeId) -> Sequence[CommitView]:
        return [_commit(row) for row in self._database.read(VOLUMES["commits"], {"volume": volume})]

    def commit_by_key(self, idempotency_key: str) -> CommitView | None:
        rows = self._database.read(VOLUMES["commit_by_key"], {"key": idempotency_key})
        return _commit(rows[0]) if rows else None

    async def delete_commit(self, commit: CommitId) -> None:
        await self._database.write(lambda write: write.rows(VOLUMES["delete_commit"], {"id": commit}))


def _volume(rows: Sequence[Sequence[Any]]) -> VolumeView | None:
    if not rows:
        return None
    identifier, name, created_at, size_bytes, files_max = rows[0]
    return VolumeView(
        id=VolumeId(identifier), name=name, created_at=created_at, size_bytes=size_bytes, files_max=files_max
    )


def _commit(row: Sequence[Any]) -> CommitView:
    identifier, volume, created_at, files, size = row
    return CommitView(id=CommitId(identifier), volume=VolumeId(volume), created_at=created_at, files=files, size=size)


def _row(view: SandboxView) -> Mapping[str, Any]:
    # What belongs to the caller's machine is never kept; tags have a column of their own.
    spec = replace(view.spec, host_access=HostAccess(), tags={})
    return {
        "id": view.id,
        "app": spec.app,
        "app_name": view.app_name,
        "name": spec.name,
        "node": view.node,
        "state": view.state.value,
        "created_at": view.created_at,
        "started_at": view.started_at,
        "ended_at": view.ended_at,
        "entrypoint": view.entrypoint,
        "tags": _json(view.spec.tags),
        "spec": _json(spec),
        "stages": _json(view.stages),
        "exit": None if view.exit is None else _json(view.exit),
    }


def _view(row: Sequence[Any]) -> SandboxView:
    identifier, node, state, created_at, app_name, started_at, ended_at, entrypoint, tags, spec, stages, end = row
    return SandboxView(
        id=SandboxId(identifier),
        spec=replace(msgspec.json.decode(spec, type=SandboxSpec), tags=msgspec.json.decode(tags, type=dict[str, str])),
        state=SandboxState(state),
        node=NodeId(node),
        created_at=created_at,
        app_name=app_name,
        started_at=started_at,
        ended_at=ended_at,
        exit=None if end is None else msgspec.json.decode(end, type=SandboxExit),
        entrypoint=None if entrypoint is None else ProcessId(entrypoint),
        stages=msgspec.json.decode(stages, type=tuple[Stage, ...]),
    )


def _first(rows: Sequence[Sequence[Any]]) -> SandboxView | None:
    return _view(rows[0]) if rows else None


def _image(rows: Sequence[Sequence[Any]]) -> ImageView | None:
    return msgspec.json.decode(rows[0][0], type=ImageView) if rows else None


def _json(value: object) -> str:
    """Return `value` as JSON; a lone surrogate, which JSON cannot carry, is an error of the caller's."""
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError as exc:
        raise InvalidError("a text holds a lone surrogate, which is no Unicode; send valid UTF-8") from exc
