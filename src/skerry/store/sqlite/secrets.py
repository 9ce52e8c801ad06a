"""The rows of stored secrets. Values are encrypted before they come here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from skerry.model.errors import AlreadyExistsError, NotFoundError
from skerry.model.ids import SecretId
from skerry.model.secrets import Sealed, SecretRow, SecretView
from skerry.store.sqlite.database import Database, Write
from skerry.store.sqlite.queries import load_queries

QUERIES: Final = load_queries("secrets")


class SecretRows:
    """The secrets in a database. Matches the engine's `SecretStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert(self, row: SecretRow, *, idempotency_key: str | None = None) -> SecretRow:
        """Insert it, or return the secret that was made with the same key; raises AlreadyExistsError."""
        values = {**_values(row), "idempotency_key": idempotency_key}

        def put(write: Write) -> SecretRow:
            if idempotency_key is not None:
                made = write.rows(QUERIES["secret_by_key"], {"key": idempotency_key})
                if made:
                    return _row(made[0])
            if write.rows(QUERIES["secret"], {"name": row.view.name}):
                raise AlreadyExistsError(
                    f"there is a secret {row.view.name!r} already; replace it or take another name"
                )
            write.rows(QUERIES["insert_secret"], values)
            return row

        return await self._database.write(put)

    async def replace(self, row: SecretRow) -> None:
        """Replace its keys and values; one that was deleted meanwhile raises NotFoundError."""
        values = {name: value for name, value in _values(row).items() if name not in ("name", "created_at", "used_at")}

        def put(write: Write) -> None:
            if not write.rows(QUERIES["replace_secret"], values):
                raise NotFoundError(f"there is no secret {row.view.name!r} any more")

        await self._database.write(put)

    async def use(self, names: Sequence[str], at: float) -> None:
        """Note when they were used last."""
        values = {"names": msgspec.json.encode(names).decode(), "at": at}
        await self._database.write(lambda write: write.rows(QUERIES["use_secrets"], values))

    async def delete(self, name: str) -> None:
        """Delete it; deleting it again changes nothing."""
        await self._database.write(lambda write: write.rows(QUERIES["delete_secret"], {"name": name}))

    def count(self) -> int:
        count: int = self._database.read(QUERIES["count_secrets"])[0][0]
        return count

    def get(self, name: str) -> SecretRow | None:
        return _first(self._database.read(QUERIES["secret"], {"name": name}))

    def by_key(self, idempotency_key: str) -> SecretRow | None:
        return _first(self._database.read(QUERIES["secret_by_key"], {"key": idempotency_key}))

    def newest(self, *, before: float | None, limit: int) -> Sequence[SecretRow]:
        values = {"before": math.inf if before is None else before, "limit": limit}
        return [_row(row) for row in self._database.read(QUERIES["newest_secrets"], values)]

    def sealed_otherwise(self, key: str) -> Sequence[SecretRow]:
        """Return those that another key encrypted."""
        return [_row(row) for row in self._database.read(QUERIES["secrets_sealed_otherwise"], {"key": key})]


def _values(row: SecretRow) -> Mapping[str, Any]:
    view = row.view
    return {
        "id": view.id,
        "name": view.name,
        "created_at": view.created_at,
        "updated_at": view.updated_at,
        "used_at": view.used_at,
        "keys": msgspec.json.encode(view.keys).decode(),
        "sealed_with": row.sealed.key,
        "sealed": row.sealed.data,
    }


def _row(row: Sequence[Any]) -> SecretRow:
    identifier, name, created_at, updated_at, used_at, keys, sealed_with, sealed = row
    view = SecretView(
        id=SecretId(identifier),
        name=name,
        keys=msgspec.json.decode(keys, type=tuple[str, ...]),
        created_at=created_at,
        updated_at=updated_at,
        used_at=used_at,
    )
    return SecretRow(view=view, sealed=Sealed(key=sealed_with, data=sealed))


def _first(rows: Sequence[Sequence[Any]]) -> SecretRow | None:
    return _row(rows[0]) if rows else None
