"""A program that finds no server starts the real one, and again after it was killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.base_image import give
from realserver import CHECKOUT, Server, wait_for

import skerry
from skerry import Client, Sandbox
from skerry.client.settings import ServerAddress

PROGRAM = """
import skerry
with skerry.Sandbox.create(block_network=True) as box:
    print(box.exec("echo", "hello").stdout.read(), end="")
"""
RANGE = "10.231.0.0/16"


class Autostarted:
    """Where a server will be, once a client has started one."""

    def __init__(self, runtime: Path, data: Path) -> None:
        self.server = Server(runtime, data)

    @property
    def pid(self) -> int:
        lines = [json.loads(line) for line in self.server.settings.log.read_text().splitlines()]
        return int([line for line in lines if line["event"] == "server.ready"][-1]["pid"])

    def kill9(self) -> None:
        """Kill it, and see that it is gone."""
        self.end(signal.SIGKILL)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        pid = self.pid
        os.kill(pid, number)
        wait_for(lambda: not _runs(pid), f"the end of server {pid}")


@pytest.fixture
def autostarted(base_image: Path, tmp_path: Path) -> Iterator[Autostarted]:
    place = CHECKOUT / "build" / "servers"
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    data = Path(tempfile.mkdtemp(dir=place))
    made = Autostarted(tmp_path / "run", data)
    give(base_image, made.server.settings)
    try:
        yield made
        made.end()
        made.server.check_nothing_left()
    finally:
        if made.server.settings.log.exists() and _runs(made.pid):
            os.kill(made.pid, signal.SIGKILL)
        shutil.rmtree(data, ignore_errors=True)


@pytest.fixture
def client(autostarted: Autostarted, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A client that may start the server, with its settings in the environment, as a user's program has them."""
    monkeypatch.setenv("SKERRY_DATA_DIR", str(autostarted.server.data))
    monkeypatch.setenv("SKERRY_NETWORK_RANGE", RANGE)
    with Client(ServerAddress(autostarted.server.settings.socket, autostart=True)) as made:
        yield made


def _runs(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_server_that_was_killed_is_started_again_by_whoever_needs_it(
    autostarted: Autostarted, client: Client, capfd: pytest.CaptureFixture[str]
) -> None:
    with Sandbox.create(block_network=True, client=client) as box:
        process = box.exec("sh", "-c", "echo up; read line; echo $line; exit 5")
        assert next(iter(process.stdout)) == "up\n"
        first = autostarted.pid
        autostarted.kill9()
        process.stdin.write("on\n")
        assert process.stdout.read() == "on\n"
        assert process.wait() == 5
        assert autostarted.pid != first
        assert [each.object_id for each in Sandbox.list(client=client)] == [box.object_id]
    told = capfd.readouterr()
    assert told.out == ""
    assert told.err.count("skerry: starting the local server (pid") == 2


def test_the_server_gets_the_range_that_its_client_names(autostarted: Autostarted, client: Client) -> None:
    with Sandbox.create(client=client) as box:
        addresses = box.exec("hostname", "-I").stdout.read().split()
    assert [address for address in addresses if address.startswith("10.231.")] == addresses != []
    assert RANGE in autostarted.server.settings.log.read_text()


def test_programs_that_start_at_once_share_one_server(autostarted: Autostarted) -> None:
    environ = os.environ | autostarted.server.environ | {"SKERRY_AUTOSTART": "1"}
    programs = [
        subprocess.Popen([sys.executable, "-c", PROGRAM], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    outcomes = [program.communicate(timeout=60) for program in programs]
    assert [out for out, _ in outcomes] == [b"hello\n"] * 3, outcomes
    assert sum(err.count(b"starting the local server") for _, err in outcomes) == 1
    lines = [json.loads(line) for line in autostarted.server.settings.log.read_text().splitlines()]
    assert [line["event"] for line in lines].count("server.ready") == 1


def test_a_server_that_cannot_run_says_why_to_the_client_that_starts_it(
    autostarted: Autostarted, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKERRY_NETWORK_RANGE", "no-network")
    with pytest.raises(skerry.Error, match="SKERRY_NETWORK_RANGE='no-network' is no IPv4 network") as caught:
        Sandbox.create(client=client)
    assert "skerry doctor" in str(caught.value)
    monkeypatch.setenv("SKERRY_NETWORK_RANGE", RANGE)
    with Sandbox.create(block_network=True, client=client) as box:
        assert box.exec("echo", "now").stdout.read() == "now\n"
