"""`skerry terminate`: the end of sandboxes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from skerry.cli import completing
from skerry.cli.options import json_option

if TYPE_CHECKING:
    from skerry.model.sandboxes import SandboxView

EXAMPLES = """\b
Examples:
  skerry terminate sb_...
  skerry ls --json | jq -r '.[].id' | xargs -r skerry terminate
"""


@click.command("terminate", epilog=EXAMPLES)
@json_option
@click.argument("sandboxes", nargs=-1, required=True, metavar="SANDBOX...", shell_complete=completing.sandboxes)
def command(sandboxes: tuple[str, ...], as_json: bool) -> None:
    """End sandboxes, given by id, NAME or APP/NAME, and say how each ended; one that had ended keeps its exit."""
    import asyncio

    from skerry.cli.output import print_json
    from skerry.cli.sandboxes import as_json as plain
    from skerry.cli.sandboxes import describe_exit

    views = asyncio.run(_terminate(sandboxes))
    if as_json:
        print_json([plain(view) for view in views])
        return
    for view in views:
        print(f"{view.id}  {describe_exit(view.exit) if view.exit else view.state.value}")


async def _terminate(ids: tuple[str, ...]) -> list[SandboxView]:
    import asyncio

    from skerry.cli.naming import find

    boxes = [await find(one) for one in ids]
    await asyncio.gather(*(box.terminate(wait=True) for box in boxes))
    return [box.view for box in boxes]
