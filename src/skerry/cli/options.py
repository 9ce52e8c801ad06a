"""Options that several commands share, and the forms of their values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from skerry.cli import completing, keys

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LENGTH_CHARS = 12

C = TypeVar("C", bound=Callable[..., Any])


def json_option(command: C) -> C:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")(command)


def json_lines_option(command: C) -> C:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text, an object a line.")(
        command
    )


def seconds_of(text: str) -> float | None:
    """Return the length of `90s`, `10m`, `2h` or `1d`; None for another form."""
    fits = len(text) <= _LENGTH_CHARS and text.isascii() and text[:-1].isdecimal() and text[-1:] in _UNITS
    return int(text[:-1]) * _UNITS[text[-1]] if fits else None


def parse_length(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | None:
    seconds = None if value is None else seconds_of(value)
    if value is not None and seconds is None:
        raise click.BadParameter(f"{value!r} is no length of time such as 90s, 10m, 2h or 1d")
    return seconds


def secret_option(command: C) -> C:
    return click.option(
        "--secret",
        "secrets",
        multiple=True,
        callback=_stored_secrets,
        metavar="NAME",
        shell_complete=completing.secrets,
        help="Give it the variables of a stored secret; repeatable, later ones win.",
    )(command)


def tag_option(help: str) -> Callable[[C], C]:
    return click.option(
        "--tag",
        "tags",
        multiple=True,
        callback=parse_pairs,
        metavar="KEY=VALUE",
        shell_complete=completing.tags,
        help=f"{help}; repeatable.",
    )


def detach_keys_option(command: C) -> C:
    return click.option(
        "--detach-keys",
        default=keys.DEFAULT,
        envvar="SKERRY_DETACH_KEYS",
        show_default=True,
        callback=lambda _ctx, _param, value: keys.parse(value),
        metavar="KEYS",
        help="Typed one after the other, leave the command running; `none` for none.",
    )(command)


def volume_option(command: C) -> C:
    return click.option(
        "--volume",
        multiple=True,
        callback=_parse_volumes,
        metavar="NAME:PATH[:ro]",
        help="Mount a volume, created if there is none; repeatable.",
    )(command)


def mounted(volumes: tuple[tuple[str, str, bool], ...]) -> dict[str, Any]:
    """Return the volumes of `--volume` options by their paths."""
    from skerry import Volume

    found: dict[str, Any] = {}
    for name, path, read_only in volumes:
        if path in found:
            raise click.BadParameter(f"two volumes at {path}; choose paths side by side", param_hint="--volume")
        volume = Volume.from_name(name, create_if_missing=True)
        found[path] = volume.read_only() if read_only else volume
    return found


def _parse_volumes(
    _ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[str, str, bool], ...]:
    parsed = []
    for value in values:
        name, _, path = value.partition(":")
        read_only = path.endswith(":ro")
        path = path.removesuffix(":ro")
        if not name or not path:
            raise click.BadParameter(f"{value!r} is not of the form NAME:PATH or NAME:PATH:ro")
        parsed.append((name, path, read_only))
    return tuple(parsed)


def _stored_secrets(_ctx: click.Context, _param: click.Parameter, names: tuple[str, ...]) -> list[Any]:
    if not names:
        return []
    from skerry import aio

    return [aio.Secret.from_name(name) for name in names]


def parse_pairs(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Return the pairs of `K=V` options, such as variables."""
    pairs = {}
    for value in values:
        key, separator, setting = value.partition("=")
        if not separator or not key:
            raise click.BadParameter(f"{value!r} is not of the form KEY=VALUE")
        pairs[key] = setting
    return pairs


def parse_amount(kind: type[float] | type[int]) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    """Return the parser of `REQUEST` or `REQUEST:LIMIT`."""

    def parse(_ctx: click.Context, _param: click.Parameter, value: str | None) -> Any:
        if value is None:
            return None
        try:
            numbers = [kind(part) for part in value.split(":")]
        except ValueError as exc:
            raise click.BadParameter(f"{value!r} is no number or pair REQUEST:LIMIT") from exc
        if len(numbers) > 2:
            raise click.BadParameter(f"{value!r} has more than one colon")
        return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])

    return parse
