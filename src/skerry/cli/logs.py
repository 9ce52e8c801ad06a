"""`skerry logs`: what a process in a sandbox has written."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from skerry.cli import completing
from skerry.cli.options import json_lines_option, seconds_of

if TYPE_CHECKING:
    from skerry.client.logentry import LogEntry

EXAMPLES = """\b
Examples:
  skerry logs sb_...
  skerry logs -f --tail 20 sb_...
  skerry logs --process pr_... --stderr --since 10m sb_...
"""


def parse_since(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | None:
    """Return the Unix time of `90s`, `10m`, `2h`, `1d` ago, or of an ISO 8601 date and time."""
    from datetime import datetime

    if value is None:
        return None
    if (length := seconds_of(value)) is not None:
        return time.time() - length
    try:
        return datetime.fromisoformat(value).timestamp()
    except (ValueError, OverflowError, OSError) as exc:
        raise click.BadParameter(
            f"{value!r} is neither a length of time such as 90s, 10m, 2h or 1d nor a time such as 2026-01-31T12:00"
        ) from exc


@click.command("logs", epilog=EXAMPLES)
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes, until the process has ended.")
@click.option("--process", metavar="PROCESS", help="Of this process; default: the entrypoint. `skerry ps` shows them.")
@click.option("--stdout", "source", flag_value="stdout", help="Only stdout.")
@click.option("--stderr", "source", flag_value="stderr", help="Only stderr.")
@click.option("--tail", "-n", type=click.IntRange(min=0), metavar="N", help="Only the last N lines of each.")
@click.option("--since", callback=parse_since, metavar="WHEN", help="Only what came since 90s, 10m, 2h, 1d or a time.")
@click.option("--raw", is_flag=True, help="Show control characters on a terminal as they are.")
@json_lines_option
@click.argument("sandbox", shell_complete=completing.sandboxes)
def command(sandbox: str, raw: bool, as_json: bool, **options: Any) -> int:
    """Show what a process has written, of an ended sandbox too, for as long as that is kept.

    stdout goes to stdout and stderr to stderr, in the order of time to the second, byte for byte where that is no
    terminal. On a terminal control characters are made visible. What is not kept any more is told on stderr.
    """
    import asyncio

    asyncio.run(_show(sandbox, raw, as_json, **options))
    return 0


async def _show(
    sandbox: str,
    raw: bool,
    as_json: bool,
    *,
    follow: bool,
    process: str | None,
    source: str | None,
    tail: int | None,
    since: float | None,
) -> None:
    from skerry.cli.naming import find
    from skerry.client import logs
    from skerry.client.client import resolve
    from skerry.wire.frames import STDERR, STDOUT

    box = await find(sandbox, ended_too=True)
    wanted = logs.Wanted(
        sandbox=box.object_id,
        process=process or logs.ENTRYPOINT,
        channels={"stdout": (STDOUT,), "stderr": (STDERR,)}.get(source or "", (STDOUT, STDERR)),
        tail=tail,
        since=since,
        follow=follow,
        each=as_json,
    )
    page = _Lines() if as_json else _Page(raw)
    async for batch in logs.batches(resolve(None), wanted):
        await page.show(batch)
    await page.close()


class _Page:
    """Shows a log on our own stdout and stderr."""

    def __init__(self, raw: bool) -> None:
        import os
        import sys

        from skerry.cli.harmless import Harmless

        self._targets = {"stdout": sys.stdout.fileno(), "stderr": sys.stderr.fileno()}
        self._harmless = {
            source: Harmless() for source, target in self._targets.items() if os.isatty(target) and not raw
        }

    async def show(self, batch: list[LogEntry]) -> None:
        from itertools import groupby

        from skerry.cli.output import tell

        for source, entries in groupby(batch, key=lambda entry: entry.source):
            if source == "system":
                for entry in entries:
                    tell(entry.message.strip())
            else:
                await self._write(source, b"".join(entry.data for entry in entries))

    async def close(self) -> None:
        for source in self._harmless:
            await self._write(source, b"", last=True)

    async def _write(self, source: str, data: bytes, *, last: bool = False) -> None:
        import asyncio

        from skerry.cli.passing import write_all

        harmless = self._harmless.get(source)
        shown = data if harmless is None else harmless.feed(data, last=last)
        await asyncio.to_thread(write_all, self._targets[source], shown)


class _Lines:
    """Shows a log as JSON, an object a line."""

    async def show(self, batch: list[LogEntry]) -> None:
        import asyncio
        import sys

        from skerry.cli.passing import write_all

        text = "".join(f"{_as_json(entry)}\n" for entry in batch)
        await asyncio.to_thread(write_all, sys.stdout.fileno(), text.encode())

    async def close(self) -> None:
        """Nothing is held back."""


def _as_json(entry: LogEntry) -> str:
    """Return an entry; a line that is no UTF-8 has its bytes in base 64 instead of text."""
    import base64
    import json

    told: dict[str, object] = {
        "time": entry.timestamp.timestamp(),
        "process": entry.context_ids[0],
        "source": entry.source,
        "offset": entry.offset,
    }
    try:
        told["text"] = entry.data.decode()
    except UnicodeDecodeError:
        told["base64"] = base64.b64encode(entry.data).decode()
    return json.dumps(told, ensure_ascii=True)
