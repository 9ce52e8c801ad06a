"""Stored secrets, and the variables that requests get from them. Values leave here only towards a process."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Final

import msgspec

from skerry.engine.admission import check_env, check_name, plain_name
from skerry.engine.interfaces import Clock, SecretStore, Vault
from skerry.engine.requests import check_key
from skerry.model import limits
from skerry.model.errors import ConflictError, Error, InvalidError, NotFoundError, ResourceExhaustedError
from skerry.model.events import Events
from skerry.model.ids import SECRET, Ids, SecretId
from skerry.model.secrets import GivenSecret, Hidden, NamedSecret, SecretAsk, SecretRow, SecretView
from skerry.model.text import escaped

log = Events("skerry.engine")

LIST_MAX: Final = 1000
_TICK_S: Final = 1e-6


class IfExists(StrEnum):
    """What to do when a secret of this name is there already."""

    FAIL = "fail"
    KEEP = "keep"
    REPLACE = "replace"


class Secrets:
    """The secrets of this server."""

    def __init__(self, *, store: SecretStore, vault: Vault, clock: Clock, ids: Ids) -> None:
        self._store = store
        self._vault = vault
        self._clock = clock
        self._ids = ids
        self._changing = asyncio.Lock()  # reading, merging and writing are one act

    async def create(
        self,
        name: str,
        env: Hidden,
        *,
        if_exists: IfExists = IfExists.FAIL,
        idempotency_key: str | None = None,
    ) -> SecretView:
        """Return the secret once it is stored; raises InvalidError, AlreadyExistsError, ResourceExhaustedError."""
        check_name(name, what="secret name")
        check_hidden(env)
        if idempotency_key is not None:
            check_key(idempotency_key)
            made = self._store.by_key(idempotency_key)
            if made is not None:
                return self._repeated(made, name)
        async with self._changing:
            known = self._store.get(name)
            if known is not None and if_exists is IfExists.KEEP:
                return known.view
            if known is not None and if_exists is IfExists.REPLACE:
                return await self._replace(known, env)
            return self._repeated(await self._insert(name, env, idempotency_key), name)

    def get(self, name: str) -> SecretView:
        """Raises NotFoundError."""
        return self._row(name).view

    def list(self, *, before: float | None = None, limit: int = 100) -> Sequence[SecretView]:
        """Return the secrets, newest first, created strictly before `before`."""
        if not 1 <= limit <= LIST_MAX:
            raise InvalidError(f"limit is {limit}; give 1 to {LIST_MAX}")
        return [row.view for row in self._store.newest(before=before, limit=limit)]

    async def update(self, name: str, env: Hidden) -> SecretView:
        """Lay `env` over the values of a secret; raises NotFoundError, InvalidError."""
        async with self._changing:
            row = self._row(name)
            merged = Hidden({**self._open(row).reveal(), **env.reveal()})
            check_hidden(merged)
            return await self._replace(row, merged)

    async def delete(self, name: str) -> None:
        """Delete it; deleting it again changes nothing. Sandboxes that have its values keep them."""
        await self._store.delete(name)
        log.info("secret.deleted", name=escaped(name, limit=limits.NAME_CHARS))

    async def rotate(self) -> str:
        """Encrypt every secret with a new key, and return the id of the key."""
        async with self._changing:
            key = self._vault.rotate()
            await self._seal_anew(key)
        log.info("secrets.rotated", key=key)
        return key

    async def settle(self) -> None:
        """Finish what an earlier server began: no secret stays encrypted with a key that was replaced."""
        async with self._changing:
            try:
                if self._vault.current is not None:
                    await self._seal_anew(self._vault.current)
                    self._vault.drop_retired()
            except (Error, OSError) as exc:  # what needs no secret goes on
                log.error("secrets.keys_unusable", exc=exc)

    async def resolve(self, asks: Sequence[SecretAsk]) -> Hidden:
        """Return the variables of what was asked for; later ones win. Raises NotFoundError, InvalidError."""
        if len(asks) > limits.SECRETS_OF_A_REQUEST:
            raise InvalidError(f"these are {len(asks)} secrets; give at most {limits.SECRETS_OF_A_REQUEST}")
        merged: dict[str, str] = {}
        for ask in asks:
            merged |= (ask.env if isinstance(ask, GivenSecret) else self._named(ask)).reveal()
        hidden = Hidden(merged)
        check_hidden(hidden)
        names = [ask.name for ask in asks if isinstance(ask, NamedSecret)]
        if names:
            await self._store.use(names, self._clock.now())
        return hidden

    # The inside

    def _row(self, name: str) -> SecretRow:
        row = self._store.get(name)
        if row is None:
            shown = escaped(name, limit=limits.NAME_CHARS)
            hint = f"; create it with `skerry secret create {shown}`" if plain_name(name) else ""
            raise NotFoundError(f"there is no secret {shown!r}{hint}")
        return row

    def _named(self, ask: NamedSecret) -> Hidden:
        row = self._row(ask.name)
        missing = [key for key in ask.required_keys if key not in row.view.keys]
        if missing:
            raise InvalidError(f"secret {ask.name!r} has no {escaped(', '.join(missing))}; add what is missing")
        return self._open(row)

    async def _insert(self, name: str, env: Hidden, key: str | None) -> SecretRow:
        if self._store.count() >= limits.SECRETS_MAX:
            raise ResourceExhaustedError(f"there are {limits.SECRETS_MAX:,} secrets already; delete some first")
        now = self._clock.now()
        newest = self._store.newest(before=None, limit=1)
        created = max(now, newest[0].view.created_at + _TICK_S) if newest else now  # so that a list can be continued
        view = SecretView(
            id=SecretId(self._ids.new(SECRET)), name=name, keys=env.keys, created_at=created, updated_at=created
        )
        row = await self._store.insert(self._sealed(view, env), idempotency_key=key)
        log.info("secret.created", secret=row.view.id, name=name)
        return row

    async def _replace(self, row: SecretRow, env: Hidden) -> SecretView:
        view = replace(row.view, keys=env.keys, updated_at=self._clock.now())
        await self._store.replace(self._sealed(view, env))
        log.info("secret.replaced", secret=view.id, name=view.name)
        return view

    async def _seal_anew(self, key: str) -> None:
        for row in self._store.sealed_otherwise(key):
            try:
                await self._store.replace(self._sealed(row.view, self._open(row)))
            except ConflictError as exc:  # one that nobody can read any more keeps the others from nothing
                log.error("secret.unreadable", exc=exc, secret=row.view.id, name=row.view.name)

    def _sealed(self, view: SecretView, env: Hidden) -> SecretRow:
        return SecretRow(view=view, sealed=self._vault.seal(encoded(env), _context(view)))

    def _open(self, row: SecretRow) -> Hidden:
        return decoded(self._vault.open(row.sealed, _context(row.view)))

    def _repeated(self, row: SecretRow, name: str) -> SecretView:
        if row.view.name != name:
            raise InvalidError("the idempotency key was used for another secret; use a new key")
        return row.view


def check_hidden(env: Hidden) -> None:
    """Raise InvalidError for variables that no process can be given, or whose names a terminal could not show."""
    values: Mapping[str, str] = env.reveal()
    for index, key in enumerate(values):
        if len(key) > limits.SECRET_KEY_CHARS or not key.isprintable():
            # Not its text: who mixes up key and value has put a secret here.
            raise InvalidError(
                f"key {index + 1} of the secret cannot be the name of a variable; use letters, digits and '_', "
                f"at most {limits.SECRET_KEY_CHARS}"
            )
    check_env(values)


def encoded(env: Hidden) -> bytes:
    return msgspec.json.encode(env.reveal())


def decoded(plain: bytes) -> Hidden:
    return Hidden(msgspec.json.decode(plain, type=dict[str, str]))


def _context(view: SecretView) -> str:
    return f"secret {view.name!r} ({view.id})"
