"""Sandboxes as a command line names them: by id, by name, or by app and name."""

from __future__ import annotations

from skerry import aio
from skerry.model.errors import InvalidError, NotFoundError
from skerry.model.ids import SANDBOX
from skerry.model.sandboxes import SandboxView


async def find(text: str, *, ended_too: bool = False) -> aio.Sandbox:
    """Return the sandbox that an id, NAME or APP/NAME means.

    By name it is the one that has not ended; with `ended_too` the one that ended last, where none runs.
    """
    if text.startswith(f"{SANDBOX}_"):
        return await aio.Sandbox.from_id(text)
    app, slash, name = text.rpartition("/")
    if slash:
        return await aio.Sandbox.from_name(app or None, name, include_terminated=ended_too)
    found = await _named(text, include_ended=False)
    if not found and ended_too:
        found = await _named(text, include_ended=True)
    if not found:
        raise NotFoundError(f"no sandbox is named {text!r}; `skerry ls` shows the names and ids of those that run")
    if len(found) > 1:
        choices = ", ".join(full_name(sandbox.view) for sandbox in found)
        raise InvalidError(f"several sandboxes are named {text!r}; say which: {choices}")
    return found[0]


async def _named(name: str, *, include_ended: bool) -> list[aio.Sandbox]:
    """Return the newest sandbox of this name in each app."""
    newest: dict[str | None, aio.Sandbox] = {}
    async for sandbox in aio.Sandbox.list(name=name, include_ended=include_ended):
        newest.setdefault(sandbox.view.spec.app, sandbox)
    return list(newest.values())


def full_name(view: SandboxView) -> str:
    """Return what means this sandbox and no other among those that run."""
    return view.id if view.spec.name is None else f"{view.app_name or ''}/{view.spec.name}"
