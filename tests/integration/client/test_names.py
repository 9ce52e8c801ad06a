"""Names, tags and lists: the SDK and the commands, against the real door over a fake node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from served_door import ServedDoor
from waiting import until

import skerry
from skerry.client.client import Client
from skerry.exception import AlreadyExistsError, InvalidError, NotFoundError, UnimplementedError

PATIENCE_S = 20
HOSTILE = "\x1b[2J\x1b]0;owned\x07\r\u202e"


def command(door: ServedDoor, *argv: str, **environ: str) -> tuple[str, str, int]:
    done = subprocess.run(
        [sys.executable, "-c", "from skerry.cli import main; main()", *argv],
        env=os.environ | {"SKERRY_URL": door.url, "COLUMNS": "200"} | environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return done.stdout.decode(), done.stderr.decode(), done.returncode


def completed(door: ServedDoor, *words: str) -> set[str]:
    """Return what bash is told for the last of the words."""
    line = " ".join(("skerry", *words))
    out, err, _ = command(door, _SKERRY_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=str(len(words)))
    assert err == ""
    return {one.partition(",")[2] for one in out.splitlines() if one}


@pytest.fixture
def app(client: Client) -> skerry.App:
    return skerry.App.lookup("agents", create_if_missing=True)


def test_a_sandbox_is_found_by_its_apps_name_and_its_own(app: skerry.App) -> None:
    web = skerry.Sandbox.create(app=app, name="web", tags={"stage": "test"})
    skerry.Sandbox.create(name="web")
    found = skerry.Sandbox.from_name("agents", "web")
    assert (found.object_id, found.view.app_name) == (web.object_id, "agents")
    with pytest.raises(AlreadyExistsError, match=web.object_id):
        skerry.Sandbox.create(app=app, name="web")
    web.terminate()
    with pytest.raises(NotFoundError, match="no sandbox named 'web' runs in app 'agents'"):
        skerry.Sandbox.from_name("agents", "web")
    ended = skerry.Sandbox.from_name("agents", "web", include_terminated=True)
    assert (ended.object_id, ended.returncode) == (web.object_id, 137)
    second = skerry.Sandbox.create(app=app, name="web")
    assert skerry.Sandbox.from_name("agents", "web", include_terminated=True).object_id == second.object_id
    assert skerry.Sandbox.from_name(None, "web").object_id not in (web.object_id, second.object_id)


def test_what_cannot_be_found_says_why(app: skerry.App) -> None:
    with pytest.raises(NotFoundError, match="no app 'none'"):
        skerry.Sandbox.from_name("none", "web")
    with pytest.raises(NotFoundError, match="is known in app 'agents'"):
        skerry.Sandbox.from_name("agents", "web", include_terminated=True)
    with pytest.raises(UnimplementedError, match="environments"):
        skerry.Sandbox.from_name("agents", "web", environment_name="prod")


def test_tags_are_set_read_and_listed_by(app: skerry.App) -> None:
    one = skerry.Sandbox.create(app=app, tags={"stage": "test", "who": "ä = & ?"})
    two = skerry.Sandbox.create(tags={"stage": "test"})
    assert [box.object_id for box in skerry.Sandbox.list(tags={"stage": "test"})] == [two.object_id, one.object_id]
    assert [box.object_id for box in skerry.Sandbox.list(tags={"who": "ä = & ?"})] == [one.object_id]
    assert [box.object_id for box in skerry.Sandbox.list(app_id=app.app_id)] == [one.object_id]
    two.set_tags({"stage": "live"})
    assert two.get_tags() == {"stage": "live"}
    assert skerry.Sandbox.from_id(two.object_id).get_tags() == {"stage": "live"}
    assert [box.object_id for box in skerry.Sandbox.list(tags={"stage": "test"})] == [one.object_id]
    one.terminate()
    assert list(skerry.Sandbox.list(tags={"stage": "test"})) == []
    (ended,) = skerry.Sandbox.list(tags={"stage": "test"}, include_ended=True)
    assert ended.exit is not None
    assert ended.exit.reason == "terminated"
    two.set_tags({})
    assert two.get_tags() == {}


@pytest.mark.parametrize("tags", ["k=v", [("k", "v")], {"k": 1}, {1: "v"}, {"k": None}, {"k": "\ud800"}])
def test_tags_that_are_no_strings_are_refused_before_they_are_sent(client: Client, tags: object) -> None:
    sandbox = skerry.Sandbox.create()
    for call in (lambda: sandbox.set_tags(tags), lambda: skerry.Sandbox.create(tags=tags)):  # type: ignore[arg-type]
        with pytest.raises(InvalidError, match="tag"):
            call()


def test_a_list_is_whole_over_many_pages(door: ServedDoor, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skerry.client._async.sandboxes.PAGE", 3)
    made = [skerry.Sandbox.create(tags={"batch": str(number % 2)}).object_id for number in range(12)]
    assert [box.object_id for box in skerry.Sandbox.list()] == made[::-1]
    assert [box.object_id for box in skerry.Sandbox.list(tags={"batch": "1"})] == made[::-1][::2]


def test_a_create_whose_answer_was_lost_is_one_sandbox(door: ServedDoor, client: Client) -> None:
    skerry.Sandbox.create().terminate()  # so that the server has been there
    door.call(door.node.hold_starts.clear)
    with ThreadPoolExecutor(1) as pool:
        creating = pool.submit(skerry.Sandbox.create, name="web", tags={"k": "v"})
        door.do(until(lambda: door.engine.sandboxes.live_count == 1))
        door.cut()
        door.call(door.node.hold_starts.set)
        door.listen()
        sandbox = creating.result(PATIENCE_S)
    assert [box.object_id for box in skerry.Sandbox.list()] == [sandbox.object_id]


# The commands


def test_commands_take_names_where_they_take_ids(door: ServedDoor) -> None:
    made = command(
        door, "create", "--app", "agents", "--name", "web", "--tag", "stage=test", "--tag", "a=b=c", "--", "cat"
    )
    sandbox = made[0].strip()
    assert command(door, "exec", "-n", "web", "--", "echo", "x") == ("x\n", "", 0)
    assert command(door, "exec", "-n", "agents/web", "--", "echo", "x") == ("x\n", "", 0)
    out, _, _ = command(door, "ls")
    head, row = out.splitlines()
    assert head.split() == ["SANDBOX", "NAME", "APP", "STATE", "AGE", "LEFT", "TAGS", "COMMAND"]
    assert row.split()[:4] == [sandbox, "web", "agents", "running"]
    assert row.split()[-2:] == ["a=b=c,stage=test", "cat"]
    (listed,) = json.loads(command(door, "ls", "--json", "--name", "web", "--app", "agents", "--tag", "stage=test")[0])
    assert (listed["name"], listed["app_name"], listed["tags"]) == ("web", "agents", {"stage": "test", "a": "b=c"})
    for other in (("--name", "db"), ("--tag", "stage=live")):
        assert json.loads(command(door, "ls", "--json", *other)[0]) == []
    assert command(door, "terminate", "web")[0].split() == [sandbox, "terminated"]
    _, err, code = command(door, "terminate", "web")
    assert (code, err) == (
        1,
        "skerry: no sandbox is named 'web'; `skerry ls` shows the names and ids of those that run\n",
    )
    assert "terminated" in command(door, "ls", "--all", "--name", "web")[0]
    assert command(door, "logs", "web") == command(door, "logs", "agents/web") == ("", "", 0)
    assert "cat" in command(door, "ps", "web")[0]


def test_columns_are_shown_only_where_they_say_something(door: ServedDoor, client: Client) -> None:
    skerry.Sandbox.create()
    assert command(door, "ls")[0].splitlines()[0].split() == ["SANDBOX", "STATE", "AGE", "LEFT", "COMMAND"]


def test_a_name_of_several_apps_is_asked_back(door: ServedDoor, app: skerry.App) -> None:
    skerry.Sandbox.create(app=app, name="web")
    skerry.Sandbox.create(name="web")
    _, err, code = command(door, "exec", "-n", "web", "--", "ls")
    assert (code, err) == (1, "skerry: several sandboxes are named 'web'; say which: /web, agents/web\n")
    assert command(door, "exec", "-n", "/web", "--", "echo", "x")[2] == 0


def test_a_shell_completes_names_ids_apps_and_tags(door: ServedDoor, app: skerry.App) -> None:
    web = skerry.Sandbox.create(app=app, name="web", tags={"stage": "test"})
    other = skerry.Sandbox.create()
    names = {"web", "agents/web"}
    ids = {web.object_id, other.object_id}
    assert completed(door, "exec", "") == names | ids
    assert completed(door, "terminate", "web", "w") == {"web"}
    assert completed(door, "shell", "sb_") == ids
    assert completed(door, "ls", "--name", "w") == {"web"}
    assert completed(door, "ls", "--app", "") == completed(door, "create", "--app", "a") == {"agents"}
    assert completed(door, "ls", "--tag", "st") == {"stage=test"}
    door.cut()
    assert completed(door, "exec", "") == set()
    door.listen()


def test_no_control_sequence_reaches_the_terminal(door: ServedDoor, client: Client) -> None:
    sandbox = skerry.Sandbox.create("cat", HOSTILE)
    told = [
        command(door, "ls", "--all"),
        command(door, "create", "--name", HOSTILE),
        command(door, "create", "--tag", f"{HOSTILE}={HOSTILE}"),
        command(door, "create", "--tag", f"k={HOSTILE}"),
        command(door, "create", "--tag", HOSTILE),
        command(door, "create", "--app", HOSTILE),
        command(door, "ls", "--name", HOSTILE),
        command(door, "ls", "--app", HOSTILE),
        command(door, "terminate", HOSTILE),
        command(door, "terminate", f"{HOSTILE}/{HOSTILE}"),
        command(door, "terminate", f"sb_{HOSTILE}"),
        command(door, "exec", sandbox.object_id, "--", HOSTILE),
    ]
    for out, err, _ in told:
        assert all(char.isprintable() or char == "\n" for char in out + err), (out, err)
    assert "\\x1b[2J" in told[0][0]
    assert {code for _, _, code in told[1:6]} <= {1, 2}
