"""Stored secrets in memory: their rows, and a vault whose keys are numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from skerry.model.errors import AlreadyExistsError, ConflictError, NotFoundError
from skerry.model.secrets import Sealed, SecretRow


class MemorySecrets:
    """Matches the engine's `SecretStore`."""

    def __init__(self) -> None:
        self._rows: dict[str, SecretRow] = {}
        self._keys: dict[str, str] = {}

    async def insert(self, row: SecretRow, *, idempotency_key: str | None = None) -> SecretRow:
        known = None if idempotency_key is None else self.by_key(idempotency_key)
        if known is not None:
            return known
        if row.view.name in self._rows:
            raise AlreadyExistsError(f"there is a secret {row.view.name!r} already; replace it or take another name")
        self._rows[row.view.name] = row
        if idempotency_key is not None:
            self._keys[idempotency_key] = row.view.name
        return row

    async def replace(self, row: SecretRow) -> None:
        known = self._rows.get(row.view.name)
        if known is None or known.view.id != row.view.id:
            raise NotFoundError(f"there is no secret {row.view.name!r} any more")
        view = replace(known.view, updated_at=row.view.updated_at, keys=row.view.keys)
        self._rows[row.view.name] = SecretRow(view=view, sealed=row.sealed)

    async def use(self, names: Sequence[str], at: float) -> None:
        for name in names:
            row = self._rows.get(name)
            if row is not None:
                self._rows[name] = replace(row, view=replace(row.view, used_at=at))

    async def delete(self, name: str) -> None:
        self._rows.pop(name, None)
        self._keys = {key: owner for key, owner in self._keys.items() if owner != name}

    def count(self) -> int:
        return len(self._rows)

    def get(self, name: str) -> SecretRow | None:
        return self._rows.get(name)

    def by_key(self, idempotency_key: str) -> SecretRow | None:
        return self._rows.get(self._keys.get(idempotency_key, ""))

    def newest(self, *, before: float | None, limit: int) -> Sequence[SecretRow]:
        rows = sorted(self._rows.values(), key=lambda row: row.view.created_at, reverse=True)
        return [row for row in rows if row.view.created_at < (math.inf if before is None else before)][:limit]

    def sealed_otherwise(self, key: str) -> Sequence[SecretRow]:
        return [row for row in self._rows.values() if row.sealed.key != key]


class MemoryVault:
    """Matches the engine's `Vault`. What it seals cannot be read by looking at it, and is not safe from anybody."""

    def __init__(self) -> None:
        self._count = 0
        self._oldest = 1

    @property
    def current(self) -> str | None:
        return f"ky_{self._count}" if self._count else None

    def seal(self, plain: bytes, context: str) -> Sealed:
        self._count = self._count or 1
        return Sealed(key=f"ky_{self._count}", data=_turned(context.encode() + b"\0" + plain))

    def open(self, sealed: Sealed, context: str) -> bytes:
        if not self._oldest <= int(sealed.key.removeprefix("ky_")) <= self._count:
            raise ConflictError(f"{context} was encrypted with key {sealed.key}, which is gone; make it anew")
        bound_to, _, plain = _turned(sealed.data).partition(b"\0")
        if bound_to != context.encode():
            raise ConflictError(f"{context} cannot be decrypted: it was changed, or belongs to something else")
        return plain

    def rotate(self) -> str:
        self._count += 1
        return f"ky_{self._count}"

    def drop_retired(self) -> None:
        self._oldest = max(1, self._count)


def _turned(data: bytes) -> bytes:
    return bytes(byte ^ 0xFF for byte in data)
