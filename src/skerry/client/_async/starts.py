"""How a sandbox is asked for: the body of the request, and the way from it to a sandbox that runs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from skerry.client import terminals
from skerry.client._async.apps import App
from skerry.client._async.images import Image
from skerry.client._async.volumes import Volume
from skerry.client._core import arguments, views
from skerry.client.client import Client
from skerry.client.connection import Connection, path
from skerry.model.errors import InvalidError, NotFoundError
from skerry.model.sandboxes import SandboxView
from skerry.model.specs import Terminal


class Start:
    """One create: image, app and volumes are resolved, then the server is asked, under one idempotency key."""

    def __init__(
        self,
        client: Client,
        connection: Connection,
        body: dict[str, object],
        image: Image,
        app: App | None,
        host_access: bool | None,
        mounts: Mapping[str, Volume],
    ) -> None:
        self._client = client
        self._connection = connection
        self._body = body
        self._image = image
        self._app = app
        self._host_access = host_access
        self._mounts = mounts

    async def prepare(self, *, again: bool = False) -> None:
        if self._app is not None:
            self._body["app"] = await self._app._register()
        view = await self._image._resolve(self._client, host_access=self._host_access, again=again)
        self._body["image"] = view.id
        if self._mounts:
            self._body["volumes"] = [await volume._mount(at, again=again) for at, volume in self._mounts.items()]

    async def finish(self) -> SandboxView:
        """Return the sandbox. If the caller is cancelled meanwhile, the sandbox that comes all the same is ended."""
        asking = self._client.spawn(self._ask())
        try:
            view = await asyncio.shield(asking)
        except asyncio.CancelledError:
            self._client.spawn(self._end(asking))
            raise
        self._client.created[view.id] = None
        return view

    async def _ask(self) -> SandboxView:
        try:
            return await self._post()
        except NotFoundError:
            # The image, or a volume, was resolved earlier in this program and has been deleted since.
            await self.prepare(again=True)
            return await self._post()

    async def _post(self) -> SandboxView:
        key = self._client.ids.new("ik")
        return views.sandbox(
            await self._connection.call_with_host(path("sandboxes"), self._body, self._host_access, key=key)
        )

    async def _end(self, asking: asyncio.Task[SandboxView]) -> None:
        view = await asking
        await self._connection.call("POST", path("sandboxes", view.id, "terminate"), body={})


def spec(
    args: Sequence[str],
    env: Mapping[str, str | None] | None,
    timeout: float | None,
    idle_timeout: float | None,
    workdir: str | None,
    user: str | None,
    cpu: arguments.Amount,
    memory: arguments.Amount,
    block_network: bool,
    isolation: str,
    terminal: Terminal | None,
) -> dict[str, object]:
    """Return the body of a create, but for what the server has to be asked for."""
    call = "Sandbox.create"
    body: dict[str, object] = {
        "entrypoint": arguments.argv(args, call=call),
        "env": terminals.with_colours(arguments.environment(env, call=call), terminal),
        "terminal": None if terminal is None else asdict(terminal),
        "workdir": arguments.workdir(workdir, call=call),
        "lifetime_s": arguments.lifetime(timeout),
        "idle_timeout_s": arguments.idle_timeout(idle_timeout),
        "resources": arguments.cpu_fields(cpu) | arguments.memory_fields(memory),
        "network": arguments.network(block_network),
        "isolation": arguments.isolation(isolation),
    }
    return body if user is None else body | {"user": user}


def mounts(volumes: Mapping[Any, Volume] | None) -> dict[str, Volume]:
    """Return the volumes by their paths; raises InvalidError for what is none."""
    if volumes is None:
        return {}
    if not isinstance(volumes, Mapping):
        raise InvalidError(f"Sandbox.create: volumes={volumes!r}: give a dict of paths and volumes")
    for at, volume in volumes.items():
        if not isinstance(at, (str, os.PathLike)) or not isinstance(volume, Volume):
            raise InvalidError(
                f"Sandbox.create: volumes={{{at!r}: {volume!r}}}: give a path and a Volume, such as "
                "{'/data': Volume.from_name('my-data', create_if_missing=True)}"
            )
    return {os.fspath(at): volume for at, volume in volumes.items()}
