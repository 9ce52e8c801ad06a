"""`skerry top`: what sandboxes take from the machine, live."""

from __future__ import annotations

import sys
from typing import Final

import click

from skerry.cli import completing
from skerry.cli.options import json_lines_option

EXAMPLES = """\b
Examples:
  skerry top
  skerry top --once --sort memory
  skerry top --json sb_... | jq -c '[.cpu, .memory_bytes]'
"""
SORTS: Final = ("cpu", "memory", "disk", "processes", "network", "age")


@click.command("top", epilog=EXAMPLES)
@click.option("--once", is_flag=True, help="Print one table, and end.")
@click.option("--interval", type=click.FloatRange(0.5, 60), default=2.0, show_default=True, help="Seconds in between.")
@click.option("--sort", type=click.Choice(SORTS), default="cpu", show_default=True, help="The largest first.")
@json_lines_option
@click.argument("sandbox", required=False, shell_complete=completing.sandboxes)
def command(sandbox: str | None, once: bool, interval: float, sort: str, as_json: bool) -> int:
    """Show CPU, memory, disk, processes and network of all sandboxes that run, or of one.

    On a terminal the screen is drawn anew until `q` or Ctrl-C: `c`, `m`, `d`, `p`, `n` and `a` sort by CPU, memory,
    disk, processes, network and age. Elsewhere one table is printed. CPU is of one core: 200% are two. Nothing is
    measured while nobody looks, and looking is no use that keeps a sandbox from being idle.
    """
    import asyncio

    from skerry.cli.looking import look_at_terminal, print_json_lines, print_once
    from skerry.cli.rawmode import RawTerminal
    from skerry.cli.screen import RESET

    if as_json:
        asyncio.run(print_json_lines(sandbox, interval, once=once))
        return 0
    if once or not (sys.stdin.isatty() and sys.stdout.isatty()):
        asyncio.run(print_once(sandbox, sort))
        return 0
    with RawTerminal(0, instead="say --once", reset=RESET) as terminal:
        return asyncio.run(look_at_terminal(sandbox, interval, sort, terminal))
