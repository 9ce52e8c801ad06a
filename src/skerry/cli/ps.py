"""`skerry ps`: the processes of a sandbox."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from skerry.cli import completing
from skerry.cli.options import json_option

if TYPE_CHECKING:
    from skerry.model.sandboxes import ProcessView

EXAMPLES = """\b
Examples:
  skerry ps sb_...
  skerry ps sb_... --json | jq -r '.[] | select(.exit == null) | .id'
"""
HEAD = ("PROCESS", "STATE", "AGE", "TTY", "COMMAND")


@click.command("ps", epilog=EXAMPLES)
@click.option("--running", is_flag=True, help="Only those that run.")
@json_option
@click.argument("sandbox", shell_complete=completing.sandboxes)
def command(sandbox: str, running: bool, as_json: bool) -> None:
    """List the processes that were started in a sandbox, the entrypoint and those of exec, in that order.

    What they start themselves is not among them. Ended ones are shown for as long as their output is kept.
    """
    import asyncio

    from skerry.cli.output import print_json, print_table

    entrypoint, views = asyncio.run(_views(sandbox))
    views = [view for view in views if not running or view.exit is None]
    if as_json:
        print_json([_as_json(view, entrypoint) for view in views])
        return
    now = time.time()
    print_table(HEAD, [_row(view, entrypoint, now) for view in views])


async def _views(sandbox: str) -> tuple[str | None, list[ProcessView]]:
    from skerry.cli.naming import find

    box = await find(sandbox, ended_too=True)
    return box.view.entrypoint, list(await box.processes())


def _row(view: ProcessView, entrypoint: str | None, now: float) -> tuple[str, ...]:
    from skerry.cli.output import command_line, duration
    from skerry.cli.sandboxes import describe_exit

    state = "running" if view.exit is None else describe_exit(view.exit)
    if view.id == entrypoint:
        state += " (entrypoint)"
    age = duration(now - view.started_at)
    return (view.id, state, age, "yes" if view.terminal else "", command_line(view.argv))


def _as_json(view: ProcessView, entrypoint: str | None) -> dict[str, object]:
    from skerry.cli.sandboxes import exit_as_json

    return {
        "id": view.id,
        "argv": list(view.argv),
        "entrypoint": view.id == entrypoint,
        "terminal": view.terminal,
        "started_at": view.started_at,
        "exit": None if view.exit is None else exit_as_json(view.exit),
    }
