"""`skerry ls`: the sandboxes of the server."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from skerry.cli.options import json_option

if TYPE_CHECKING:
    from skerry.model.sandboxes import SandboxView

EXAMPLES = """\b
Examples:
  skerry ls
  skerry ls --all --json | jq -r '.[].id'
"""
HEAD = ("SANDBOX", "STATE", "AGE", "LEFT", "COMMAND")


@click.command("ls", epilog=EXAMPLES)
@click.option("--all", "include_ended", is_flag=True, help="Show ended sandboxes too, with the reason of their end.")
@click.option("--app", metavar="NAME", help="Only those of this app.")
@json_option
def command(include_ended: bool, app: str | None, as_json: bool) -> None:
    """List sandboxes, the newest first."""
    import asyncio

    from skerry.cli import sandboxes
    from skerry.cli.output import print_json, print_table

    views = asyncio.run(_views(include_ended, app))
    if as_json:
        print_json([sandboxes.as_json(view) for view in views])
        return
    head = (*HEAD, "END") if include_ended else HEAD
    now = time.time()
    print_table(head, [_row(view, now)[: len(head)] for view in views])


async def _views(include_ended: bool, app: str | None) -> list[SandboxView]:
    from skerry import aio

    app_id = None if app is None else (await aio.App.lookup(app)).app_id
    return [sandbox.view async for sandbox in aio.Sandbox.list(app_id=app_id, include_ended=include_ended)]


def _row(view: SandboxView, now: float) -> tuple[str, ...]:
    from skerry.cli.output import command_line, duration
    from skerry.cli.sandboxes import describe_exit

    age = duration((view.ended_at or now) - view.created_at)
    left = "" if view.deadline is None or view.state.ended else duration(view.deadline - now)
    if view.idle_since is not None and view.idle_deadline is not None:
        left += f", idle {duration(now - view.idle_since)}: {duration(view.idle_deadline - now)} left"
    end = "" if view.exit is None else describe_exit(view.exit)
    return (view.id, view.state.value, age, left, command_line(view.spec.entrypoint), end)
