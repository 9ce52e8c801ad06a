"""Secrets: variables for sandboxes, stored on the server under a name or given with a call. Values never come back."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from skerry.client import dotenv, words
from skerry.client._core import arguments, views
from skerry.client.client import Client, resolve
from skerry.client.connection import path
from skerry.client.secretinfo import SecretInfo, as_timestamp
from skerry.model.errors import InvalidError, NotFoundError
from skerry.model.secrets import SecretView
from skerry.wire import native

PAGE = 100


class SecretManager:
    """The stored secrets: `Secret.objects`."""

    async def create(
        self,
        name: str,
        env_dict: Mapping[str, str],
        *,
        allow_existing: bool = False,
        environment_name: str | None = None,
        client: Client | None = None,
    ) -> None:
        """Store a secret. One that has the name already raises AlreadyExistsError, or is kept with `allow_existing`."""
        _check_environment("Secret.objects.create", environment_name)
        await store(name, env_dict, if_exists="keep" if allow_existing else "fail", client=client)

    async def list(
        self,
        *,
        max_objects: int | None = None,
        created_before: datetime | str | None = None,
        environment_name: str | None = None,
        client: Client | None = None,
    ) -> builtins.list[Secret]:
        """Return the stored secrets, the newest first."""
        _check_environment("Secret.objects.list", environment_name)
        if max_objects is not None and max_objects < 0:
            raise InvalidError(f"Secret.objects.list: max_objects={max_objects}: give 0 or more")
        found = await all_views(before=as_timestamp(created_before), most=max_objects, client=client)
        return [Secret.from_name(view.name, client=client) for view in found]

    async def delete(
        self,
        name: str,
        *,
        allow_missing: bool = False,
        environment_name: str | None = None,
        client: Client | None = None,
    ) -> None:
        """Delete a stored secret; one that is not there raises NotFoundError, unless `allow_missing` is set."""
        _check_environment("Secret.objects.delete", environment_name)
        connection = await resolve(client).connection()
        if not allow_missing:
            await connection.call("GET", path("secrets", _name(name)))
        await connection.call("DELETE", path("secrets", _name(name)))

    async def rotate(self, *, client: Client | None = None) -> str:
        """Encrypt all stored secrets with a new key, and return its id."""
        connection = await resolve(client).connection()
        answer = await connection.call("POST", path("keys", "rotate"), key=resolve(client).ids.new("ik"))
        return str(answer["key"])


class Secret:
    """Variables whose values only the processes that get them see."""

    objects = SecretManager()

    def __init__(self, load: Callable[[], native.SecretSource], shown: str, *, client: Client | None = None) -> None:
        self._load = load
        self._shown = shown
        self._client = client
        self._name: str | None = None

    @staticmethod
    def from_dict(env_dict: Mapping[str, str | None] | None = None) -> Secret:
        """Return a secret with these values; a value of None leaves its key out."""
        env = arguments.secret_env(env_dict or {}, call="Secret.from_dict")
        source = native.SecretSource(env=env)
        return Secret(lambda: source, f"from_dict([{', '.join(map(repr, env))}])")

    @staticmethod
    def from_local_environ(env_keys: Collection[str]) -> Secret:
        """Return a secret with variables of this program; one that is not set raises InvalidError."""
        return Secret.from_dict(arguments.local_environ(env_keys, call="Secret.from_local_environ"))

    @staticmethod
    def from_dotenv(path: str | Path | None = None, *, filename: str = ".env", client: Client | None = None) -> Secret:
        """Return a secret with the variables of a `.env` file, read when it is used.

        It is looked for from the working directory upwards, or from `path`, a file or a folder; there must be one.
        """

        def load() -> native.SecretSource:
            file = dotenv.find(path, filename)
            return native.SecretSource(env=arguments.secret_env(dotenv.read(file), call=f"Secret.from_dotenv: {file}"))

        return Secret(load, f"from_dotenv({filename!r})", client=client)

    @staticmethod
    def from_name(
        name: str,
        *,
        environment_name: str | None = None,
        required_keys: Collection[str] = (),
        client: Client | None = None,
    ) -> Secret:
        """Return a stored secret, looked up when it is used; one without a required key raises InvalidError then."""
        _check_environment("Secret.from_name", environment_name)
        source = native.SecretSource(name=_name(name), required_keys=arguments.names(required_keys, "required_keys"))
        secret = Secret(lambda: source, f"from_name({name!r})", client=client)
        secret._name = name
        return secret

    @property
    def name(self) -> str | None:
        """The name of a stored secret."""
        return self._name

    async def info(self, *, refresh: bool = False) -> SecretInfo:  # noqa: ARG002 - it is always asked for anew
        """Return what is known of a stored secret; raises NotFoundError."""
        connection = await resolve(self._client).connection()
        return SecretInfo._of(views.secret(await connection.call("GET", path("secrets", self._stored_name("info")))))

    async def update(self, env_dict: Mapping[str, str]) -> None:
        """Lay these values over those of a stored secret; others stay. Sandboxes that run keep what they have."""
        body = {"env": arguments.secret_env(env_dict, call="Secret.update")}
        connection = await resolve(self._client).connection()
        await connection.call("POST", path("secrets", self._stored_name("update"), "update"), body=body)

    def __repr__(self) -> str:
        return f"<Secret.{self._shown}>"

    def _stored_name(self, act: str) -> str:
        if self._name is None:
            raise InvalidError(f"Secret.{act}: {self!r} is not stored; create it with Secret.objects.create")
        return self._name


def sources(secrets: object, *, call: str) -> tuple[native.SecretSource, ...]:
    """Return secrets as they travel, in their order; raises InvalidError for what is none."""
    if secrets is None:
        return ()
    if isinstance(secrets, (str, Mapping)) or not isinstance(secrets, Collection):
        raise InvalidError(
            f"{call}: secrets is a {type(secrets).__name__}; give a list, such as [Secret.from_name(...)]"
        )
    for index, secret in enumerate(secrets):
        if not isinstance(secret, Secret):  # its text could be the secret
            raise InvalidError(f"{call}: secrets[{index}] is a {type(secret).__name__}; make a Secret of it")
    return tuple(secret._load() for secret in secrets)


def as_bodies(found: tuple[native.SecretSource, ...]) -> builtins.list[dict[str, Any]]:
    """Return sources as the body of a request has them."""
    return [msgspec.to_builtins(source) for source in found]


async def store(name: str, env: Mapping[str, str], *, if_exists: str, client: Client | None = None) -> None:
    """Store a secret, under one idempotency key."""
    chosen = resolve(client)
    body = {"name": _name(name), "env": arguments.secret_env(env, call="Secret.objects.create"), "if_exists": if_exists}
    connection = await chosen.connection()
    await connection.call("POST", path("secrets"), body=body, key=chosen.ids.new("ik"))


async def all_views(
    *, before: float | None = None, most: int | None = None, client: Client | None = None
) -> builtins.list[SecretView]:
    """Return what is known of the stored secrets, newest first: of those made before a time, at most so many."""
    connection = await resolve(client).connection()
    found: builtins.list[SecretView] = []
    while most is None or len(found) < most:
        query: dict[str, object] = {"limit": PAGE, "before": None if before is None else repr(before)}
        answer = await connection.call("GET", path("secrets"), query=query)
        page = [views.secret(one) for one in answer["secrets"]]
        found += page
        if len(page) < PAGE:
            break
        before = page[-1].created_at
    return found[:most]


def _check_environment(call: str, environment_name: str | None) -> None:
    words.refuse_idle(call, {"environment_name": environment_name}, words.ENVIRONMENT_IDLE)


def _name(name: object) -> str:
    if not isinstance(name, str) or not name:
        raise InvalidError(f"Secret: name={name!r}: give the name of a secret")
    try:
        name.encode()
    except UnicodeEncodeError as exc:
        raise NotFoundError(f"there is no secret {name!r}: that is no text") from exc
    return name
