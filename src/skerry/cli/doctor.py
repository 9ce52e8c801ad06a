"""`skerry doctor`: what this machine can do, and exactly what is missing."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import click

from skerry.cli.options import json_option

EXAMPLES = """\b
Examples:
  skerry doctor
  skerry doctor --json | jq '.[] | select(.status == "missing")'
"""
SECONDS: Final = 1.0
_MARKS: Final = {"ok": "ok", "note": "note", "missing": "MISSING"}


@click.command("doctor", epilog=EXAMPLES)
@json_option
def command(as_json: bool) -> int:
    """Look at this machine piece by piece.

    Each line that is not `ok` ends with the command that mends it. Nothing is changed, and no server is started. The
    exit code is 1 if something is missing.
    """
    from skerry.cli.output import print_json

    findings = examine()
    if as_json:
        print_json(findings)
    else:
        _print(findings)
    return 1 if any(one["status"] == "missing" for one in findings) else 0


def examine() -> list[dict[str, str]]:
    """Return what every probe found, each bounded to a second."""
    from skerry.apps.probes import PROBES, as_data
    from skerry.cli.bounded import run_all

    outcomes = run_all([partial(as_data, probe) for probe in PROBES.values()], SECONDS)
    return [{"name": name, **_finding(name, outcome)} for name, outcome in zip(PROBES, outcomes, strict=True)]


def _finding(name: str, outcome: Any) -> dict[str, str]:
    """Return a finding also for a probe that hung or failed."""
    from skerry.apps.probes import MENDS
    from skerry.cli.bounded import Hung

    if isinstance(outcome, dict):
        return outcome
    text = "no answer within a second" if isinstance(outcome, Hung) else str(outcome)
    return {"status": "missing", "text": text, "mend": MENDS.get(name, "")}


def _print(findings: list[dict[str, str]]) -> None:
    from skerry.model.text import printable

    width = max(len(one["name"]) for one in findings)
    for one in findings:
        print(f"{one['name']:<{width}}  {_MARKS[one['status']]:<7}  {printable(one['text'], keep='')}")
        if one["mend"]:
            print(f"{'':<{width}}  {'':<7}  -> {one['mend']}")
