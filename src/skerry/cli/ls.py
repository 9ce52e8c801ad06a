"""`skerry ls`: the sandboxes of the server."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from skerry.cli import completing
from skerry.cli.options import json_option, tag_option

if TYPE_CHECKING:
    from skerry.model.sandboxes import SandboxView

EXAMPLES = """\b
Examples:
  skerry ls
  skerry ls --tag team=search --tag stage=test
  skerry ls --all --json | jq -r '.[].id'
"""
HEAD = ("SANDBOX", "NAME", "APP", "STATE", "AGE", "LEFT", "TAGS", "COMMAND", "END")
# Shown only where there is something to show.
SPARE = ("NAME", "APP", "TAGS")


@click.command("ls", epilog=EXAMPLES)
@click.option("--all", "include_ended", is_flag=True, help="Show ended sandboxes too, with the reason of their end.")
@click.option("--app", metavar="NAME", shell_complete=completing.apps, help="Only those of this app.")
@click.option("--name", metavar="NAME", shell_complete=completing.names, help="Only those of this name.")
@tag_option("Only those with this tag")
@json_option
def command(include_ended: bool, app: str | None, name: str | None, tags: dict[str, str], as_json: bool) -> None:
    """List sandboxes, the newest first."""
    import asyncio

    from skerry.cli import sandboxes
    from skerry.cli.output import print_json

    views = asyncio.run(_views(app, include_ended=include_ended, name=name, tags=tags))
    if as_json:
        print_json([sandboxes.as_json(view) for view in views])
    else:
        _print(views, include_ended)


async def _views(app: str | None, **which: Any) -> list[SandboxView]:
    from skerry import aio

    app_id = None if app is None else (await aio.App.lookup(app)).app_id
    return [sandbox.view async for sandbox in aio.Sandbox.list(app_id=app_id, **which)]


def _print(views: list[SandboxView], include_ended: bool) -> None:
    from skerry.cli.output import print_table

    now = time.time()
    columns = list(zip(HEAD, *(_row(view, now) for view in views), strict=True))
    kept = [
        column
        for column in columns
        if (column[0] not in SPARE or any(column[1:])) and (column[0] != "END" or include_ended)
    ]
    head, *rows = zip(*kept, strict=True)
    print_table(head, rows)


def _row(view: SandboxView, now: float) -> tuple[str, ...]:
    from skerry.cli.output import command_line, duration
    from skerry.cli.sandboxes import describe_exit

    age = duration((view.ended_at or now) - view.created_at)
    left = "" if view.deadline is None or view.state.ended else duration(view.deadline - now)
    if view.idle_since is not None and view.idle_deadline is not None:
        left += f", idle {duration(now - view.idle_since)}: {duration(view.idle_deadline - now)} left"
    end = "" if view.exit is None else describe_exit(view.exit)
    tags = ",".join(f"{key}={value}" for key, value in sorted(view.spec.tags.items()))
    names = (view.spec.name or "", view.app_name or "")
    return (view.id, *names, view.state.value, age, left, tags, command_line(view.spec.entrypoint), end)
