"""What stored secrets need: a place for their rows, and something that encrypts them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from skerry.model.secrets import Sealed, SecretRow


class SecretStore(Protocol):
    """The rows of stored secrets."""

    async def insert(self, row: SecretRow, *, idempotency_key: str | None = None) -> SecretRow:
        """Insert it, or return the secret that was made with the same key; raises AlreadyExistsError."""

    async def replace(self, row: SecretRow) -> None:
        """Replace its keys and values; one that was deleted meanwhile raises NotFoundError."""

    async def use(self, names: Sequence[str], at: float) -> None:
        """Note when they were used last."""

    async def delete(self, name: str) -> None:
        """Delete it; deleting it again changes nothing."""

    def count(self) -> int: ...

    def get(self, name: str) -> SecretRow | None: ...

    def by_key(self, idempotency_key: str) -> SecretRow | None: ...

    def newest(self, *, before: float | None, limit: int) -> Sequence[SecretRow]:
        """Return the newest, newest first, made strictly before `before`."""

    def sealed_otherwise(self, key: str) -> Sequence[SecretRow]:
        """Return those that another key encrypted."""


class Vault(Protocol):
    """Encrypts what is kept, with keys that are kept elsewhere."""

    @property
    def current(self) -> str | None:
        """The id of the key that encrypts; None before the first use."""

    def seal(self, plain: bytes, context: str) -> Sealed:
        """Return `plain` encrypted, bound to its context."""

    def open(self, sealed: Sealed, context: str) -> bytes:
        """Return what was encrypted for this context; raises ConflictError if its key is gone, or if it was changed."""

    def rotate(self) -> str:
        """Make a new key, which encrypts from now on, and return its id."""

    def drop_retired(self) -> None:
        """Remove keys that were replaced long enough ago."""
