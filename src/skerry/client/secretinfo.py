"""What is known of a stored secret."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from skerry.model.errors import InvalidError
from skerry.model.secrets import SecretView


@dataclass(frozen=True, kw_only=True)
class SecretInfo:
    """A stored secret without its values. There are no users and environments here: those are None."""

    name: str
    keys: tuple[str, ...]
    created_at: datetime
    updated_at: datetime
    last_used: datetime | None
    created_by: str | None = None
    environment_name: str | None = None

    @classmethod
    def _of(cls, view: SecretView) -> SecretInfo:
        return cls(
            name=view.name,
            keys=view.keys,
            created_at=_local(view.created_at),
            updated_at=_local(view.updated_at),
            last_used=None if view.used_at is None else _local(view.used_at),
        )


def as_timestamp(when: datetime | str | None) -> float | None:
    """Return Unix seconds of a time or an ISO date; a time without a zone is this machine's."""
    if when is None:
        return None
    try:
        return (datetime.fromisoformat(when) if isinstance(when, str) else when).timestamp()
    except (ValueError, AttributeError, OverflowError, OSError) as exc:
        raise InvalidError(f"created_before={when!r} is no time; give a datetime or an ISO date") from exc


def _local(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC).astimezone()
