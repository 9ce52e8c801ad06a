"""What a caller passes, checked and turned into the model's fields. Errors speak the caller's words.

The server checks everything again. What is checked here is what it could only report in other words, or what could not
even be sent.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from skerry.model import limits
from skerry.model.errors import InvalidError
from skerry.model.guestpath import parse_guest_path
from skerry.model.specs import Isolation, NetworkPolicy

Amount = float | tuple[float, float] | None


def argv(words: Sequence[object], *, call: str) -> tuple[str, ...]:
    """Return the words of a command line; raises InvalidError naming the one that cannot be one."""
    total = 0
    for index, word in enumerate(words):
        if not isinstance(word, str):
            kind = type(word).__name__
            raise InvalidError(f"{call}: argument {index} is a {kind}; a command line consists of strings")
        total += len(_utf8(word, f"{call}: argument {index}")) + 1
    if total > limits.ARGV_BYTES:
        raise InvalidError(
            f"{call}: the arguments have {total} bytes with a NUL each, at most {limits.ARGV_BYTES} are allowed; "
            "write long input to a file with sandbox.filesystem or to the process's stdin"
        )
    return tuple(str(word) for word in words)


def environment(env: Mapping[str, str | None] | None, *, call: str) -> dict[str, str]:
    """Return the variables that have a value; raises InvalidError naming the key that cannot be one."""
    clean: dict[str, str] = {}
    total = 0
    for key, value in (env or {}).items():
        if not isinstance(key, str) or not key or "=" in key or "\0" in key:
            raise InvalidError(f"{call}: env key {key!r} must be a non-empty string without '=' and NUL")
        if value is None:
            continue
        if not isinstance(value, str):
            raise InvalidError(f"{call}: env[{key!r}] is a {type(value).__name__}; give a string")
        total += len(_utf8(key, f"{call}: env key")) + len(_utf8(value, f"{call}: env[{key!r}]")) + 2
        clean[key] = value
    if total > limits.ENV_BYTES:
        raise InvalidError(f"{call}: the environment has {total} bytes, at most {limits.ENV_BYTES} are allowed")
    return clean


def secret_env(env: object, *, call: str) -> dict[str, str]:
    """Return the variables of a secret; no message shows a value, or a key that may be one."""
    if not isinstance(env, Mapping):
        raise InvalidError(f"{call}: the variables are a {type(env).__name__}; give a dict of strings")
    clean: dict[str, str] = {}
    for index, (key, value) in enumerate(env.items()):
        if not isinstance(key, str) or not key or "=" in key or "\0" in key or not key.isprintable():
            raise InvalidError(f"{call}: key {index + 1} cannot be the name of a variable: a text without '=' and NUL")
        if value is None:
            continue
        if not isinstance(value, str):
            raise InvalidError(f"{call}: the value of {key!r} is a {type(value).__name__}; give a string")
        if "\0" in value or not _is_utf8(value):
            raise InvalidError(f"{call}: the value of {key!r} holds a NUL character, or is not valid UTF-8")
        clean[key] = value
    return clean


def local_environ(keys: object, *, call: str) -> dict[str, str]:
    """Return variables of this program; one that is not set raises InvalidError."""
    wanted = names(keys, "env_keys")
    missing = [key for key in wanted if key not in os.environ]
    if missing:
        raise InvalidError(f"{call}: {', '.join(map(repr, missing))} is not set in the environment of this program")
    return {key: os.environ[key] for key in wanted}


def names(given: object, what: str) -> tuple[str, ...]:
    """Return a collection of names."""
    if isinstance(given, str) or not isinstance(given, Collection):
        raise InvalidError(f"Secret: {what} is a {type(given).__name__}; give a list of names")
    if not all(isinstance(one, str) and _is_utf8(one) for one in given):
        raise InvalidError(f"Secret: {what} has something that is no name; give a list of strings")
    return tuple(given)


def sandbox_name(value: object, *, call: str) -> str | None:
    """Return the name of a sandbox; the server says which names there can be."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidError(f"{call}: name={value!r} is no string")
    _utf8(value, f"{call}: name")
    return value


