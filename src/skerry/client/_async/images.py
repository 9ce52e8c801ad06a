"""Images: what a sandbox starts from, described step by step and built at first use."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any

from skerry.client import words
from skerry.client._async.apps import App
from skerry.client._core import views
from skerry.client.buildlog import BuildLog
from skerry.client.client import Client, resolve
from skerry.client.connection import Connection, path
from skerry.client.transports.http import ConnectionLost
from skerry.model.errors import ConflictError, InvalidError, ServerUnavailableError
from skerry.model.guestpath import parse_guest_path
from skerry.model.sandboxes import ImageView
from skerry.model.specs import ImageDefinition, ImageStep, StepKind

TRIES = 3
PAUSE_S = 0.2  # a server that was killed may take a moment to refuse connections


class Image:
    """A file system to start sandboxes from. Each method returns a new image; nothing happens before it is used."""

    def __init__(self, definition: ImageDefinition, *, force_build: bool = False) -> None:
        self._definition = definition
        self._force = force_build
        self._built: dict[str, ImageView] = {}

    @staticmethod
    def debian_slim(python_version: str | None = None, force_build: bool = False) -> Image:
        """Debian with Python, pip, git, curl and a user `user` (uid 1000) who may use sudo."""
        if python_version is not None and not isinstance(python_version, str):
            raise InvalidError(f"Image.debian_slim: python_version={python_version!r}: give a string such as '3.11'")
        return Image(ImageDefinition(python_version=python_version), force_build=force_build)

    def apt_install(self, *packages: str | Sequence[str], force_build: bool = False, **idle: object) -> Image:
        """Install Debian packages."""
        words.refuse_idle("Image.apt_install", idle, words.IMAGE_IDLE)
        return self._then(StepKind.APT, _flatten("Image.apt_install", packages), force_build)

    def pip_install(self, *packages: str | Sequence[str], force_build: bool = False, **idle: object) -> Image:
        """Install Python packages."""
        words.refuse_idle("Image.pip_install", idle, words.IMAGE_IDLE)
        return self._then(StepKind.PIP, _flatten("Image.pip_install", packages), force_build)

    def run_commands(self, *commands: str | Sequence[str], force_build: bool = False, **idle: object) -> Image:
        """Run command lines as root, each with `sh -c`."""
        words.refuse_idle("Image.run_commands", idle, words.IMAGE_IDLE)
        return self._then(StepKind.RUN, _flatten("Image.run_commands", commands), force_build)

    def env(self, vars: Mapping[str, str]) -> Image:
        """Set variables for the steps that follow and for sandboxes."""
        settings = []
        for key, value in vars.items():
            if not isinstance(key, str) or not key or "=" in key or "\0" in key:
                raise InvalidError(f"Image.env: key {key!r} must be a non-empty string without '=' and NUL")
            if not isinstance(value, str) or "\0" in value:
                raise InvalidError(f"Image.env: {key}={value!r}: give a string without NUL")
            settings.append(f"{key}={value}")
        return self._then(StepKind.ENV, tuple(settings), False)

    def workdir(self, path: str | os.PathLike[str]) -> Image:
        """Set the working directory of the steps that follow and of sandboxes."""
        folder = parse_guest_path(os.fspath(path), what="Image.workdir: path")
        return self._then(StepKind.WORKDIR, (folder,), False)

    async def build(
        self, app: App | None = None, *, client: Client | None = None, host_access: bool | None = None
    ) -> Image:
        """Build the image now, unless it exists, and return it. The log goes to stderr."""
        if app is not None:
            await app._register()
        await self._resolve(resolve(client), host_access=host_access)
        return self

    @property
    def object_id(self) -> str | None:
        """The image's id once it was built or used."""
        return next((str(view.id) for view in self._built.values()), None)

    async def _resolve(self, client: Client, *, host_access: bool | None = None, again: bool = False) -> ImageView:
        """Return the image as the server has it, built now if it is new."""
        server = str(client.address.socket)
        if again:
            self._built.pop(server, None)
        if server not in self._built:
            self._built[server] = await self._build(await client.connection(), host_access)
        return self._built[server]

    async def _build(self, connection: Connection, host_access: bool | None) -> ImageView:
        settings = connection.host_settings(host_access)
        body = {"definition": self._definition, "host_access": settings.wire(), "force_build": self._force}
        for attempt in range(TRIES):
            try:
                return await _follow(connection, body)
            except ConflictError as exc:
                await connection.send_trust(settings, exc)
            except ConnectionLost as exc:
                if attempt == TRIES - 1:
                    raise ServerUnavailableError(f"the server went away {TRIES} times during the build: {exc}") from exc
                await asyncio.sleep(PAUSE_S * (attempt + 1))
        return await _follow(connection, body)

    def _then(self, kind: StepKind, arguments: tuple[str, ...], force: bool) -> Image:
        if not arguments:
            return self
        definition = self._definition
        step = ImageStep(kind=kind, arguments=arguments)
        changed = ImageDefinition(
            base=definition.base, python_version=definition.python_version, steps=(*definition.steps, step)
        )
        return Image(changed, force_build=self._force or force)

    def __repr__(self) -> str:
        steps = "".join(
            f".{step.kind.value}({', '.join(map(repr, step.arguments))})" for step in self._definition.steps
        )
        return f"<Image {self._definition.base}({self._definition.python_version or ''}){steps}>"


async def _follow(connection: Connection, body: object) -> ImageView:
    """Return the image at the end of a build's events, which are shown as they come."""
    with BuildLog() as log:
        async for event in connection.lines(path("images"), body):
            kind = event.get("event")
            if kind == "image":
                return views.image(event["image"])
            if kind == "error":
                raise _error(event["error"])
            log.show(event)
    raise ConnectionLost("the build's answer ended without an image")


def _error(told: Mapping[str, Any]) -> Exception:
    return views.error(
        str(told.get("code")), str(told.get("message")), told.get("kind"), dict(told.get("details") or {})
    )


def _flatten(call: str, items: Sequence[str | Sequence[str]]) -> tuple[str, ...]:
    """Return the strings among `items`, which may hold lists of strings."""
    flat: list[Any] = []
    for item in items:
        flat.extend(item if isinstance(item, (list, tuple)) else [item])
    for item in flat:
        if not isinstance(item, str) or not item.strip() or "\0" in item:
            raise InvalidError(f"{call}: {item!r} is no package or command; give non-empty strings")
    return tuple(flat)
