"""Sandboxes as a command line names them: by id, by name, or by app and name."""

from __future__ import annotations

from skerry import aio
from skerry.model.errors import InvalidError, NotFoundError
from skerry.model.ids import SANDBOX
from skerry.model.sandboxes import SandboxView


async def find(text: str) -> aio.Sandbox:
    """Return the sandbox that an id, NAME or APP/NAME means. By name only those are found that have not ended."""
    if text.startswith(f"{SANDBOX}_"):
        return await aio.Sandbox.from_id(text)
    app, slash, name = text.rpartition("/")
    if slash:
        return await aio.Sandbox.from_name(app or None, name)
    found = [sandbox async for sandbox in aio.Sandbox.list(name=text)]
    if not found:
        raise NotFoundError(f"no sandbox is named {text!r}; `skerry ls` shows the names and ids of those that run")
    if len(found) > 1:
        choices = ", ".join(full_name(sandbox.view) for sandbox in found)
        raise InvalidError(f"several sandboxes are named {text!r}; say which: {choices}")
    return found[0]


def full_name(view: SandboxView) -> str:
    """Return what means this sandbox and no other among those that run."""
    return view.id if view.spec.name is None else f"{view.app_name or ''}/{view.spec.name}"
