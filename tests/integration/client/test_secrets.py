"""Secrets by the SDK and the commands, against the real door over a fake node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from served_door import ServedDoor
from terminal_user import Window

import skerry
from skerry.client.client import Client
from skerry.exception import AlreadyExistsError, InvalidError, NotFoundError

PATIENCE_S = 20
VALUE = "hunter2-the-value"
PROGRAM = [sys.executable, "-c", "from skerry.cli import main; main()"]


def command(door: ServedDoor, *argv: str, stdin: bytes | None = None, **environ: str) -> tuple[str, str, int]:
    done = subprocess.run(
        [*PROGRAM, *argv],
        env=os.environ | {"SKERRY_URL": door.url, "COLUMNS": "200"} | environ,
        input=b"" if stdin is None else stdin,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return done.stdout.decode(), done.stderr.decode(), done.returncode


def environment(sandbox: skerry.Sandbox, **options: object) -> dict[str, str]:
    text = sandbox.exec("env", **options).stdout.read()  # type: ignore[call-overload]
    return dict(line.split("=", 1) for line in text.splitlines())


def held(name: str) -> dict[str, str]:
    """Return what a process gets from a stored secret."""
    return environment(skerry.Sandbox.create(secrets=[skerry.Secret.from_name(name)]))


def test_stored_secrets_are_made_listed_changed_and_deleted(client: Client) -> None:
    objects = skerry.Secret.objects
    objects.create("db", {"USER": "u", "PASSWORD": VALUE})
    with pytest.raises(AlreadyExistsError, match="'db'"):
        objects.create("db", {})
    objects.create("db", {"OTHER": "x"}, allow_existing=True)
    objects.create("token", {"T": "t"})
    assert [secret.name for secret in objects.list()] == ["token", "db"]
    assert [secret.name for secret in objects.list(max_objects=1)] == ["token"]
    assert objects.list(max_objects=0) == []
    info = skerry.Secret.from_name("db").info()
    assert (info.name, info.keys, info.last_used) == ("db", ("PASSWORD", "USER"), None)
    assert [secret.name for secret in objects.list(created_before=info.created_at)] == []
    skerry.Secret.from_name("db").update({"PASSWORD": "changed", "MORE": ""})
    assert held("db") == {"USER": "u", "PASSWORD": "changed", "MORE": ""}
    assert skerry.Secret.from_name("db").info(refresh=True).last_used is not None
    objects.delete("db")
    objects.delete("db", allow_missing=True)
    with pytest.raises(NotFoundError, match="no secret 'db'"):
        objects.delete("db")
    with pytest.raises(NotFoundError):
        skerry.Secret.from_name("db").info()


def test_more_secrets_than_a_page_holds_are_listed(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skerry.client._async.secrets.PAGE", 2)
    for number in range(5):
        skerry.Secret.objects.create(f"n{number}", {"A": "1"})
    assert [secret.name for secret in skerry.Secret.objects.list()] == ["n4", "n3", "n2", "n1", "n0"]
    assert [secret.name for secret in skerry.Secret.objects.list(max_objects=3)] == ["n4", "n3", "n2"]


def test_every_kind_of_secret_reaches_sandbox_and_exec_in_order(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("B=dotenv\nC=dotenv\n")
    monkeypatch.setenv("C", "environ")
    skerry.Secret.objects.create("stored", {"A": "stored", "B": "stored"})
    secrets = [
        skerry.Secret.from_name("stored", required_keys=["A"]),
        skerry.Secret.from_dotenv(tmp_path),
        skerry.Secret.from_local_environ(["C"]),
        skerry.Secret.from_dict({"D": "dict"}),
    ]
    expected = {"A": "stored", "B": "dotenv", "C": "environ", "D": "env"}
    sandbox = skerry.Sandbox.create(secrets=secrets, env={"D": "env"})
    assert environment(sandbox) == expected
    assert environment(skerry.Sandbox.create(), secrets=secrets, env={"D": "env"}) == expected
    assert sandbox.view.spec.env == {"D": "env"}
    told = [(source.name, source.keys) for source in sandbox.view.spec.secrets]
    assert told == [("stored", ()), (None, ("B", "C")), (None, ("C",)), (None, ("D",))]


def test_the_asynchronous_forms_work_too(client: Client) -> None:
    import asyncio

    async def main() -> None:
        await skerry.Secret.objects.create.aio("db", {"A": "1"})
        assert [secret.name for secret in await skerry.Secret.objects.list.aio()] == ["db"]
        await skerry.Secret.from_name("db").update.aio({"B": "2"})
        await skerry.Secret.objects.delete.aio("db")

    asyncio.run(main())


def test_a_create_whose_answer_was_lost_is_one_secret(door: ServedDoor, client: Client) -> None:
    skerry.Secret.objects.list()  # so that the server has been there
    insert = door.engine.secrets._store.insert
    asked: list[str] = []

    async def slow(*args: object, **options: object) -> object:
        made = await insert(*args, **options)  # type: ignore[arg-type]
        asked.append(made.view.id)
        if len(asked) == 1:
            gone.set()
            await never.wait()
        return made

    async def events() -> tuple[object, object]:
        import asyncio

        return asyncio.Event(), asyncio.Event()

    gone, never = door.do(events())  # type: ignore[assignment]
    door.engine.secrets._store.insert = slow  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as pool:
        creating = pool.submit(skerry.Secret.objects.create, "db", {"A": "1"})
        door.do(gone.wait())  # type: ignore[attr-defined]
        door.cut()
        door.listen()
        creating.result(PATIENCE_S)
    assert [secret.name for secret in skerry.Secret.objects.list()] == ["db"]


# The commands


def test_a_single_value_comes_on_stdin(door: ServedDoor, client: Client) -> None:
    assert command(door, "secret", "create", "db", "PASSWORD", stdin=f"{VALUE}\n".encode()) == ("", "", 0)
    assert held("db") == {"PASSWORD": VALUE}
    assert command(door, "secret", "create", "raw", "TEXT", stdin=b"two\nlines\n\n")[2] == 0
    sandbox = skerry.Sandbox.create(secrets=[skerry.Secret.from_name("raw")])
    assert sandbox.exec("env").stdout.read() == "TEXT=two\nlines\n\n"


def test_values_come_from_files_stdin_and_the_environment(door: ServedDoor, client: Client, tmp_path: Path) -> None:
    file = tmp_path / "values"
    file.write_text("A=1\nB=2\n")
    assert command(door, "secret", "create", "file", "--from-dotenv", str(file))[2] == 0
    assert command(door, "secret", "create", "stdin", "--from-dotenv", "-", stdin=b"A=1\nB=2\n")[2] == 0
    both = ("secret", "create", "both", "--from-dotenv", str(file), "--from-environ", "B", "C")
    assert command(door, *both, stdin=b"3", B="environ")[2] == 0
    assert held("file") == held("stdin") == {"A": "1", "B": "2"}
    assert held("both") == {"A": "1", "B": "environ", "C": "3"}


def test_values_are_asked_for_without_echo_at_a_terminal(door: ServedDoor, client: Client) -> None:
    window = Window([*PROGRAM, "secret", "create", "db", "USER", "PASSWORD"], os.environ | {"SKERRY_URL": door.url})
    at = 0
    for key, value in (("USER", "me-myself"), ("PASSWORD", VALUE)):
        at = window.until(f"{key}: ", after=at)
        window.type(f"{value}\n")
    assert window.ended() == 0
    assert VALUE.encode() not in window.shown
    assert b"me-myself" not in window.shown
    window.close()
    assert held("db") == {"USER": "me-myself", "PASSWORD": VALUE}


def test_a_value_on_the_command_line_is_refused(door: ServedDoor, client: Client) -> None:
    _, err, code = command(door, "secret", "create", "db", f"PASSWORD={VALUE}")
    assert (code, VALUE in err) == (2, False)
    assert "shown by `ps`" in err
    for argv, said in (
        (("db",), "name a KEY"),
        (("db", "A", "B"), "one KEY only"),
        (("db", "A", "--from-dotenv", "-"), "stdin is the file already"),
    ):
        _, err, code = command(door, "secret", "create", *argv, stdin=VALUE.encode())
        assert (code, VALUE in err) == (2, False)
        assert said in err
    for argv in (("db", "--from-environ", "NOT_SET"), ("db", "--from-dotenv", "/none"), ("a/b", "A"), ("db", "A\x1b")):
        _, err, code = command(door, "secret", "create", *argv, stdin=VALUE.encode())
        assert (code, VALUE in err, err.count("\n")) == (1, False, 1)
        assert err.removesuffix("\n").isprintable()
    assert skerry.Secret.objects.list() == []


def test_lists_tell_names_and_keys_and_never_a_value(door: ServedDoor, client: Client) -> None:
    skerry.Secret.objects.create("db", {"USER": VALUE, "PASSWORD": VALUE})
    out, _, _ = command(door, "secret", "ls")
    assert out.splitlines()[1].split()[:2] == ["db", "PASSWORD,USER"]
    as_json, _, _ = command(door, "secret", "ls", "--json")
    assert [(one["name"], one["keys"]) for one in json.loads(as_json)] == [("db", ["PASSWORD", "USER"])]
    sandbox = skerry.Sandbox.create("cat", secrets=[skerry.Secret.from_name("db")])
    assert environment(sandbox)["USER"] == VALUE
    for text in (
        out,
        as_json,
        *(command(door, *argv)[0] for argv in (("ls",), ("ls", "--json"), ("ps", sandbox.object_id))),
    ):
        assert VALUE not in text


def test_force_replaces_and_rm_removes(door: ServedDoor, client: Client) -> None:
    command(door, "secret", "create", "db", "A", stdin=b"1")
    assert command(door, "secret", "create", "db", "B", stdin=b"2")[2] == 1
    assert command(door, "secret", "create", "--force", "db", "B", stdin=b"2") == ("", "", 0)
    assert held("db") == {"B": "2"}
    assert command(door, "secret", "rm", "db") == ("", "", 0)
    assert command(door, "secret", "rm", "db")[2] == 1
    assert command(door, "secret", "rm", "--allow-missing", "db", "other") == ("", "", 0)


def test_create_and_exec_take_stored_secrets(door: ServedDoor, client: Client) -> None:
    command(door, "secret", "create", "one", "A", stdin=b"1")
    command(door, "secret", "create", "two", "--from-dotenv", "-", stdin=b"A=2\nB=2\n")
    sandbox = command(door, "create", "--secret", "two", "--secret", "one")[0].strip()
    assert command(door, "exec", "-n", sandbox, "--", "env")[0] == "A=1\nB=2\n"
    assert command(door, "exec", "-n", "--secret", "two", "--env", "B=3", sandbox, "--", "env")[0] == "A=2\nB=3\n"
    _, err, code = command(door, "create", "--secret", "none")
    assert (code, err) == (1, "skerry: there is no secret 'none'; create it with `skerry secret create none`\n")


def test_keys_are_rotated(door: ServedDoor, client: Client) -> None:
    skerry.Secret.objects.create("db", {"A": VALUE})
    before = door.engine.secrets._vault.current
    out, _, _ = command(door, "secret", "rotate")
    assert out.strip() == door.engine.secrets._vault.current != before
    assert held("db") == {"A": VALUE}


def test_what_cannot_be_a_secret_of_a_request_is_refused(client: Client) -> None:
    skerry.Secret.objects.create("db", {"A": "1"})
    with pytest.raises(InvalidError, match="has no B"):
        skerry.Sandbox.create(secrets=[skerry.Secret.from_name("db", required_keys=["B"])])
    sandbox = skerry.Sandbox.create()
    with pytest.raises(NotFoundError, match="no secret 'none'"):
        sandbox.exec("env", secrets=[skerry.Secret.from_name("none")])
