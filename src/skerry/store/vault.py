"""Encryption of what is kept: XChaCha20-Poly1305 by libsodium, with keys in a file that lies in no database.

Each message has 24 random bytes as its nonce, so that a key may encrypt as many as it likes, and is bound to its
context: what was encrypted for one secret cannot be read as another's. Why this library: docs/decisions/0014.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from skerry.model.errors import ConflictError, InvalidError
from skerry.model.secrets import Sealed

KEY_BYTES: Final = 32
FILE_BYTES_MAX: Final = 1 << 20
RETIRED_S: Final = 48 * 3600.0
"""How long a key is kept after it was replaced: longer than any sandbox lives whose record it encrypted."""


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """One key; `retired_at` is when a newer one took its place."""

    id: str
    key: bytes
    made_at: float
    retired_at: float | None = None

    def __repr__(self) -> str:
        return f"<key {self.id}>"


class Keys(msgspec.Struct, frozen=True, kw_only=True):
    """The file of keys, the newest first: it encrypts, the others only decrypt."""

    keys: tuple[Key, ...] = ()


class Vault:
    """Encrypts and decrypts with the keys of a file, which is made when something is encrypted first."""

    def __init__(self, file: Path, *, now: Callable[[], float]) -> None:
        self._file = file
        self._now = now
        self._known: Keys | None = None

    def __repr__(self) -> str:
        return f"<Vault {self._file}>"

    @property
    def current(self) -> str | None:
        """The id of the key that encrypts; None before the first use."""
        keys = self._keys().keys
        return keys[0].id if keys else None

    def seal(self, plain: bytes, context: str) -> Sealed:
        """Return `plain` encrypted; raises InvalidError if the file of keys is not safe."""
        from nacl.secret import Aead  # late: a server without secrets does not load it

        keys = self._keys().keys or self._change(self._with_new_key, only_if_empty=True).keys
        return Sealed(key=keys[0].id, data=bytes(Aead(keys[0].key).encrypt(plain, context.encode())))

    def open(self, sealed: Sealed, context: str) -> bytes:
        """Return what was encrypted; raises ConflictError if its key is gone, or if it was changed."""
        from nacl.exceptions import CryptoError
        from nacl.secret import Aead

        try:
            return bytes(Aead(self._find(sealed.key, context)).decrypt(sealed.data, context.encode()))
        except (CryptoError, ValueError) as exc:
            raise ConflictError(
                f"{context} cannot be decrypted: it was changed, or belongs to something else; make it anew"
            ) from exc

    def rotate(self) -> str:
        """Make a new key, which encrypts from now on, and return its id. The old ones go on decrypting for two days."""
        return self._change(self._with_new_key).keys[0].id

    def drop_retired(self) -> None:
        """Remove keys that were replaced two days ago and longer."""
        kept = self._unexpired(self._keys())
        if kept != self._keys():
            self._change(self._unexpired)

    def _find(self, key: str, context: str) -> bytes:
        for keys in (self._keys, self._read):  # read again: the file may have been put back
            found = next((one.key for one in keys().keys if one.id == key), None)
            if found is not None:
                return found
        raise ConflictError(
            f"{context} was encrypted with key {key}, which {self._file} does not hold; put that file back "
            "from a backup, or make it anew"
        )

    def _with_new_key(self, keys: Keys) -> Keys:
        now = self._now()
        retired = [
            one if one.retired_at is not None else msgspec.structs.replace(one, retired_at=now) for one in keys.keys
        ]
        new = Key(id=f"ky_{secrets.token_hex(8)}", key=secrets.token_bytes(KEY_BYTES), made_at=now)
        return Keys(keys=(new, *retired))

    def _unexpired(self, keys: Keys) -> Keys:
        oldest = self._now() - RETIRED_S
        return Keys(keys=tuple(one for one in keys.keys if one.retired_at is None or one.retired_at > oldest))

    # The file

    def _keys(self) -> Keys:
        return self._read() if self._known is None else self._known

    def _read(self) -> Keys:
        """Return the keys of the file, none if there is no file; raises InvalidError if others could read it."""
        try:
            descriptor = os.open(self._file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return Keys()
        except OSError as exc:
            raise InvalidError(f"the keys cannot be read: {exc}; let SKERRY_KEY_FILE name another file") from exc
        try:
            self._check(os.fstat(descriptor))
            text = os.read(descriptor, FILE_BYTES_MAX)
        finally:
            os.close(descriptor)
        try:
            self._known = msgspec.json.decode(text, type=Keys)
        except msgspec.MsgspecError:
            # Not its cause: a message about content could show some.
            raise InvalidError(f"{self._file} is no file of keys; put the right one back from a backup") from None
        return self._known

    def _check(self, found: os.stat_result) -> None:
        if not stat.S_ISREG(found.st_mode):
            raise InvalidError(f"{self._file} is no regular file; let SKERRY_KEY_FILE name one")
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise InvalidError(
                f"{self._file} belongs to uid {found.st_uid} with mode {stat.S_IMODE(found.st_mode):04o}: others may "
                f"have read its keys; run `chown {os.geteuid()}` and `chmod 600` on it, then `skerry secret rotate`"
            )

    def _change(self, change: Callable[[Keys], Keys], *, only_if_empty: bool = False) -> Keys:
        """Write the file anew, whole and durably, while no other server does the same."""
        self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _held(self._file.parent) as folder:
            keys = self._read()
            if not only_if_empty or not keys.keys:
                keys = change(keys)
                _write(self._file, msgspec.json.encode(keys))
                os.fsync(folder)
        self._known = keys
        return keys


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[int]:
    """Yield a descriptor of a folder, which nobody else holds in this way meanwhile."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _write(file: Path, content: bytes) -> None:
    draft = file.with_name(f"{file.name}.new")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
    os.rename(draft, file)
