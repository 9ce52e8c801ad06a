"""Named SQL: `-- name: act` in a file beside its noun becomes an entry of that file's table."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Final

_MARK: Final = "-- name:"


def load_queries(noun: str) -> Mapping[str, str]:
    """Return the statements of `noun`.sql by their names."""
    return parse_queries(resources.files(__package__).joinpath(f"{noun}.sql").read_text("utf-8"))


def parse_queries(text: str) -> Mapping[str, str]:
    """Return the statements in `text` by their names; a name given twice is a ValueError."""
    queries: dict[str, str] = {}
    for part in text.split(_MARK)[1:]:
        name, _, statement = part.partition("\n")
        if name.strip() in queries:
            raise ValueError(f"the query {name.strip()!r} is there twice")
        queries[name.strip()] = statement.strip()
    return queries


def load_migrations() -> list[tuple[int, str]]:
    """Return the migrations, each with its number, in order."""
    folder = resources.files(__package__).joinpath("migrations")
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
    return [(int(file.name.split("_", 1)[0]), file.read_text("utf-8")) for file in files]
