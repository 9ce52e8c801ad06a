"""What the engine and the node ask of a vault and of the rows of secrets, for every one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from skerry.engine.interfaces import SecretStore, Vault
from skerry.model.errors import AlreadyExistsError, ConflictError, NotFoundError
from skerry.model.ids import SecretId
from skerry.model.secrets import Sealed, SecretRow, SecretView
from skerry.store.sqlite.store import SqliteStore
from skerry.store.vault import Vault as FileVault
from skerry.testing.ids import CountingIds
from skerry.testing.store import MemoryStore
from skerry.testing.vault import MemoryVault

ROW = SecretRow(
    view=SecretView(id=SecretId("st_1"), name="db", keys=("A", "B"), created_at=1.0, updated_at=1.0),
    sealed=Sealed(key="ky_1", data=b"\0sealed\xff"),
)


@pytest.fixture(params=["memory", "file"])
def vault(request: pytest.FixtureRequest, tmp_path: Path) -> Vault:
    return MemoryVault() if request.param == "memory" else FileVault(tmp_path / "keys", now=lambda: 1000.0)


@pytest.fixture(params=["memory", "sqlite"])
def rows(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SecretStore]:
    ids = CountingIds()
    made = MemoryStore(ids=ids) if request.param == "memory" else SqliteStore(tmp_path, ids=ids)
    yield made.secrets
    made.close()


def row(number: int, name: str, **fields: object) -> SecretRow:
    view = replace(ROW.view, id=SecretId(f"st_{number}"), name=name, created_at=float(number))
    return replace(ROW, view=replace(view, **fields))  # type: ignore[arg-type]


# Vaults


def test_what_was_sealed_is_opened_in_its_context_alone(vault: Vault) -> None:
    sealed = vault.seal(b"plain text", "one")
    assert b"plain" not in sealed.data
    assert vault.open(sealed, "one") == b"plain text"
    with pytest.raises(ConflictError, match="other cannot be decrypted"):
        vault.open(sealed, "other")


def test_there_is_no_key_before_the_first_use(vault: Vault) -> None:
    assert vault.current is None
    assert vault.seal(b"", "one").key == vault.current


def test_after_a_rotation_the_new_key_seals_and_the_old_one_still_opens(vault: Vault) -> None:
    old = vault.seal(b"old", "one")
    new_key = vault.rotate()
    new = vault.seal(b"new", "one")
    assert old.key != new.key == new_key == vault.current
    assert (vault.open(old, "one"), vault.open(new, "one")) == (b"old", b"new")


# Rows


async def test_a_secret_comes_back_as_it_was_put_under_its_name(rows: SecretStore) -> None:
    assert await rows.insert(ROW) == ROW
    assert rows.get("db") == ROW
    assert rows.get("other") is None
    assert rows.count() == 1


async def test_a_name_is_given_once_however_many_ask(rows: SecretStore) -> None:
    outcomes = await asyncio.gather(*(rows.insert(row(number, "db")) for number in range(10)), return_exceptions=True)
    assert sum(isinstance(one, AlreadyExistsError) for one in outcomes) == 9


async def test_a_key_returns_the_secret_that_was_made_with_it(rows: SecretStore) -> None:
    await rows.insert(ROW, idempotency_key="k")
    assert await rows.insert(row(2, "db"), idempotency_key="k") == ROW
    assert rows.by_key("k") == ROW
    assert rows.by_key("l") is None


async def test_a_replacement_keeps_name_and_times_of_creation_and_use(rows: SecretStore) -> None:
    await rows.insert(ROW)
    await rows.use(["db", "none"], 5.0)
    sealed = Sealed(key="ky_2", data=b"new")
    await rows.replace(replace(ROW, view=replace(ROW.view, keys=("C",), updated_at=9.0), sealed=sealed))
    found = rows.get("db")
    assert found == SecretRow(view=replace(ROW.view, keys=("C",), updated_at=9.0, used_at=5.0), sealed=sealed)
    with pytest.raises(NotFoundError):
        await rows.replace(row(2, "gone"))


async def test_a_deleted_secret_is_gone_and_may_be_deleted_again(rows: SecretStore) -> None:
    await rows.insert(ROW, idempotency_key="k")
    for _ in range(2):
        await rows.delete("db")
        assert (rows.get("db"), rows.by_key("k"), rows.count()) == (None, None, 0)
    await rows.insert(row(2, "db"))


async def test_lists_are_newest_first_bounded_and_continued_before_a_time(rows: SecretStore) -> None:
    for number in range(5):
        await rows.insert(row(number, f"n{number}"))
    first = rows.newest(before=None, limit=2)
    rest = rows.newest(before=first[-1].view.created_at, limit=9)
    assert [one.view.name for one in (*first, *rest)] == ["n4", "n3", "n2", "n1", "n0"]


async def test_what_another_key_sealed_is_found(rows: SecretStore) -> None:
    await rows.insert(ROW)
    await rows.insert(replace(row(2, "new"), sealed=Sealed(key="ky_2", data=b"")))
    assert [one.view.name for one in rows.sealed_otherwise("ky_2")] == ["db"]
