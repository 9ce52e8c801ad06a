"""A user's file as `skerry run` takes it: loaded, searched for entrypoints, its parameters turned into options."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import typing
from pathlib import Path
from types import ModuleType, UnionType
from typing import Any

import click

from skerry.client._async.apps import LocalEntrypoint
from skerry.model.errors import InvalidError

Entrypoint = LocalEntrypoint[..., Any]


def load(file: Path) -> ModuleType:
    """Return the module of a file, run as `python FILE` would find its neighbours."""
    if not file.is_file():
        raise InvalidError(f"{file} is no file; name a Python file with an @app.local_entrypoint()")
    sys.path.insert(0, str(file.resolve().parent))
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise InvalidError(f"{file} is no Python file (its name must end in .py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module


def entrypoint(module: ModuleType, name: str | None, file: Path) -> Entrypoint:
    """Return the entrypoint to run: the named one, else the only one, else `main`."""
    found: dict[str, Entrypoint] = {}
    for value in vars(module).values():
        if isinstance(value, LocalEntrypoint):
            found.setdefault(value.name, value)
    if not found:
        raise InvalidError(f"{file} has no entrypoint; mark a function with @app.local_entrypoint()")
    chosen = name or (next(iter(found)) if len(found) == 1 else "main")
    if chosen not in found:
        names = ", ".join(sorted(found))
        raise InvalidError(f"{file}: there is no entrypoint {chosen!r}; name one of {names}: skerry run {file}::NAME")
    return found[chosen]


def parse(target: Entrypoint, argv: list[str], prog: str) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments for an entrypoint out of a command line: `--name VALUE` for each of its parameters."""
    parameters = inspect.signature(target.function).parameters.values()
    rest = next((one.name for one in parameters if one.kind is inspect.Parameter.VAR_POSITIONAL), None)
    if rest is not None:
        return list(argv), {}
    hints = _hints(target)
    options: list[click.Parameter] = [
        _option(one, hints.get(one.name, str)) for one in parameters if one.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    command = click.Command(prog, params=options, help=inspect.getdoc(target.function), callback=lambda **given: given)
    given: dict[str, Any] = command.main(args=argv, prog_name=prog, standalone_mode=False)
    if not isinstance(given, dict):  # --help was printed
        raise click.exceptions.Exit(0)
    return [], given


def _hints(target: Entrypoint) -> dict[str, Any]:
    try:
        return typing.get_type_hints(target.function)
    except Exception:
        # An annotation that cannot be evaluated only costs the conversion; the value arrives as text.
        return {}


def _option(parameter: inspect.Parameter, hint: Any) -> click.Option:
    flag = "--" + parameter.name.replace("_", "-")
    required = parameter.default is inspect.Parameter.empty
    kind = _plain_type(hint)
    if kind is bool:
        default = False if required else parameter.default
        return click.Option([f"{flag}/--no-{flag[2:]}", parameter.name], default=default, show_default=True)
    converted = kind if kind in (int, float, str) else str
    if required:
        return click.Option([flag, parameter.name], type=converted, required=True)
    default = parameter.default
    return click.Option([flag, parameter.name], type=converted, default=default, show_default=default is not None)


def _plain_type(hint: Any) -> Any:
    """Return `X` for `X | None`."""
    if typing.get_origin(hint) in (typing.Union, UnionType):
        parts = [part for part in typing.get_args(hint) if part is not type(None)]
        return parts[0] if len(parts) == 1 else str
    return hint
