"""Floods of connections: what one user's program does, another's does not feel."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from door_client import DEADLINE_S, Socket
from doorway import Door, opened_door
from waiting import until
from websockets.asyncio.client import unix_connect
from websockets.exceptions import InvalidStatus

from skerry.client._core.websocket import SocketProtocolError
from skerry.client.transports.http import ConnectionLost
from skerry.client.transports.socket import FrameSocket
from skerry.doors.native import protocols
from skerry.doors.native.places import SHARE, Places
from skerry.wire.frames import FrameType

EACH = 8
OTHER = 65534
GET = b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    """A door with few places, that every user of the machine may open."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        async with opened_door(Path(folder), Places(EACH * SHARE)) as opened:
            opened.path.chmod(0o777)
            yield opened


class Flood:
    """Raw connections that are open at the same time."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._sockets: list[socket.socket] = []

    async def connect(self, count: int, said: bytes = b"", *, user: int = 0) -> list[socket.socket]:
        made = []
        for _ in range(count):
            with acting_as(user):
                made.append(self._connect(said))
            await asyncio.sleep(0)
        self._sockets += made
        return made

    def _connect(self, said: bytes) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(self._door.path))
        client.setblocking(False)
        client.sendall(said)
        return client

    def close(self) -> None:
        for client in self._sockets:
            client.close()


@contextlib.contextmanager
def acting_as(user: int) -> Iterator[None]:
    """Connect as another user: the kernel notes the effective ids (unix(7), SO_PEERCRED)."""
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def flood(door: Door) -> Iterator[Flood]:
    made = Flood(door)
    yield made
    made.close()


async def received(client: socket.socket) -> bytes:
    """Return what the server says until it closes."""
    text = b""
    async with asyncio.timeout(DEADLINE_S):
        with contextlib.suppress(ConnectionResetError):
            while chunk := await asyncio.get_running_loop().sock_recv(client, 1 << 16):
                text += chunk
    return text


@contextlib.asynccontextmanager
async def at_work(door: Door, count: int) -> AsyncIterator[None]:
    """Hold connections of root that each carry a stream."""
    sandbox = await door.sandbox("cat")
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(count):
            client = await stack.enter_async_context(door.connect())
            await follow(client, sandbox)
        yield


async def follow(client: Socket, sandbox: str) -> None:
    await client.open("process", sandbox=sandbox, process="entrypoint", limits=(0, 0), offsets=(0, 0))
    await client.expect(FrameType.STARTED)


async def test_connections_that_say_nothing_displace_each_other_and_nobody_else(door: Door, flood: Flood) -> None:
    async with door.connect() as works:
        sandbox = await door.sandbox("cat")
        await follow(works, sandbox)
        await flood.connect(20 * EACH)
        await until(lambda: door.listener.clients <= EACH)
        assert (await door.http.get("/v1/health")).status == 200
        assert (await works.run(sandbox, "echo", "still here"))[1] == b"still here\n"


async def test_a_flood_of_one_user_keeps_no_other_from_being_served(door: Door, flood: Flood) -> None:
    await flood.connect(20 * EACH, b"GET /v1/", user=OTHER)
    assert (await door.http.get("/v1/health")).status == 200
    await until(lambda: door.listener.clients <= EACH + 1)


async def test_a_user_all_of_whose_connections_work_is_refused_with_the_bound(door: Door, flood: Flood) -> None:
    async with at_work(door, EACH):
        answer = await door.http.get("/v1/health")
        assert (answer.status, answer.body["error"]["code"]) == (429, "resource_exhausted")
        assert f"{EACH} at a time" in answer.body["error"]["message"]
        with pytest.raises(InvalidStatus):
            async with unix_connect(str(door.path), "ws://localhost/v1/stream"):
                pass
        with pytest.raises(ConnectionLost, match=r"429.*resource_exhausted") as told:
            await FrameSocket.connect(door.path)
        assert isinstance(told.value.__cause__, SocketProtocolError)
        (other,) = await flood.connect(1, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), user=OTHER)
        assert (await received(other)).startswith(b"HTTP/1.1 200")
    assert (await door.http.get("/v1/health")).status == 200


async def test_refused_clients_that_do_not_ask_are_closed_and_bounded(
    door: Door, flood: Flood, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocols, "REFUSED", 5)
    monkeypatch.setattr(protocols, "REFUSED_S", 0.2)
    async with at_work(door, EACH):
        refused = await flood.connect(20)
        assert [await received(each) for each in refused] == [b""] * 20
        assert door.listener.clients == EACH


@pytest.mark.parametrize(
    "said",
    [b"", b"GET /v1/health HTT", GET + b"GET", b"POST /v1/sandboxes HTTP/1.1\r\nContent-Length: 9\r\n\r\n{"],
    ids=["nothing", "half a head", "half a second head", "half a body"],
)
async def test_a_request_that_does_not_come_is_not_waited_for(
    door: Door, flood: Flood, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(protocols, "HEAD_S", 0.2)
    monkeypatch.setattr(protocols, "BODY_S", 0.2)
    (client,) = await flood.connect(1, said)
    await received(client)
    await until(lambda: door.listener.clients == 0)


async def test_a_head_without_end_is_refused(door: Door, flood: Flood) -> None:
    (client,) = await flood.connect(1, b"GET /v1/health HTTP/1.1\r\n")
    line = b"X-More: " + bytes(1000).replace(b"\0", b"x") + b"\r\n"
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for _ in range(2 * protocols.HEAD_BYTES // len(line)):
            await asyncio.get_running_loop().sock_sendall(client, line)
    assert b"the head of the request" in await received(client)


async def test_an_answer_that_takes_long_is_waited_for(
    door: Door, flood: Flood, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocols, "HEAD_S", 0.1)
    monkeypatch.setattr(protocols, "BODY_S", 0.1)
    door.node.hold_starts.clear()
    image = door.images.add().id
    body = json.dumps({"image": image, "entrypoint": ["cat"]}).encode()
    head = b"POST /v1/sandboxes HTTP/1.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    (client,) = await flood.connect(1, head + body)
    await until(lambda: door.node.view().sandboxes == 1)
    asyncio.get_running_loop().call_later(0.5, door.node.hold_starts.set)
    assert (await received(client)).startswith(b"HTTP/1.1 200")
