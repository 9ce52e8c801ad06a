"""`skerry server`: the local server in the foreground."""

from __future__ import annotations

import click

EXAMPLES = """\b
Examples:
  skerry server
  sudo skerry server --group developers
"""


@click.command("server", epilog=EXAMPLES)
@click.option("--group", metavar="NAME", help="Let this group use the server, and with it all its sandboxes.")
def command(group: str | None) -> int:
    """Run the local server in the foreground until it is interrupted.

    Sandboxes outlive it: the next server finds them again. Needs root.
    """
    from skerry.apps import local

    return local.main(["--foreground", *(["--group", group] if group else [])])
