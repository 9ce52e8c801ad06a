"""The local server is started by the first client that needs it, once, and with nothing of the caller in it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from skerry import aio
from skerry.client import autostart
from skerry.client.client import Client
from skerry.client.settings import ServerAddress
from skerry.client.transports import unix
from skerry.exception import InvalidError, PermissionDeniedError, ServerUnavailableError, StartFailedError

STAND_IN = Path(__file__).parents[2] / "support" / "stand_in_server.py"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root starts the local server")


@dataclass
class Starts:
    """Where the server is looked for, and what the servers that were started noted."""

    folder: Path
    file: Path

    @property
    def address(self) -> ServerAddress:
        return ServerAddress(self.folder / "v1.sock", autostart=True)

    @property
    def notes(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.file.read_text().splitlines()] if self.file.exists() else []


@pytest.fixture
def starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Starts]:
    made = Starts(tmp_path / "run", tmp_path / "notes")
    monkeypatch.setattr(autostart, "server_command", lambda: [sys.executable, str(STAND_IN), str(made.file)])
    try:
        yield made
    finally:
        for note in made.notes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(note["pid"], signal.SIGTERM)


@needs_root
async def test_the_first_call_starts_the_server(starts: Starts, capfd: pytest.CaptureFixture[str]) -> None:
    async with Client(starts.address) as client:
        sandbox = await aio.Sandbox.create("echo", "hello", client=client)
        assert await sandbox.stdout.read() == "hello\n"
    told = capfd.readouterr()
    assert told.out == ""
    assert "skerry: starting the local server (pid" in told.err
    assert "ready after" in told.err


@needs_root
async def test_nothing_of_the_caller_but_its_settings_reaches_the_server(
    starts: Starts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("PYTHONPATH", "PYTHONSTARTUP", "LD_PRELOAD_X", "HTTP_PROXY", "SKERRY_TOKEN"):
        monkeypatch.setenv(name, "mine")
    monkeypatch.setenv("SKERRY_DATA_DIR", "/data/of/skerry")
    monkeypatch.setenv("SKERRY_RELATIVE_DIR", "relative")
    monkeypatch.setenv("SKERRY_NETWORK_RANGE", "10.99.0.0/16")
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        await autostart.ensure(starts.address)
    (note,) = starts.notes
    assert note["environ"] == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "SKERRY_DATA_DIR": "/data/of/skerry",
        "SKERRY_NETWORK_RANGE": "10.99.0.0/16",
        "SKERRY_RUNTIME_DIR": str(starts.folder),
    }
    assert (note["cwd"], note["umask"], note["session"]) == ("/", 0o077, note["pid"])
    assert note["descriptors"] == [0, 1, 2]


def test_the_server_is_run_isolated() -> None:
    assert autostart.server_command() == [sys.executable, "-I", "-m", "skerry.apps.local"]


@needs_root
async def test_of_many_starters_one_starts(starts: Starts) -> None:
    await asyncio.gather(*(autostart.ensure(starts.address) for _ in range(10)))
    assert len(starts.notes) == 1
    await autostart.ensure(starts.address)
    assert len(starts.notes) == 1


@needs_root
async def test_a_server_that_was_killed_is_started_again(starts: Starts) -> None:
    async with Client(starts.address) as client:
        await aio.Sandbox.create(client=client)
        os.kill(starts.notes[0]["pid"], signal.SIGKILL)
        sandbox = await aio.Sandbox.create("echo", "again", client=client)
        assert await sandbox.stdout.read() == "again\n"
    assert len(starts.notes) == 2


@needs_root
async def test_a_start_that_crashes_shows_the_last_lines(starts: Starts, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [*autostart.server_command(), "crash"]
    monkeypatch.setattr(autostart, "server_command", lambda: command)
    with pytest.raises(StartFailedError) as caught:
        await autostart.ensure(starts.address)
    told = str(caught.value)
    assert "ended with code 1" in told
    assert "line 99" in told
    assert "line 80" not in told
    assert r"the \x1b[31mmachine\x1b[0m lacks something" in told
    assert "skerry doctor" in told


async def test_a_forbidden_start_says_who_forbade_it(starts: Starts) -> None:
    client = Client(ServerAddress(starts.folder / "v1.sock", autostart=False))
    with pytest.raises(ServerUnavailableError, match="SKERRY_AUTOSTART=0"):
        await aio.Sandbox.create(client=client)
    assert starts.notes == []


async def test_who_is_not_root_is_told_what_root_has_to_do(starts: Starts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ServerUnavailableError, match=r"only root can start it: run `sudo skerry server --group"):
        await aio.Sandbox.create(client=Client(starts.address))
    assert starts.notes == []


@needs_root
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o703])
def test_a_folder_in_which_others_could_put_a_socket_is_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    folder.chmod(mode)
    if mode & 0o022:
        with pytest.raises(InvalidError, match="chmod go-w"):
            autostart.prepare_folder(folder)
    else:
        autostart.prepare_folder(folder)


def test_a_link_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to(tmp_path)
    with pytest.raises(InvalidError, match="no folder"):
        autostart.prepare_folder(tmp_path / "run")


@pytest.fixture
def foreign_server(tmp_path: Path) -> Iterator[Path]:
    """The path of a socket on which a program of another user listens."""
    path = tmp_path / "v1.sock"
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _listen_as(65534, path, writer)
    try:
        assert os.read(reader, 1) == b"."
        yield path
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)


def _listen_as(uid: int, path: Path, ready: int) -> None:
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
            os.setuid(uid)  # the kernel tells who called listen()
            sock.listen()
            os.write(ready, b".")
            signal.pause()
    finally:
        os._exit(1)


@needs_root
async def test_a_server_of_another_user_is_refused(foreign_server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PermissionDeniedError, match="uid 65534, neither root nor you"):
        await unix.connect(foreign_server, asyncio.Protocol)
    with pytest.raises(PermissionDeniedError, match="uid 65534"):
        await aio.Sandbox.create(client=Client(ServerAddress(foreign_server)))
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    await unix.connect(foreign_server, asyncio.Protocol)
