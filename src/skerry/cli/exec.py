"""`skerry exec`: one command in a running sandbox, as if it ran here."""

from __future__ import annotations

from typing import Any

import click

from skerry.cli.options import parse_env

EXAMPLES = """\b
Examples:
  skerry exec sb_... -- python3 -V
  skerry exec sb_... --workdir /src -- pytest -q
  tar c . | skerry exec sb_... -- tar x -C /src
"""


@click.command("exec", epilog=EXAMPLES)
@click.option("--env", multiple=True, callback=parse_env, metavar="KEY=VALUE", help="Set a variable; repeatable.")
@click.option("--timeout", type=float, help="Kill it after this many seconds.")
@click.option("--workdir", metavar="PATH", help="Working directory.")
@click.option("--user", help="User; default: the sandbox's.")
@click.option("--no-stdin", "-n", is_flag=True, help="Give it an empty stdin.")
@click.argument("sandbox")
@click.argument("arguments", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
def command(sandbox: str, arguments: tuple[str, ...], no_stdin: bool, **options: Any) -> int:
    """Run COMMAND in a sandbox.

    stdin, stdout, stderr and signals are passed on unchanged. The exit code is the command's; 128 + number if a signal
    ended it; 1 if it could not be started.
    """
    import asyncio

    from skerry.cli.passing import pass_through

    return asyncio.run(pass_through(sandbox, arguments, no_stdin, options))
