"""The local server as a process, and what it does at its ends. The node is in memory."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fake_server
import pytest
from door_client import Http, Socket
from waiting import until

from skerry.apps.local import serve
from skerry.apps.settings import Settings
from skerry.apps.sockets import bound_socket
from skerry.model.errors import ConflictError, InvalidError
from skerry.testing.clock import VirtualClock
from skerry.testing.images import MemoryImages
from skerry.wire.frames import FrameType

DEADLINE_S = 20.0


@dataclass
class Server:
    process: subprocess.Popen[str]
    runtime: Path
    data: Path

    @property
    def http(self) -> Http:
        return Http(self.runtime / "v1.sock")

    def log(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in (self.data / "server.log").read_text().splitlines()]

    def end(self, number: int) -> tuple[int, str]:
        """Send a signal; return the exit status and what was said on stderr."""
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, err


def started(runtime: Path, data: Path, *options: str) -> Server:
    environ = {**os.environ, "SKERRY_RUNTIME_DIR": str(runtime), "SKERRY_DATA_DIR": str(data)}
    process = subprocess.Popen(
        [sys.executable, fake_server.__file__, *options], env=environ, stderr=subprocess.PIPE, text=True
    )
    return Server(process, runtime, data)


def listens(server: Server) -> bool:
    """Wait until the server answers; False if it ended instead."""
    deadline = time.monotonic() + DEADLINE_S
    while server.process.poll() is None:
        assert time.monotonic() < deadline
        try:
            server.http._call("GET", "/v1/health", b"", {})
        except (FileNotFoundError, ConnectionRefusedError):
            time.sleep(0.02)
        else:
            return True
    return False


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = started(tmp_path / "run", tmp_path / "data")
    try:
        assert listens(made)
        yield made
    finally:
        made.process.kill()
        made.process.wait()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_folders_and_socket_are_closed_to_others(server: Server) -> None:
    assert mode(server.runtime) == 0o750
    assert mode(server.runtime / "v1.sock") == 0o660
    assert mode(server.data) == 0o700
    assert mode(server.data / "server.log") == 0o600
    assert mode(server.data / "skerry.db") == 0o600


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_cleanly_and_its_log_says_so(server: Server, number: int) -> None:
    status, said = server.end(number)
    assert (status, said) == (0, "")
    assert not (server.runtime / "v1.sock").exists()
    events = [line["event"] for line in server.log()]
    assert events == ["server.ready", "server.stopping", "server.stopped"]


async def test_a_signal_ends_it_while_clients_wait(server: Server) -> None:
    async with Socket.connect(server.runtime / "v1.sock") as client:
        await client.open("process", sandbox="sb_none", process="entrypoint")
        await client.expect(FrameType.ERROR)
        status, _ = await asyncio.to_thread(server.end, signal.SIGTERM)
        assert status == 0
        assert (await client.closed())[0] == 1012


async def test_in_the_foreground_it_tells_people_on_stderr(tmp_path: Path) -> None:
    server = started(tmp_path / "run", tmp_path / "data", "--foreground")
    assert listens(server)
    status, said = server.end(signal.SIGINT)
    assert status == 0
    assert f"server.ready pid={server.process.pid} socket={server.runtime}/v1.sock" in said
    assert "server.stopped" in said


async def test_a_second_server_on_the_same_data_is_refused_with_the_first_ones_process(server: Server) -> None:
    second = started(server.runtime.parent / "run2", server.data, "--foreground")
    _, said = second.process.communicate(timeout=DEADLINE_S)
    assert second.process.returncode == 1
    assert f"process {server.process.pid}" in said
    assert "SKERRY_DATA_DIR" in said
    assert "Traceback" not in said


async def test_a_second_server_on_the_same_socket_is_refused_and_the_first_goes_on(server: Server) -> None:
    second = started(server.runtime, server.data.parent / "data2", "--foreground")
    _, said = second.process.communicate(timeout=DEADLINE_S)
    assert second.process.returncode == 1
    assert "another skerry server listens" in said
    assert (await server.http.get("/v1/health")).body["pid"] == server.process.pid


async def test_a_successor_starts_where_a_server_was_killed(server: Server) -> None:
    app = (await server.http.post("/v1/apps", {"name": "kept", "create": True})).body
    server.process.kill()
    server.process.wait()
    successor = started(server.runtime, server.data)
    try:
        assert listens(successor)
        assert (await successor.http.post("/v1/apps", {"name": "kept"})).body == app
    finally:
        successor.process.kill()
        successor.process.communicate()


async def test_a_successor_waits_for_a_server_that_is_leaving(server: Server) -> None:
    server.process.send_signal(signal.SIGSTOP)
    try:
        successor = started(server.runtime.parent / "run2", server.data)
        await asyncio.sleep(0)
        server.process.send_signal(signal.SIGTERM)
    finally:
        server.process.send_signal(signal.SIGCONT)
    try:
        assert await asyncio.to_thread(listens, successor)
    finally:
        successor.process.kill()
        successor.process.communicate()


async def test_what_keeps_it_from_running_is_said_in_one_line(tmp_path: Path) -> None:
    environ = {**os.environ, "SKERRY_RUNTIME_DIR": "relative"}
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-I", "-m", "skerry.apps.local"],
        env=environ,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("skerry: SKERRY_RUNTIME_DIR='relative' is relative")
    assert len(ended.stderr.splitlines()) == 1


# When nobody needs it


@dataclass
class Idle:
    """A server in this process, whose clock stands still."""

    settings: Settings
    clock: VirtualClock
    serving: asyncio.Future[None]

    @property
    def http(self) -> Http:
        return Http(self.settings.socket)


async def in_process(tmp_path: Path, **fields: object) -> Idle:
    settings = Settings(runtime_dir=tmp_path / "run", data_dir=tmp_path / "data", idle_s=600.0, **fields)  # type: ignore[arg-type]
    clock = VirtualClock()
    serving = asyncio.ensure_future(serve(settings, fake_server.fake_parts, clock=clock))
    idle = Idle(settings, clock, serving)
    # Retention sleeps, and so does the watch over idleness, unless it stays anyhow.
    await until(lambda: clock.sleepers == (1 if settings.foreground else 2) or serving.done())
    return idle


async def test_it_leaves_after_ten_minutes_in_which_nobody_came(tmp_path: Path) -> None:
    idle = await in_process(tmp_path)
    await idle.clock.advance(595.0)
    assert not idle.serving.done()
    await idle.clock.advance(10.0)
    async with asyncio.timeout(DEADLINE_S):
        await idle.serving
    assert not idle.settings.socket.exists()


async def test_a_request_starts_the_ten_minutes_again(tmp_path: Path) -> None:
    idle = await in_process(tmp_path)
    await idle.clock.advance(500.0)
    await idle.http.get("/v1/health")
    await idle.clock.advance(500.0)
    assert not idle.serving.done()
    await idle.clock.advance(200.0)
    async with asyncio.timeout(DEADLINE_S):
        await idle.serving


async def test_a_client_that_stays_keeps_it(tmp_path: Path) -> None:
    idle = await in_process(tmp_path)
    async with Socket.connect(idle.settings.socket):
        await idle.clock.advance(5000.0)
        assert not idle.serving.done()
    await idle.clock.advance(700.0)
    async with asyncio.timeout(DEADLINE_S):
        await idle.serving


async def test_a_sandbox_that_lives_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[MemoryImages] = []
    add = MemoryImages.add

    def remember(self: MemoryImages, **fields: object) -> object:
        made.append(self)
        return add(self, **fields)  # type: ignore[arg-type]

    monkeypatch.setattr(MemoryImages, "add", remember)
    idle = await in_process(tmp_path)
    image = add(made[0]).id
    created = await idle.http.post("/v1/sandboxes", {"image": image, "entrypoint": ["cat"], "lifetime_s": 3000})
    assert created.status == 200
    await idle.clock.advance(2900.0)
    assert not idle.serving.done()
    await idle.clock.advance(200.0)
    while (await idle.http.get("/v1/sandboxes")).body["sandboxes"]:
        pass  # the store writes in a thread of its own, which no clock of ours moves
    await idle.clock.advance(700.0)
    async with asyncio.timeout(DEADLINE_S):
        await idle.serving


async def test_in_the_foreground_it_stays(tmp_path: Path) -> None:
    idle = await in_process(tmp_path, foreground=True)
    await idle.clock.advance(10_000.0)
    assert not idle.serving.done()
    idle.serving.cancel()
    await asyncio.gather(idle.serving, return_exceptions=True)


# The socket


def test_a_group_can_be_given_by_name_or_number(tmp_path: Path) -> None:
    path = tmp_path / "run" / "v1.sock"
    with bound_socket(path, group=str(os.getegid())):
        assert path.stat().st_gid == os.getegid()
    with pytest.raises(InvalidError, match="groupadd nobody-has-this"), bound_socket(path, group="nobody-has-this"):
        pass


def test_the_socket_of_another_is_left_alone_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "run" / "v1.sock"
    with bound_socket(path, group=None):
        path.unlink()
        path.write_text("of another")
    assert path.read_text() == "of another"


def test_a_socket_on_which_someone_listens_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "run" / "v1.sock"
    with bound_socket(path, group=None) as first:
        first.listen()
        with pytest.raises(ConflictError, match="SKERRY_RUNTIME_DIR"), bound_socket(path, group=None):
            pass
