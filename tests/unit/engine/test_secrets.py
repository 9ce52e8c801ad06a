from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import msgspec
import pytest
from engine_world import World

from skerry.engine.engine import Engine
from skerry.engine.secrets import IfExists
from skerry.model import limits
from skerry.model.errors import AlreadyExistsError, ConflictError, Error, InvalidError, NotFoundError
from skerry.model.ids import SandboxId
from skerry.model.secrets import GivenSecret, Hidden, NamedSecret, Sealed, SecretAsk, SecretSource
from skerry.model.specs import ExecSpec
from skerry.testing.processes import FakeProcess

VALUE = "hunter2-the-value"
PROCESS = "pr_00000000000000000001"


def given(**env: str) -> GivenSecret:
    return GivenSecret(env=Hidden(env))


async def environment(engine: Engine, world: World, sandbox: SandboxId, *asks: SecretAsk, **env: str) -> dict[str, str]:
    """Return what a process of a sandbox has."""
    handle = await engine.processes.exec(sandbox, world.ids.new("pr"), ExecSpec(argv=("env",), env=env), secrets=asks)
    assert isinstance(handle, FakeProcess)
    await handle.wait()
    content = b"".join([bytes(part) async for _, part in handle.output(1).follow(0)])
    return dict(line.split("=", 1) for line in content.decode().splitlines())


# Stored


async def test_a_stored_secret_shows_its_keys_and_keeps_its_values(world: World) -> None:
    async with world.engine() as engine:
        view = await engine.secrets.create("db", Hidden({"USER": "u", "PASSWORD": VALUE}))
        assert (view.name, view.keys, view.used_at) == ("db", ("PASSWORD", "USER"), None)
        assert engine.secrets.get("db") == view
        assert engine.secrets.list() == [view]
        row = world.store.secrets.get("db")
    assert row is not None
    assert VALUE.encode() not in row.sealed.data
    assert VALUE not in repr(row)


async def test_a_name_that_is_there_is_refused_kept_or_replaced_as_asked(world: World) -> None:
    async with world.engine() as engine:
        first = await engine.secrets.create("db", Hidden({"A": "1"}))
        with pytest.raises(AlreadyExistsError, match="secret 'db'"):
            await engine.secrets.create("db", Hidden({"B": "2"}))
        assert await engine.secrets.create("db", Hidden({"B": "2"}), if_exists=IfExists.KEEP) == first
        await world.clock.advance(5.0)
        replaced = await engine.secrets.create("db", Hidden({"B": "2"}), if_exists=IfExists.REPLACE)
        assert (replaced.id, replaced.keys) == (first.id, ("B",))
        assert replaced.updated_at == first.created_at + 5.0
        assert (await engine.secrets.resolve([NamedSecret(name="db")])).reveal() == {"B": "2"}


async def test_a_repeated_create_is_one_secret_and_no_name_in_use(world: World) -> None:
    async with world.engine() as engine:
        creates = [engine.secrets.create("db", Hidden({"A": "1"}), idempotency_key="k") for _ in range(10)]
        assert len(set(await asyncio.gather(*creates))) == 1
        with pytest.raises(InvalidError, match="another secret"):
            await engine.secrets.create("other", Hidden({"A": "1"}), idempotency_key="k")


async def test_updates_are_laid_over_what_is_there_and_none_is_lost(world: World) -> None:
    async with world.engine() as engine:
        await engine.secrets.create("db", Hidden({"A": "1", "B": "1"}))
        await asyncio.gather(*(engine.secrets.update("db", Hidden({f"K{number}": "x"})) for number in range(10)))
        view = await engine.secrets.update("db", Hidden({"B": "2"}))
        assert view.keys == ("A", "B", *(f"K{number}" for number in range(10)))
        assert (await engine.secrets.resolve([NamedSecret(name="db")])).reveal()["B"] == "2"
        with pytest.raises(NotFoundError):
            await engine.secrets.update("none", Hidden({"A": "1"}))


async def test_deleting_twice_is_fine_and_running_sandboxes_keep_what_they_have(world: World) -> None:
    async with world.engine() as engine:
        await engine.secrets.create("db", Hidden({"A": VALUE}))
        sandbox = await engine.sandboxes.create(world.spec("cat"), secrets=[NamedSecret(name="db")])
        for _ in range(2):
            await engine.secrets.delete("db")
        with pytest.raises(NotFoundError, match="no secret 'db'"):
            engine.secrets.get("db")
        assert (await environment(engine, world, sandbox.id))["A"] == VALUE


