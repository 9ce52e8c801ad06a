"""Values for secrets from where nobody else reads them, and what is shown of stored ones."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Final

import click

from skerry.cli.output import duration
from skerry.client import dotenv
from skerry.client._core import arguments
from skerry.model.secrets import SecretView

STDIN: Final = "-"
VALUE_BYTES_MAX: Final = 1 << 20
PAGE: Final = 1000


def collect(keys: Sequence[str], file: str | None, environ: Sequence[str]) -> dict[str, str]:
    """Return the values: of a file, of this process's environment, and of keys typed or read from stdin."""
    env: dict[str, str] = {}
    if file is not None:
        env |= dotenv.parse(_stdin(), "stdin") if file == STDIN else dotenv.read(dotenv.named(file))
    env |= arguments.local_environ(environ, call="--from-environ")
    if keys and file == STDIN:
        raise click.UsageError("stdin is the file already; leave the keys out, or name a file")
    return env | _asked(keys)


async def stored() -> list[SecretView]:
    from skerry.client._async.secrets import all_views

    return await all_views()


def row(view: SecretView) -> tuple[str, ...]:
    now = time.time()
    used = "" if view.used_at is None else f"{duration(now - view.used_at)} ago"
    changed = "" if view.updated_at == view.created_at else f"{duration(now - view.updated_at)} ago"
    return (view.name, ",".join(view.keys), f"{duration(now - view.created_at)} ago", changed, used)


def as_json(view: SecretView) -> dict[str, object]:
    return {
        "name": view.name,
        "keys": list(view.keys),
        "created_at": view.created_at,
        "updated_at": view.updated_at,
        "used_at": view.used_at,
    }


def _asked(keys: Sequence[str]) -> dict[str, str]:
    if not keys:
        return {}
    if sys.stdin.isatty():
        return {key: click.prompt(f"{key!r}"[1:-1], hide_input=True, err=True) for key in keys}
    if len(keys) > 1:
        raise click.UsageError("stdin is no terminal, and can give the value of one KEY only; say --from-dotenv -")
    try:
        text = _stdin().decode()
    except UnicodeDecodeError as exc:
        raise click.UsageError(f"the value on stdin is not UTF-8 text (at byte {exc.start})") from None
    return {keys[0]: text.removesuffix("\n")}


def _stdin() -> bytes:
    content = sys.stdin.buffer.read(VALUE_BYTES_MAX + 1)
    if len(content) > VALUE_BYTES_MAX:
        raise click.UsageError(f"stdin has more than {VALUE_BYTES_MAX:,} bytes, which no variable can hold")
    return content
