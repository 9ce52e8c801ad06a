"""The two ends of a copy, as a command line names them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import click

# A path of this machine that looks like this is written as ./NAME:/PATH.
_REMOTE: Final = re.compile(r"(?P<sandbox>[^:./~][^:]*):(?P<path>.*)", re.DOTALL)
STREAM: Final = "-"


@dataclass(frozen=True)
class Place:
    """Where something is: in a sandbox, or on this machine; `-` is stdin or stdout."""

    sandbox: str | None
    path: str


def parse_place(_ctx: click.Context, _param: click.Parameter, value: str) -> Place:
    found = _REMOTE.fullmatch(value)
    if found is None:
        return Place(None, value)
    if not found["path"].startswith("/"):
        raise click.BadParameter(
            f"{value!r}: a path in a sandbox is absolute, such as {found['sandbox']}:/root; a file of this machine "
            "with a colon in its name is written with ./ before it"
        )
    return Place(found["sandbox"], found["path"])
