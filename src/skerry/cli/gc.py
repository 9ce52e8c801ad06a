"""`skerry gc`: what the server keeps, what it costs, and what may go."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from skerry.cli.options import json_option, parse_length

if TYPE_CHECKING:
    from skerry.model.storage import StoredThing

EXAMPLES = """\b
Examples:
  skerry gc --dry-run
  skerry gc --all
  skerry gc --older-than 2d --json | jq '.went | map(.bytes) | add'
"""
HEAD = ("WHAT", "COUNT", "TAKES", "MAY GO", "WHY THE REST STAYS")
THINGS = ("WHAT", "ID", "TAKES", "USED", "GOES", "WHY")


@click.command("gc", epilog=EXAMPLES)
@click.option("--dry-run", is_flag=True, help="Remove nothing.")
@click.option("--all", "everything", is_flag=True, help="Images that nobody uses, and all ended sandboxes, go too.")
@click.option("--older-than", callback=parse_length, metavar="LENGTH", help="What was not used for 90s, 10m, 2h, 1d.")
@click.option("--verbose", "-v", is_flag=True, help="List each thing.")
@json_option
def command(dry_run: bool, everything: bool, older_than: float | None, verbose: bool, as_json: bool) -> None:
    """Remove what the server need not keep, and tell what it keeps and why.

    It does so by itself: every few minutes what is beyond the bounds of its settings goes, unused images and ended
    sandboxes with their output. This does it now. With --all or --older-than more goes: never what a sandbox or a
    build uses, what was used within the last minute, or a volume.
    """
    import asyncio

    from skerry.cli.output import print_json

    if everything and older_than is not None:
        raise click.UsageError("--all and --older-than exclude each other: --all is everything that nobody uses")
    went, kept = asyncio.run(_cleaned(dry_run, 0.0 if everything else older_than))
    if as_json:
        print_json({"went": [asdict(one) for one in went], "kept": [asdict(one) for one in kept]})
    else:
        _print(went, kept, dry_run=dry_run, verbose=verbose)


async def _cleaned(dry_run: bool, older_than_s: float | None) -> tuple[Sequence[StoredThing], Sequence[StoredThing]]:
    from skerry.client._core import views
    from skerry.client.client import resolve

    connection = await resolve(None).connection()
    if dry_run:
        query: dict[str, object] = {"older_than_s": older_than_s}
        return views.storage(await connection.call("GET", "/v1/storage", query=query))
    body = {"older_than_s": older_than_s}
    return views.storage(await connection.call("POST", "/v1/storage/collect", body=body))


def _print(went: Sequence[StoredThing], kept: Sequence[StoredThing], *, dry_run: bool, verbose: bool) -> None:
    from skerry.cli.output import amount, print_table

    if verbose:
        print_table(THINGS, [_thing_row(one) for one in (*went, *kept)])
    else:
        kinds = list(dict.fromkeys(one.kind for one in kept))
        print_table(HEAD, [_kind_row([one for one in kept if one.kind is kind]) for kind in kinds])
    goes = [one for one in kept if one.goes] if dry_run else went
    freed = amount(sum(one.bytes for one in goes))
    print(f"{'would go' if dry_run else 'gone'}: {len(goes)} of {len(went) + len(kept)}, {freed}")


def _kind_row(things: Sequence[StoredThing]) -> tuple[str, ...]:
    from skerry.cli.output import amount

    goes = [one for one in things if one.goes]
    reasons = Counter(one.why.partition(" (")[0] for one in things if not one.goes)
    return (
        things[0].kind.value,
        str(len(things)),
        amount(sum(one.bytes for one in things)),
        amount(sum(one.bytes for one in goes)),
        "; ".join(f"{count}: {why}" for why, count in reasons.most_common()),
    )


def _thing_row(one: StoredThing) -> tuple[str, ...]:
    from skerry.cli.output import amount, duration

    used = "" if one.used_at is None else f"{duration(time.time() - one.used_at)} ago"
    return (one.kind.value, one.id, amount(one.bytes), used, "yes" if one.goes else "", one.why)
