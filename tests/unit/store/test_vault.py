from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from skerry.model.errors import ConflictError, InvalidError
from skerry.model.secrets import Sealed
from skerry.store.vault import RETIRED_S, Keys, Vault


class Time:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "keys"


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def vault(file: Path, time: Time) -> Vault:
    return Vault(file, now=time)


def test_the_file_is_made_with_the_first_secret_for_its_owner_alone(vault: Vault, file: Path) -> None:
    assert vault.current is None
    assert not file.exists()
    mask = os.umask(0)
    try:
        vault.seal(b"x", "one")
    finally:
        os.umask(mask)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["keys"]


def test_another_server_with_the_file_opens_what_one_has_sealed(vault: Vault, file: Path, time: Time) -> None:
    sealed = vault.seal(b"x", "one")
    assert Vault(file, now=time).open(sealed, "one") == b"x"


def test_equal_texts_are_never_sealed_equally(vault: Vault) -> None:
    assert len({vault.seal(b"x", "one").data for _ in range(100)}) == 100


def test_many_first_uses_at_once_make_one_key(file: Path, time: Time) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: Vault(file, now=time).seal(b"x", "one").key, range(32)))
    assert len(keys) == 1


@pytest.mark.parametrize("at", [0, 12, 24, 30, -1])
def test_a_changed_byte_is_noticed(vault: Vault, at: int) -> None:
    sealed = vault.seal(b"some text", "one")
    changed = bytearray(sealed.data)
    changed[at] ^= 1
    with pytest.raises(ConflictError, match="was changed"):
        vault.open(Sealed(key=sealed.key, data=bytes(changed)), "one")


@pytest.mark.parametrize("length", [0, 1, 23, 24, 39])
def test_a_text_that_was_cut_off_is_noticed(vault: Vault, length: int) -> None:
    sealed = vault.seal(b"some text", "one")
    with pytest.raises(ConflictError, match="was changed"):
        vault.open(Sealed(key=sealed.key, data=sealed.data[:length]), "one")


def test_a_key_that_is_gone_is_named_with_its_file_and_found_when_it_is_back(vault: Vault, file: Path) -> None:
    sealed = vault.seal(b"x", "secret 'db'")
    kept = file.read_bytes()
    file.unlink()
    fresh = Vault(file, now=Time())
    with pytest.raises(ConflictError, match=f"secret 'db' was encrypted with key {sealed.key}, which {file} does not"):
        fresh.open(sealed, "secret 'db'")
    assert fresh.seal(b"y", "other").key != sealed.key
    file.write_bytes(kept)
    assert fresh.open(sealed, "secret 'db'") == b"x"


def test_a_replaced_key_is_kept_for_two_days(vault: Vault, file: Path, time: Time) -> None:
    old = vault.seal(b"x", "one")
    time.seconds += 10 * RETIRED_S  # its age does not count, only since when it was replaced
    vault.drop_retired()
    vault.rotate()
    time.seconds += RETIRED_S - 1
    vault.drop_retired()
    assert Vault(file, now=time).open(old, "one") == b"x"
    time.seconds += 1
    vault.drop_retired()
    assert len(msgspec.json.decode(file.read_bytes(), type=Keys).keys) == 1
    with pytest.raises(ConflictError):
        vault.open(old, "one")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_file_that_others_can_read_is_refused_with_the_way_out(vault: Vault, file: Path, mode: int) -> None:
    vault.seal(b"x", "one")
    file.chmod(mode)
    with pytest.raises(InvalidError, match=r"chmod 600.*secret rotate"):
        Vault(file, now=Time()).seal(b"x", "one")


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_what_is_no_regular_file_is_refused(file: Path, kind: str) -> None:
    file.parent.mkdir()
    if kind == "link":
        (file.parent / "other").write_text("{}")
        file.symlink_to("other")
    elif kind == "folder":
        file.mkdir()
    else:
        os.mkfifo(file, 0o600)
    with pytest.raises(InvalidError, match="SKERRY_KEY_FILE"):
        Vault(file, now=Time()).seal(b"x", "one")


@pytest.mark.parametrize("content", [b"", b"{", b'{"keys": [{"id": 1}]}', b"\xff" * 100])
def test_a_damaged_file_is_refused_and_left_as_it_is(file: Path, content: bytes) -> None:
    file.parent.mkdir()
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(InvalidError, match="no file of keys"):
        Vault(file, now=Time()).seal(b"x", "one")
    assert file.read_bytes() == content


def test_neither_a_vault_nor_its_keys_show_a_key(vault: Vault, file: Path) -> None:
    vault.seal(b"x", "one")
    keys = msgspec.json.decode(file.read_bytes(), type=Keys)
    for text in (repr(vault), repr(keys), repr(vars(vault))):
        assert repr(keys.keys[0].key)[2:-1] not in text
