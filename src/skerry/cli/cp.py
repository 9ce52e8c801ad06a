"""`skerry cp`: files and trees between this machine and a sandbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from skerry.cli import completing
from skerry.cli.options import json_option
from skerry.cli.places import STREAM, Place, parse_place

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

EXAMPLES = """\b
Examples:
  skerry cp project sb_...:/srv
  skerry cp sb_...:/srv/project/report.html .
  skerry cp APP/NAME:/var/log logs
  tar c . | skerry cp - sb_...:/root/all.tar
"""


def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the sandboxes that can be named, or leave it to the shell to complete a file."""
    from click.shell_completion import CompletionItem

    if ":" in incomplete or incomplete.startswith((".", "/", "~")):
        return [CompletionItem(incomplete, type="file")]
    found = [CompletionItem(f"{item.value}:/", help=item.help) for item in completing.sandboxes(ctx, param, incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


@click.command("cp", epilog=EXAMPLES)
@click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
@json_option
@click.argument("source", callback=parse_place, shell_complete=complete)
@click.argument("target", callback=parse_place, shell_complete=complete)
def command(source: Place, target: Place, quiet: bool, as_json: bool) -> int:
    """Copy a file or a folder into a sandbox, or out of one: SANDBOX:/PATH on one side, a local path on the other.

    A folder that is at TARGET, or a / at its end, takes the copy under the name of SOURCE; otherwise TARGET becomes it.
    Modes, times and links are kept; owners are not. `-` is stdin or stdout, for one file. Out of a sandbox come no
    links that lead out of the tree. What cannot be copied is named, and the exit code is 1.
    """
    import asyncio

    from skerry.cli import copying

    if (source.sandbox is None) == (target.sandbox is None):
        raise click.UsageError("one of SOURCE and TARGET is in a sandbox, as SANDBOX:/PATH, and the other is not")
    if as_json and target.path == STREAM and target.sandbox is None:
        raise click.UsageError("--json and a copy to stdout exclude each other")
    return asyncio.run(copying.copy(source, target, quiet=quiet, as_json=as_json))
