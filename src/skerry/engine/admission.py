"""Whether a request can ever succeed: its values against the limits and the machine. Plain functions without I/O."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from skerry.engine.interfaces import NodeView
from skerry.engine.mounts import admit_mounts
from skerry.model import limits
from skerry.model.errors import InvalidError
from skerry.model.guestpath import parse_guest_path
from skerry.model.ids import SANDBOX
from skerry.model.specs import ExecSpec, Resources, SandboxSpec, Terminal

_STDIO = {"stdin": ("pipe", "null"), "stdout": ("pipe", "null"), "stderr": ("pipe", "null", "stdout")}
_USER_CHARS = 256


def default_resources(machine: NodeView) -> Resources:
    """Return what a sandbox gets that asks for nothing: the limits, but never more than the machine can give."""
    base = Resources()
    return replace(
        base,
        cpu_limit=min(base.cpu_limit, machine.cpus),
        memory_limit_mib=min(base.memory_limit_mib, max(limits.MEMORY_MIN_MIB, machine.memory_mib // 2)),
    )


def admit(spec: SandboxSpec, machine: NodeView) -> SandboxSpec:
    """Return the spec with its paths normalised; raises InvalidError naming the value, the bound and the next step."""
    _check_seconds("lifetime_s (`timeout` in the SDK)", spec.lifetime_s, limits.LIFETIME_MAX_S)
    if spec.idle_timeout_s is not None:
        _check_seconds("idle_timeout_s (`idle_timeout` in the SDK)", spec.idle_timeout_s, limits.IDLE_TIMEOUT_MAX_S)
    _check_resources(spec.resources, machine)
    _check_argv(spec.entrypoint)
    check_env(spec.env)
    check_env(spec.host_access.env)
    _check_user(spec.user)
    if spec.terminal is not None:
        _check_terminal(spec.terminal)
    if spec.name is not None:
        _check_sandbox_name(spec.name)
    check_tags(spec.tags)
    return replace(spec, workdir=_workdir(spec.workdir), volumes=admit_mounts(spec.volumes))


def admit_exec(spec: ExecSpec) -> ExecSpec:
    """Return the spec with its working directory normalised; raises InvalidError."""
    if not spec.argv:
        raise InvalidError("the command is empty; name at least a program")
    _check_argv(spec.argv)
    check_env(spec.env)
    if spec.timeout_s is not None:
        _check_seconds("timeout_s (`timeout` in the SDK)", spec.timeout_s, limits.EXEC_TIMEOUT_MAX_S)
    if spec.user is not None:
        _check_user(spec.user)
    for name, allowed in _STDIO.items():
        value = getattr(spec, name)
        if value not in allowed:
            raise InvalidError(f"{name} is {value!r}; it is one of {', '.join(allowed)}")
    if spec.terminal is not None:
        _check_terminal(spec.terminal)
        if (spec.stdin, spec.stdout, spec.stderr) != ("pipe", "pipe", "stdout"):
            raise InvalidError(
                "a terminal is stdin, stdout and stderr of its process in one; "
                "say stdin pipe, stdout pipe and stderr stdout"
            )
    return replace(spec, workdir=_workdir(spec.workdir))


def check_size(rows: int, columns: int) -> None:
    """Raise InvalidError for a size that no terminal can have."""
    for name, side in (("rows", rows), ("columns", columns)):
        if not 1 <= side <= limits.TERMINAL_SIDE_MAX:
            raise InvalidError(f"a terminal of {side} {name} cannot be; give 1 to {limits.TERMINAL_SIDE_MAX:,}")


def check_name(name: str, *, what: str) -> str:
    """Return a name for people: letters, digits, `-`, `_`, `.`, at most 64 characters; raises InvalidError."""
    if not name or len(name) > limits.NAME_CHARS or not plain_name(name):
        raise InvalidError(
            f"{what} {name[: limits.NAME_CHARS + 1]!r} is not a name; "
            f"use 1 to {limits.NAME_CHARS} letters, digits, '-', '_' or '.'"
        )
    return name


def check_tags(tags: Mapping[str, str]) -> None:
    """Raise InvalidError for tags that are too many or too long, or that a terminal could not show as they are."""
    if len(tags) > limits.TAGS_MAX:
        raise InvalidError(f"these are {len(tags)} tags; a sandbox has at most {limits.TAGS_MAX}")
    for key, value in tags.items():
        if not key or len(key) > limits.TAG_KEY_CHARS or not plain_name(key):
            raise InvalidError(
                f"{key[: limits.TAG_KEY_CHARS + 1]!r} cannot be the key of a tag; "
                f"use 1 to {limits.TAG_KEY_CHARS} letters, digits, '-', '_' or '.'"
            )
        if len(value) > limits.TAG_VALUE_CHARS or not value.isprintable():
            raise InvalidError(
                f"the tag {key!r} cannot have the value {value[: limits.TAG_VALUE_CHARS + 1]!r}; "
                f"use at most {limits.TAG_VALUE_CHARS} printable characters"
            )


def _check_sandbox_name(name: str) -> None:
    if check_name(name, what="sandbox name").startswith(f"{SANDBOX}_"):
        raise InvalidError(f"the sandbox name {name!r} begins as ids of sandboxes do; take another one")


def plain_name(text: str) -> bool:
    """Tell whether a text has no characters but those of names."""
    return text.isascii() and all(char.isalnum() or char in "-_." for char in text)


def _check_seconds(what: str, seconds: float, most: float) -> None:
    if not math.isfinite(seconds) or seconds <= 0 or seconds > most:
        raise InvalidError(f"{what} is {seconds:g}; give a number of seconds above 0 and at most {most:g}")


def _check_resources(ask: Resources, machine: NodeView) -> None:
    _check_cpu(ask, machine)
    _check_memory(ask, machine)
    for name in ("disk_mib", "tmp_mib", "shm_mib", "processes"):
        value = getattr(ask, name)
        if value < 1:
            raise InvalidError(f"{name} is {value}; give at least 1")
        if name != "processes" and value > machine.memory_mib:
            raise InvalidError(
                f"{name} is {value}, but the machine has {machine.memory_mib} MiB of memory, "
                "which holds these files; ask for less"
            )


def _check_cpu(ask: Resources, machine: NodeView) -> None:
    for name in ("cpu", "cpu_limit"):
        value = getattr(ask, name)
        if not math.isfinite(value) or value < limits.CPU_MIN:
            raise InvalidError(f"{name} is {value:g} cores; give at least {limits.CPU_MIN:g}")
        if value > machine.cpus:
            raise InvalidError(f"{name} is {value:g} cores, but the machine has {machine.cpus:g}; ask for at most that")
    if ask.cpu > ask.cpu_limit:
        raise InvalidError(f"the request of {ask.cpu:g} cores is above the limit of {ask.cpu_limit:g}; raise the limit")


def _check_memory(ask: Resources, machine: NodeView) -> None:
    for name in ("memory_mib", "memory_limit_mib"):
        value = getattr(ask, name)
        if value < limits.MEMORY_MIN_MIB:
            raise InvalidError(f"{name} is {value}; give at least {limits.MEMORY_MIN_MIB} MiB")
        if value > machine.memory_mib:
            raise InvalidError(f"{name} is {value}, but the machine has {machine.memory_mib} MiB; ask for at most that")
    if ask.memory_mib > ask.memory_limit_mib:
        raise InvalidError(
            f"the request of {ask.memory_mib} MiB is above the limit of {ask.memory_limit_mib} MiB; raise the limit"
        )


def _check_argv(argv: Sequence[str]) -> None:
    size = 0
    for index, argument in enumerate(argv):
        if "\0" in argument:
            raise InvalidError(f"argument {index} holds a NUL character, which no program can be given; remove it")
        size += len(_bytes(argument)) + 1
    if size > limits.ARGV_BYTES:
        raise InvalidError(
            f"the arguments take {size:,} bytes, but at most {limits.ARGV_BYTES:,} are allowed; write the data "
            "to a file (`sandbox.filesystem.write_text`) and pass its path, or write it to the process's stdin"
        )


def check_env(env: Mapping[str, str]) -> None:
    """Raise InvalidError for variables that no process can be given; it never shows a value."""
    size = 0
    for key, value in env.items():
        if not key or "=" in key or "\0" in key:
            shown = "".join(key.partition("=")[:2])[:100]  # what follows may be a value
            raise InvalidError(f"the environment key {shown!r} is empty or holds '=' or NUL; rename it")
        if "\0" in value:
            raise InvalidError(f"the value of the environment variable {key[:100]!r} holds a NUL character; remove it")
        size += len(_bytes(key)) + len(_bytes(value)) + 2
    if size > limits.ENV_BYTES:
        raise InvalidError(
            f"the environment takes {size:,} bytes, but at most {limits.ENV_BYTES:,} are allowed; "
            "write the data to a file (`sandbox.filesystem.write_text`) and pass its path"
        )


def _check_terminal(terminal: Terminal) -> None:
    check_size(terminal.rows, terminal.columns)
    term = terminal.term
    if len(term) > limits.TERM_CHARS or not all("!" <= char <= "~" for char in term):
        raise InvalidError(
            f"term {term[: limits.TERM_CHARS]!r} is no type of terminal; give up to {limits.TERM_CHARS} printable "
            "ASCII characters without a space, such as xterm-256color"
        )


def _check_user(user: str) -> None:
    if not user or len(user) > _USER_CHARS or not user.isprintable():
        raise InvalidError(f"user {user[:_USER_CHARS]!r} is no user; give a name, a uid, or either with ':group'")


def _workdir(workdir: str | None) -> str | None:
    return None if workdir is None else parse_guest_path(workdir, what="workdir")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
