"""Secrets: variables whose values are shown to nobody but the processes that get them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from skerry.model.ids import SecretId


class Hidden:
    """Variables whose values do not show, neither as text nor in a dataclass that has them; no encoder takes them."""

    __slots__ = ("_env",)

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        self._env = dict(env or {})

    def reveal(self) -> dict[str, str]:
        """Return the values; whoever calls this hands them on to a process, or to a vault."""
        return dict(self._env)

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(sorted(self._env))

    def __bool__(self) -> bool:
        return bool(self._env)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hidden) and other._env == self._env

    def __hash__(self) -> int:
        return hash(self.keys)

    def __repr__(self) -> str:
        return f"<{len(self._env)} hidden variables>"


NO_SECRETS: Final = Hidden()


@dataclass(frozen=True, kw_only=True)
class NamedSecret:
    """A stored secret, asked for by its name. It must have at least the required keys."""

    name: str
    required_keys: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GivenSecret:
    """Values that came with the request."""

    env: Hidden


SecretAsk = NamedSecret | GivenSecret


@dataclass(frozen=True, kw_only=True)
class SecretSource:
    """Where secret variables of a sandbox came from, as everyone may see it.

    It is a stored secret's name, or the keys of what came with the request.
    """

    name: str | None = None
    keys: tuple[str, ...] = ()


def sources(asks: Iterable[SecretAsk]) -> tuple[SecretSource, ...]:
    """Return what may be seen of what was asked for."""
    return tuple(
        SecretSource(name=ask.name) if isinstance(ask, NamedSecret) else SecretSource(keys=ask.env.keys) for ask in asks
    )


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """Something encrypted: with which key, and the bytes."""

    key: str
    data: bytes


@dataclass(frozen=True, kw_only=True)
class SecretView:
    """A stored secret as its owner sees it: never its values. Times are Unix seconds."""

    id: SecretId
    name: str
    keys: tuple[str, ...]
    created_at: float
    updated_at: float
    used_at: float | None = None


@dataclass(frozen=True, kw_only=True)
class SecretRow:
    """A stored secret as it is kept."""

    view: SecretView
    sealed: Sealed = field(repr=False)
