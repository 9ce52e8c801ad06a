"""What gVisor's control socket takes, as its own Go types say; `shapes.json` is printed from them."""

from __future__ import annotations

import base64
import binascii
import copy
import ipaddress
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

JsonObject = dict[str, Any]


class ShapeError(ValueError):
    """An argument of a control call does not fit gVisor's type; the message opens with the JSON path."""


@dataclass(frozen=True, slots=True)
class Method:
    """One control call: type expressions of its argument and answer, and whether descriptors travel along."""

    argument: str
    files: bool
    result: str
    result_files: bool


@dataclass(frozen=True, slots=True)
class Shapes:
    """The content of `shapes.json`."""

    gvisor: str
    methods: Mapping[str, Method]
    types: Mapping[str, Mapping[str, str]]
    default_conf: JsonObject


@cache
def shapes() -> Shapes:
    """Return the shapes of the gVisor that this version of skerry was made for."""
    document = json.loads(Path(__file__).with_name("shapes.json").read_text())
    return Shapes(
        gvisor=document["gvisor"],
        methods={name: Method(**method) for name, method in document["methods"].items()},
        types=document["types"],
        default_conf=document["default_conf"],
    )


def default_conf() -> JsonObject:
    """Return a new copy of the Conf that runsc makes when no flag is given, to be overridden."""
    return copy.deepcopy(shapes().default_conf)


def conform(method: str, argument: object) -> None:
    """Raise ShapeError with the path of the first field that gVisor does not know or reads as another type.

    gVisor itself ignores unknown fields, so that a wrong name would become a silent zero.
    """
    _require(_method(method).argument, argument, "$")


def conform_result(method: str, result: object) -> None:
    """Raise ShapeError unless the answer to a call has the form that gVisor's type gives it."""
    _require(_method(method).result, result, "$")


def _method(name: str) -> Method:
    try:
        return shapes().methods[name]
    except KeyError:
        raise ShapeError(
            f"{name} is not among the control calls in shapes.json; add it to runtime/cmd/shapes/methods.go"
        ) from None


def _require(expression: str, value: object, path: str) -> None:
    if expression.startswith("*"):
        if value is not None:
            _require(expression[1:], value, path)
    elif expression.startswith("[]"):
        _require_list(expression[2:], value, path)
    elif expression.startswith("map[string]"):
        _require_map(expression.removeprefix("map[string]"), value, path)
    elif expression in shapes().types:
        _require_object(expression, value, path)
    elif expression != "any" and not _SCALARS[expression](value):
        raise ShapeError(f"{path}: gVisor reads {_described(expression)} here, not {_shown(value)}")


def _require_list(element: str, value: object, path: str) -> None:
    if value is None:
        return
    if not isinstance(value, list | tuple):
        raise ShapeError(f"{path}: gVisor reads a list here, not {_shown(value)}")
    for index, item in enumerate(value):
        _require(element, item, f"{path}[{index}]")


def _require_map(element: str, value: object, path: str) -> None:
    if value is None:
        return
    for key, item in _items(value, path):
        _require(element, item, f"{path}[{key!r}]")


def _require_object(name: str, value: object, path: str) -> None:
    fields = shapes().types[name]
    if value is None and not fields:  # a call without an argument
        return
    for key, item in _items(value, path):
        if key not in fields:
            raise ShapeError(f"{path}.{key}: gVisor's {name} has no such field; it has {', '.join(sorted(fields))}")
        _require(fields[key], item, f"{path}.{key}")


def _items(value: object, path: str) -> list[tuple[str, object]]:
    if not isinstance(value, dict):
        raise ShapeError(f"{path}: gVisor reads an object here, not {_shown(value)}")
    for key in value:
        if not isinstance(key, str):
            raise ShapeError(f"{path}: the key {key!r} is not text")
    return list(value.items())


def _described(expression: str) -> str:
    words = {
        "bytes": "bytes as base64 text",
        "ip": "an address as text",
        "never": "nothing (the field is the sentry's own)",
    }
    return words.get(expression, expression)


def _shown(value: object) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def _integer(bits: int, *, signed: bool) -> Callable[[object], bool]:
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_bytes(value: object) -> bool:
    if value is None:
        return True
    try:
        base64.b64decode(value if isinstance(value, str) else "?", validate=True)
    except binascii.Error:
        return False
    return True


def _is_ip(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        return value == "" or "%" not in str(ipaddress.ip_address(value))
    except ValueError:
        return False


_SCALARS: dict[str, Callable[[object], bool]] = {
    "bool": lambda value: isinstance(value, bool),
    "string": _is_text,
    "text": _is_text,
    "bytes": _is_bytes,
    "ip": _is_ip,
    "never": lambda value: value is None,
    "float32": _is_number,
    "float64": _is_number,
    "int": _integer(64, signed=True),
    "uint": _integer(64, signed=False),
    **{f"int{bits}": _integer(bits, signed=True) for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": _integer(bits, signed=False) for bits in (8, 16, 32, 64)},
}
