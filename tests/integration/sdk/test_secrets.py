"""Secrets with real sandboxes: where their values are, and above all where they are not."""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
from realserver import Server, wait_for

import skerry
from skerry.exception import InvalidError, NotFoundError

pytestmark = pytest.mark.root

# Prints nothing of the value but its hash.
HASHED = 'printf %s "$1" | sha256sum | cut -d" " -f1'
WAIT = "import os, time; open('/tmp/up', 'w').close(); time.sleep(600)"
CHUNK = 1 << 20


def new_value() -> str:
    return secrets.token_hex(24)


def forms(value: str) -> list[bytes]:
    """Return what would give a value away: itself, and itself in base64 at each alignment."""
    raw = value.encode()
    coded = [base64.b64encode(b"\0" * shift + raw)[4 if shift else 0 : -4] for shift in range(3)]
    return [raw, *coded, raw[::-1]]


def places_of(values: list[str], server: Server) -> list[str]:
    """Return the files of a server, and the command lines of this machine, in which one of the values stands."""
    found = []
    wanted = [form for value in values for form in forms(value)]
    for folder in (server.data, server.runtime):
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink() and path.suffix != ".erofs" and holds(path, wanted):
                found.append(str(path))
    for pid in filter(str.isdigit, os.listdir("/proc")):
        command_line = Path("/proc", pid, "cmdline")
        if int(pid) != os.getpid() and holds(command_line, wanted):
            found.append(str(command_line))
    return found


def holds(path: Path, wanted: list[bytes]) -> bool:
    try:
        with path.open("rb") as opened:
            rest = b""
            while chunk := opened.read(CHUNK):
                text = rest + chunk
                if any(form in text for form in wanted):
                    return True
                rest = text[-256:]
    except OSError:  # it has ended, or gone, meanwhile
        return False
    return False


def hash_in(sandbox: skerry.Sandbox, variable: str, **options: object) -> str:
    process = sandbox.exec("sh", "-c", f'set -- "${variable}"; {HASHED}', **options)  # type: ignore[arg-type]
    assert process.wait() == 0, process.stderr.read()
    return process.stdout.read().strip()


def hash_of(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()


def test_what_would_give_a_value_away_is_found(server: Server) -> None:
    """The search itself: where it finds nothing although there is something, the tests below would mean nothing."""
    for number, form in enumerate(forms("some-secret-value")):
        place = server.data / f"planted-{number}"
        place.write_bytes(b"x" * (CHUNK - 5) + form + b"y")
        assert places_of(["some-secret-value"], server) == [str(place)]
        place.unlink()
    told = subprocess.Popen([sys.executable, "-c", WAIT, "some-secret-value"])
    try:
        wait_for(lambda: places_of(["some-secret-value"], server) == [f"/proc/{told.pid}/cmdline"], "the command line")
    finally:
        told.kill()
        told.wait()


def test_no_file_and_no_command_line_ever_has_a_value(server: Server) -> None:
    stored, given, executed = new_value(), new_value(), new_value()
    values = [stored, given, executed]
    skerry.Secret.objects.create("stored", {"STORED": stored})
    sandbox = skerry.Sandbox.create(
        "python3",
        "-c",
        WAIT,
        secrets=[
            skerry.Secret.from_name("stored", required_keys=["STORED"]),
            skerry.Secret.from_dict({"GIVEN": given}),
        ],
    )
    extra = skerry.Secret.from_dict({"EXECUTED": executed})
    running = sandbox.exec("sh", "-c", "sleep 600", secrets=[extra])

    def check() -> None:
        assert hash_in(sandbox, "STORED") == hash_of(stored)
        assert hash_in(sandbox, "GIVEN") == hash_of(given)
        assert hash_in(sandbox, "EXECUTED", secrets=[extra]) == hash_of(executed)
        assert places_of(values, server) == []

    check()
    server.kill9()
    assert places_of(values, server) == []
    server.start()
    check()  # what the record kept is whole
    told = repr(skerry.Sandbox.from_id(sandbox.object_id).view) + repr(list(skerry.Sandbox.list()))
    assert not any(value in told for value in values)
    running.kill()
    sandbox.terminate(wait=True)
    assert places_of(values, server) == []
    skerry.Secret.objects.rotate()
    again = skerry.Sandbox.create(secrets=[skerry.Secret.from_name("stored")])
    assert hash_in(again, "STORED") == hash_of(stored)
    server.stop()
    assert places_of(values, server) == []
    server.start()


def test_the_first_process_has_them_and_env_wins(shared: Server) -> None:
    first = skerry.Secret.from_dict({"A": "1", "B": "1", "C": "1"})
    second = skerry.Secret.from_dict({"B": "2", "C": "2"})
    sandbox = skerry.Sandbox.create("sh", "-c", 'echo "$A$B$C"', secrets=[first, second], env={"C": "3"})
    sandbox.wait()
    assert sandbox.stdout.read() == "123\n"


def test_an_execs_secrets_come_before_those_of_its_sandbox(shared: Server) -> None:
    sandbox = skerry.Sandbox.create(secrets=[skerry.Secret.from_dict({"A": "1", "B": "1", "C": "1"})])
    process = sandbox.exec(
        "sh", "-c", 'echo "$A$B$C"', secrets=[skerry.Secret.from_dict({"B": "2", "C": "2"})], env={"C": "3"}
    )
    assert process.stdout.read() == "123\n"
    assert sandbox.exec("sh", "-c", 'echo "$A$B$C"').stdout.read() == "111\n"


def test_what_cannot_be_given_says_why_and_leaves_nothing(shared: Server) -> None:
    skerry.Secret.objects.create("partial", {"A": "1"})
    before = len(list(skerry.Sandbox.list()))
    with pytest.raises(NotFoundError, match="no secret 'none'; create it with `skerry secret create none`"):
        skerry.Sandbox.create(secrets=[skerry.Secret.from_name("none")])
    with pytest.raises(InvalidError, match="secret 'partial' has no B, C"):
        skerry.Sandbox.create(secrets=[skerry.Secret.from_name("partial", required_keys=["A", "B", "C"])])
    large = {"LARGE": "x" * (128 << 10)}
    with pytest.raises(InvalidError, match="environment takes 131,079 bytes"):
        skerry.Sandbox.create(secrets=[skerry.Secret.from_dict(large)])
    assert len(list(skerry.Sandbox.list())) == before


def test_a_sandbox_whose_key_is_lost_is_ended_and_says_so(server: Server) -> None:
    value = new_value()
    sandbox = skerry.Sandbox.create(secrets=[skerry.Secret.from_dict({"A": value})])
    plain = skerry.Sandbox.create()
    server.kill9()
    server.settings.key_file.unlink()
    server.start()
    sandbox.wait(raise_on_termination=False)
    assert sandbox.exit is not None
    assert sandbox.exit.reason == "node_lost"
    assert "does not hold" in sandbox.exit.evidence
    assert plain.exec("echo", "alive").stdout.read() == "alive\n"


def test_the_keys_are_readable_by_their_owner_alone_and_lie_in_no_database(server: Server) -> None:
    assert not server.settings.key_file.exists()
    skerry.Secret.objects.create("a", {"A": "1"})
    assert server.settings.key_file.stat().st_mode & 0o777 == 0o600
    keys = server.settings.key_file.read_bytes()
    key = keys.split(b'"key":"')[1].split(b'"')[0]
    for path in server.data.glob("skerry.db*"):
        assert key not in path.read_bytes()
        assert base64.b64decode(key) not in path.read_bytes()