async def test_a_list_can_be_continued_even_when_all_were_created_at_once(world: World) -> None:
    async with world.engine() as engine:
        names = [f"n{number}" for number in range(5)]
        for name in names:
            await engine.secrets.create(name, Hidden({"A": "1"}))
        first = engine.secrets.list(limit=2)
        rest = engine.secrets.list(before=first[-1].created_at)
    assert [view.name for view in (*first, *rest)] == names[::-1]


@pytest.mark.parametrize("name", ["", "a/b", "a b", "\x1b[2J", "x" * 65, "ä"])
async def test_a_name_that_cannot_be_one_is_refused_and_shown_escaped(world: World, name: str) -> None:
    async with world.engine() as engine:
        with pytest.raises(InvalidError, match="secret name") as caught:
            await engine.secrets.create(name, Hidden({"A": "1"}))
        assert caught.value.message.isprintable()
        with pytest.raises(NotFoundError) as missed:
            engine.secrets.get(name)
        assert missed.value.message.isprintable()


@pytest.mark.parametrize(
    "env",
    [
        {"": VALUE},
        {f"A={VALUE}": VALUE},
        {"A\0": VALUE},
        {"A": f"{VALUE}\0"},
        {f"{VALUE}\n": VALUE},
        {f"\x1b{VALUE}": VALUE},
        {VALUE * 100: VALUE},
        {"A": VALUE * (limits.ENV_BYTES // len(VALUE) + 1)},
    ],
)
async def test_variables_that_cannot_be_are_refused_without_showing_a_value(world: World, env: dict[str, str]) -> None:
    async with world.engine() as engine:
        await engine.secrets.create("db", Hidden({"A": "1"}))
        for call in (
            engine.secrets.create("other", Hidden(env)),
            engine.secrets.update("db", Hidden(env)),
            engine.sandboxes.create(world.spec("cat"), secrets=[GivenSecret(env=Hidden(env))]),
        ):
            with pytest.raises(InvalidError) as caught:
                await call
            assert VALUE not in caught.value.message
            assert caught.value.message.isprintable()


# Given to processes


async def test_later_secrets_win_and_env_wins_over_all(world: World) -> None:
    async with world.engine() as engine:
        await engine.secrets.create("stored", Hidden({"A": "stored", "B": "stored", "C": "stored"}))
        spec = world.spec("cat", env={"C": "env"})
        asks = [given(A="given"), NamedSecret(name="stored"), given(B="last")]
        sandbox = await engine.sandboxes.create(spec, secrets=asks)
        env = await environment(engine, world, sandbox.id)
        assert (env["A"], env["B"], env["C"]) == ("stored", "last", "env")
        env = await environment(engine, world, sandbox.id, given(B="exec", D="exec"), D="execs env")
        assert (env["A"], env["B"], env["C"], env["D"]) == ("stored", "exec", "env", "execs env")
        assert "D" not in await environment(engine, world, sandbox.id)


async def test_a_secret_is_noted_as_used(world: World) -> None:
    async with world.engine() as engine:
        await engine.secrets.create("db", Hidden({"A": "1"}))
        await world.clock.advance(5.0)
        await engine.sandboxes.create(world.spec("cat"), secrets=[NamedSecret(name="db")])
        assert engine.secrets.get("db").used_at == world.clock.now()


async def test_what_is_required_must_be_there(world: World) -> None:
    async with world.engine() as engine:
        await engine.secrets.create("db", Hidden({"A": "1"}))
        with pytest.raises(InvalidError, match="'db' has no B"):
            await engine.sandboxes.create(world.spec("cat"), secrets=[NamedSecret(name="db", required_keys=("A", "B"))])
        with pytest.raises(NotFoundError, match="skerry secret create none"):
            await engine.sandboxes.create(world.spec("cat"), secrets=[NamedSecret(name="none")])
        with pytest.raises(InvalidError, match="at most 64"):
            await engine.sandboxes.create(world.spec("cat"), secrets=[given(A="1")] * 65)
        assert world.store.live_sandboxes() == []


async def test_views_rows_and_events_tell_names_and_keys_only(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with world.engine() as engine:
        await engine.secrets.create("db", Hidden({"A": VALUE}))
        view = await engine.sandboxes.create(world.spec("cat"), secrets=[NamedSecret(name="db"), given(B=VALUE)])
        await environment(engine, world, view.id, given(C=VALUE))
        assert view.spec.secrets == (SecretSource(name="db"), SecretSource(keys=("B",)))
        ended = await engine.sandboxes.terminate(view.id)
    for thing in (view, ended, world.row(view.id), view.spec):
        assert VALUE not in repr(thing)
        assert VALUE.encode() not in msgspec.json.encode(thing)
    assert "secret.created" in caplog.text
    assert VALUE not in caplog.text
    assert not any(VALUE in repr(record.__dict__) for record in caplog.records)


async def test_a_repeated_create_finds_its_sandbox_though_its_secret_is_gone(world: World) -> None:
    async with world.engine() as engine:
        await engine.secrets.create("db", Hidden({"A": "1"}))
        spec, asks = world.spec("cat"), [NamedSecret(name="db")]
        first = await engine.sandboxes.create(spec, secrets=asks, idempotency_key="k")
        await engine.secrets.delete("db")
        assert (await engine.sandboxes.create(spec, secrets=asks, idempotency_key="k")).id == first.id
        with pytest.raises(InvalidError, match="another request"):
            await engine.sandboxes.create(spec, secrets=[given(A="1")], idempotency_key="k")


async def test_a_repeated_exec_finds_its_process_though_its_secret_is_gone(world: World) -> None:
    async with world.engine() as engine:
        sandbox = await engine.sandboxes.create(world.spec("cat"))
        await engine.secrets.create("db", Hidden({"A": "1"}))
        asks = [NamedSecret(name="db")]
        first = await engine.processes.exec(sandbox.id, PROCESS, ExecSpec(argv=("cat",)), secrets=asks)
        await engine.secrets.delete("db")
        assert await engine.processes.exec(sandbox.id, PROCESS, ExecSpec(argv=("cat",)), secrets=asks) is first


# Keys


async def test_a_rotation_seals_every_secret_anew(world: World) -> None:
    async with world.engine() as engine:
        for name in ("a", "b"):
            await engine.secrets.create(name, Hidden({"A": name}))
        key = await engine.secrets.rotate()
        assert {row.sealed.key for row in world.store.secrets.newest(before=None, limit=9)} == {key}
        assert (await engine.secrets.resolve([NamedSecret(name="a")])).reveal() == {"A": "a"}


async def test_a_rotation_that_a_kill_cut_off_is_finished_by_the_next_server(world: World) -> None:
    async with world.engine() as engine:
        await engine.secrets.create("a", Hidden({"A": VALUE}))
    key = world.vault.rotate()
    async with world.engine() as engine:
        row = world.store.secrets.get("a")
        assert row is not None
        assert row.sealed.key == key
        assert (await engine.secrets.resolve([NamedSecret(name="a")])).reveal() == {"A": VALUE}


async def test_a_secret_that_nobody_can_read_any_more_says_so_and_harms_no_other(world: World) -> None:
    async with world.engine() as engine:
        for name in ("broken", "whole"):
            await engine.secrets.create(name, Hidden({"A": VALUE}))
        row = world.store.secrets.get("broken")
        assert row is not None
        await world.store.secrets.replace(replace(row, sealed=Sealed(key=row.sealed.key, data=b"garbage")))
        await engine.secrets.rotate()
    async with world.engine() as engine:
        with pytest.raises(Error) as caught:
            await engine.secrets.resolve([NamedSecret(name="broken")])
        assert isinstance(caught.value, ConflictError)
        assert (await engine.secrets.resolve([NamedSecret(name="whole")])).reveal() == {"A": VALUE}
        await engine.secrets.create("broken", Hidden({"A": "new"}), if_exists=IfExists.REPLACE)
        assert (await engine.secrets.resolve([NamedSecret(name="broken")])).reveal() == {"A": "new"}


def test_hidden_variables_show_nowhere() -> None:
    hidden = Hidden({"A": VALUE})
    for text in (repr(hidden), str(hidden), f"{hidden}", repr([given(A=VALUE)]), repr({"x": hidden})):
        assert VALUE not in text
    with pytest.raises(TypeError):
        msgspec.json.encode(hidden)
    assert hidden == Hidden({"A": VALUE}) != Hidden({"A": "other"})
