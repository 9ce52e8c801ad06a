"""Stored secrets over HTTP, and those of a request as the engine takes them. Values come in and never go out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

from skerry.doors.native import payloads
from skerry.doors.native.calls import Call
from skerry.model.errors import InvalidError
from skerry.model.secrets import GivenSecret, Hidden, NamedSecret, SecretAsk, SecretView
from skerry.wire import native


def asks(sources: Iterable[payloads.SecretSourceBody | native.SecretSource]) -> tuple[SecretAsk, ...]:
    """Return what a request asks for, in its order; raises InvalidError for a source that is neither or both."""
    return tuple(_ask(source, index) for index, source in enumerate(sources))


def _ask(source: payloads.SecretSourceBody | native.SecretSource, index: int) -> SecretAsk:
    if source.name is not None and source.env is None:
        return NamedSecret(name=source.name, required_keys=source.required_keys)
    if source.name is None and source.env is not None:
        return GivenSecret(env=Hidden(source.env))
    raise InvalidError(f"secret {index} of the request has not one of `name` and `env`; give it exactly one")


async def create_secret(call: Call) -> payloads.SecretAnswer:
    body: payloads.SecretBody = call.body
    return _answer(
        await call.engine.secrets.create(
            body.name, Hidden(body.env), if_exists=body.if_exists, idempotency_key=call.idempotency_key
        )
    )


async def list_secrets(call: Call) -> payloads.SecretsAnswer:
    query: payloads.SecretsQuery = call.query
    views = call.engine.secrets.list(before=query.before, limit=query.limit)
    return payloads.SecretsAnswer(secrets=tuple(_answer(view) for view in views))


async def get_secret(call: Call) -> payloads.SecretAnswer:
    return _answer(call.engine.secrets.get(call.path["secret"]))


async def update_secret(call: Call) -> payloads.SecretAnswer:
    return _answer(await call.engine.secrets.update(call.path["secret"], Hidden(call.body.env)))


async def delete_secret(call: Call) -> payloads.Nothing:
    await call.engine.secrets.delete(call.path["secret"])
    return payloads.Nothing()


async def rotate_keys(call: Call) -> payloads.KeyAnswer:
    return payloads.KeyAnswer(key=await call.engine.secrets.rotate())


def _answer(view: SecretView) -> payloads.SecretAnswer:
    return payloads.SecretAnswer(**asdict(view))
