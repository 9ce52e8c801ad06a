"""What a shell is told when it completes a name: asked from the server that runs, for a moment, and never started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from collections.abc import Iterable

    from skerry.model.sandboxes import SandboxView

PATIENCE_S: Final = 2.0
SHOWN_MAX: Final = 200


def sandboxes(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the names and ids of running sandboxes."""
    from skerry.cli.output import command_line
    from skerry.model.text import printable

    items = []
    for view in _running():
        told = printable(f"{view.state.value} {command_line(view.spec.entrypoint)}", keep="")
        items += [CompletionItem(text, help=told) for text in _texts(view) if text.startswith(incomplete)]
    return items


def names(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _items((view.spec.name for view in _running()), incomplete)


def apps(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _items((view.app_name for view in _running()), incomplete)


def tags(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _items((f"{key}={value}" for view in _running() for key, value in view.spec.tags.items()), incomplete)


def secrets(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    import asyncio
    import contextlib

    found: list[str] = []
    with contextlib.suppress(Exception):
        asyncio.run(_collect_secrets(found))
    return _items(found, incomplete)


def _items(texts: Iterable[str | None], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(text) for text in sorted({text for text in texts if text and text.startswith(incomplete)})]


def _texts(view: SandboxView) -> Iterable[str]:
    if view.spec.name is not None:
        yield view.spec.name
        yield f"{view.app_name or ''}/{view.spec.name}"
    yield view.id


def _running() -> list[SandboxView]:
    """Return the newest that run; none where no server answers: a shell that completes shows no errors."""
    import asyncio
    import contextlib

    views: list[SandboxView] = []
    with contextlib.suppress(Exception):
        asyncio.run(_collect(views))
    return views


async def _collect(views: list[SandboxView]) -> None:
    import asyncio

    from skerry import aio

    async with aio.connect(autostart=False) as client, asyncio.timeout(PATIENCE_S):
        async for sandbox in aio.Sandbox.list(client=client):
            views.append(sandbox.view)
            if len(views) == SHOWN_MAX:
                return


async def _collect_secrets(found: list[str]) -> None:
    import asyncio

    from skerry import aio
    from skerry.client._async.secrets import all_views

    async with aio.connect(autostart=False) as client, asyncio.timeout(PATIENCE_S):
        found += [view.name for view in await all_views(most=SHOWN_MAX, client=client)]