def tags(values: object, *, call: str) -> dict[str, str]:
    """Return tags as the server takes them; raises InvalidError for what is no mapping of strings."""
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise InvalidError(f"{call}: tags={values!r}: give a dict of strings, such as {{'task': '42'}}")
    for key, value in values.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise InvalidError(f"{call}: the tag {key!r}: {value!r} is not of strings; write str(...) around its parts")
        _utf8(key, f"{call}: the key of a tag")
        _utf8(value, f"{call}: the tag {key!r}")
    return dict(values)


def workdir(path: str | None, *, call: str) -> str | None:
    return None if path is None else parse_guest_path(str(path), what=f"{call}: workdir")


def lifetime(timeout: float | None) -> float:
    """Return the lifetime of a sandbox in seconds; None means the default."""
    if timeout is None:
        return limits.LIFETIME_DEFAULT_S
    return _seconds(timeout, limits.LIFETIME_MAX_S, "Sandbox.create: timeout")


def idle_timeout(seconds: float | None) -> float | None:
    return None if seconds is None else _seconds(seconds, limits.IDLE_TIMEOUT_MAX_S, "Sandbox.create: idle_timeout")


def exec_timeout(timeout: float | None) -> float | None:
    return None if timeout is None else _seconds(timeout, limits.EXEC_TIMEOUT_MAX_S, "Sandbox.exec: timeout")


def cpu_fields(cpu: Amount) -> dict[str, Any]:
    """Return the fields for cores: a request, or a request and a limit."""
    if cpu is None:
        return {}
    request, limit = _pair(cpu, "cpu", "cores")
    if request < limits.CPU_MIN:
        raise InvalidError(f"Sandbox.create: cpu={cpu!r}: a request is at least {limits.CPU_MIN} cores")
    return {"cpu": request} | ({} if limit is None else {"cpu_limit": limit})


def memory_fields(memory: Amount) -> dict[str, Any]:
    """Return the fields for memory in MiB: a request, or a request and a limit."""
    if memory is None:
        return {}
    request, limit = _pair(memory, "memory", "MiB")
    if request < limits.MEMORY_MIN_MIB:
        raise InvalidError(f"Sandbox.create: memory={memory!r}: a request is at least {limits.MEMORY_MIN_MIB} MiB")
    fields = {"memory_mib": request} | ({} if limit is None else {"memory_limit_mib": limit})
    return {name: math.ceil(value) for name, value in fields.items()}


def network(block_network: bool) -> str:
    return (NetworkPolicy.BLOCKED if block_network else NetworkPolicy.OPEN).value


def isolation(name: str) -> str:
    """Return the level of isolation; raises InvalidError for one that does not exist, never picks another."""
    try:
        return Isolation(name).value
    except ValueError as exc:
        known = ", ".join(repr(level.value) for level in Isolation)
        raise InvalidError(f"Sandbox.create: isolation={name!r} is not known; there is {known}") from exc


def _seconds(value: object, most: float, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InvalidError(f"{what}={value!r} is no number of seconds")
    if not 0 < value <= most:
        raise InvalidError(f"{what}={value!r}: give more than 0 and at most {most:.0f} seconds")
    return float(value)


def _pair(value: object, name: str, unit: str) -> tuple[float, float | None]:
    parts = value if isinstance(value, (tuple, list)) else (value,)
    numbers = [part for part in parts if isinstance(part, (int, float)) and not isinstance(part, bool)]
    if len(numbers) != len(parts) or len(parts) not in (1, 2) or not all(math.isfinite(part) for part in numbers):
        raise InvalidError(f"Sandbox.create: {name}={value!r}: give a number of {unit} or a pair (request, limit)")
    request, limit = numbers[0], numbers[1] if len(numbers) == 2 else None
    if request < 0 or (limit is not None and limit < request):
        raise InvalidError(
            f"Sandbox.create: {name}={value!r}: a request is not negative and a limit not below its request"
        )
    return request, limit


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _utf8(text: str, what: str) -> bytes:
    if "\0" in text:
        raise InvalidError(f"{what} holds a NUL character, which no program can receive")
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise InvalidError(f"{what} is not valid UTF-8 ({exc.reason}); pass such bytes by file or stdin") from exc
