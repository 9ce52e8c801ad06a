"""`skerry attach`: the way back to a process that was left at its terminal."""

from __future__ import annotations

import click

from skerry.cli import completing
from skerry.cli.options import detach_keys_option

EXAMPLES = """\b
Examples:
  skerry attach sb_... pr_...       # `skerry ps --running sb_...` shows the processes
  skerry attach sb_...              # the entrypoint
"""


@click.command("attach", epilog=EXAMPLES)
@detach_keys_option
@click.argument("sandbox", shell_complete=completing.sandboxes)
@click.argument("process", default="entrypoint")
def command(sandbox: str, process: str, detach_keys: bytes) -> int:
    """Join this terminal to that of a process, which was left with the detach keys, or runs elsewhere.

    Without PROCESS the entrypoint is meant. What was shown last is shown first. Ctrl-C and all other keys go to the
    process; the keys to detach leave it running. The exit code is the process's.
    """
    import asyncio

    from skerry.cli.interactive import attach_joined
    from skerry.cli.rawmode import RawTerminal

    with RawTerminal(0, instead=f"`skerry logs -f --process {process} SANDBOX` shows what it writes") as terminal:
        return asyncio.run(attach_joined(sandbox, process, terminal, detach_keys))
