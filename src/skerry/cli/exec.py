"""`skerry exec`: one command in a running sandbox, as if it ran here."""

from __future__ import annotations

from typing import Any

import click

from skerry.cli import completing
from skerry.cli.options import detach_keys_option, parse_pairs, secret_option

EXAMPLES = """\b
Examples:
  skerry exec sb_... -- python3 -V
  skerry exec sb_... --workdir /src -- pytest -q
  skerry exec -t sb_... -- python3
  tar c . | skerry exec sb_... -- tar x -C /src
"""


@click.command("exec", epilog=EXAMPLES)
@click.option("--env", multiple=True, callback=parse_pairs, metavar="KEY=VALUE", help="Set a variable; repeatable.")
@secret_option
@click.option("--timeout", type=float, help="Kill it after this many seconds.")
@click.option("--workdir", metavar="PATH", help="Working directory.")
@click.option("--user", help="User; default: the sandbox's.")
@click.option("--tty", "-t", is_flag=True, help="Run it at a terminal, joined to this one.")
@detach_keys_option
@click.option("--no-stdin", "-n", is_flag=True, help="Give it an empty stdin.")
@click.argument("sandbox", shell_complete=completing.sandboxes)
@click.argument("arguments", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
def command(
    sandbox: str, arguments: tuple[str, ...], tty: bool, detach_keys: bytes, no_stdin: bool, **options: Any
) -> int:
    """Run COMMAND in a sandbox, given by its id, NAME or APP/NAME.

    stdin, stdout, stderr and signals are passed on unchanged. The exit code is the command's; 128 + number if a signal
    ended it; 1 if it could not be started. With --tty keys, Ctrl-C too, go to its terminal, as with `skerry shell`.
    """
    import asyncio

    from skerry.cli.interactive import exec_joined
    from skerry.cli.passing import pass_through
    from skerry.cli.rawmode import RawTerminal

    if tty and no_stdin:
        raise click.UsageError("--tty and --no-stdin exclude each other: a terminal's input is its keys")
    if tty:
        with RawTerminal(0, instead="leave --tty out") as terminal:
            return asyncio.run(exec_joined(sandbox, arguments, options, terminal, detach_keys))
    return asyncio.run(pass_through(sandbox, arguments, no_stdin, options))
