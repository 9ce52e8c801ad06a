"""`skerry version`: of this program, and of the server if one runs."""

from __future__ import annotations

from typing import Any

import click

from skerry.cli.options import json_option

EXAMPLES = """\b
Examples:
  skerry version
  skerry version --json
"""


@click.command("version", epilog=EXAMPLES)
@json_option
def command(as_json: bool) -> None:
    """Print the version of this program, and of the server if one runs."""
    import asyncio

    from skerry.cli.output import print_json
    from skerry.version import version
    from skerry.wire.native import PROTOCOL

    server = asyncio.run(_health())
    if as_json:
        print_json({"version": version(), "protocol": PROTOCOL, "server": server})
        return
    print(f"skerry {version()} (protocol {PROTOCOL})")
    if server is None:
        print("server: none runs")
    else:
        print(f"server: {server['version']} (protocol {server['protocol']}, pid {server['pid']})")


async def _health() -> dict[str, Any] | None:
    """Return what a running server says; none is started for this."""
    from skerry import aio
    from skerry.model.errors import Error

    client = aio.connect(autostart=False)
    try:
        connection = await client.connection()
        health: dict[str, Any] = await connection.call("GET", "/v1/health", timeout=5)
        return health
    except Error:
        return None
