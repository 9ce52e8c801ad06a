"""The control socket against a peer that behaves, and against one that is hostile."""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from skerry.isolation.gvisor import control
from skerry.isolation.gvisor.control import Control, ControlError

Serve = Callable[[socket.socket], Awaitable[None]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    return private


@asynccontextmanager
async def peer(path: Path, serve: Serve) -> AsyncIterator[list[socket.socket]]:
    """Serve every connection to `path`, one after the other."""
    loop = asyncio.get_running_loop()
    connections: list[socket.socket] = []

    async def accept() -> None:
        while True:
            connection, _ = await loop.sock_accept(listener)
            connection.setblocking(False)
            connections.append(connection)
            with contextlib.suppress(OSError):  # the client may hang up at any time
                await serve(connection)

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        folder = os.open(path.parent, os.O_PATH)
        listener.bind(f"/proc/self/fd/{folder}/{path.name}")
        os.close(folder)
        listener.setblocking(False)
        listener.listen()
        task = asyncio.create_task(accept())
        try:
            yield connections
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            for connection in connections:
                connection.close()


async def receive(connection: socket.socket) -> dict[str, object]:
    loop = asyncio.get_running_loop()
    data = b""
    while True:
        chunk = await loop.sock_recv(connection, 1 << 16)
        if not chunk:
            raise EOFError
        data += chunk
        try:
            request: dict[str, object] = json.loads(data)
        except ValueError:
            continue
        return request


def answering(answer: bytes) -> Serve:
    async def serve(connection: socket.socket) -> None:
        await receive(connection)
        await asyncio.get_running_loop().sock_sendall(connection, answer)

    return serve


async def echo(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while True:
        try:
            request = await receive(connection)
        except EOFError:
            return
        answer = {"success": True, "err": "", "result": request}
        await loop.sock_sendall(connection, json.dumps(answer).encode())


async def test_calls_share_one_connection_and_come_back_in_order(folder: Path) -> None:
    async with peer(folder / "s", echo) as connections:
        client = Control(folder / "s")
        results = await asyncio.gather(*(client.call("m", number) for number in range(5)))
        client.close()
    assert [result["arg"] for result in results] == [0, 1, 2, 3, 4]
    assert len(connections) == 1


async def test_a_large_argument_arrives_whole(folder: Path) -> None:
    async with peer(folder / "s", echo):
        client = Control(folder / "s")
        big = "x" * 200_000
        assert (await client.call("m", big))["arg"] == big
        client.close()


async def test_descriptors_travel_with_the_first_byte_and_stay_the_callers(folder: Path) -> None:
    loop = asyncio.get_running_loop()
    got: list[int] = []

    async def serve(connection: socket.socket) -> None:
        readable = asyncio.Event()
        loop.add_reader(connection, readable.set)
        await readable.wait()
        loop.remove_reader(connection)
        _, ancillary, _, _ = connection.recvmsg(1, 1024)
        for _, _, data in ancillary:
            numbers = array.array("i")
            numbers.frombytes(data)
            got.extend(numbers)
        await loop.sock_sendall(connection, b'{"success":true,"err":"","result":{}}')

    reader, writer = os.pipe()
    async with peer(folder / "s", serve):
        client = Control(folder / "s")
        await client.call("m", None, [writer])
        client.close()
    assert len(got) == 1
    os.write(got[0], b"through")
    assert os.read(reader, 100) == b"through"
    os.close(writer)
    for fd in (reader, *got):
        os.close(fd)


async def test_descriptors_in_an_answer_are_never_taken(folder: Path) -> None:
    offered = folder / "offered"
    offered.touch()

    async def serve(connection: socket.socket) -> None:
        await receive(connection)
        fd = os.open(offered, os.O_RDONLY)
        socket.send_fds(connection, [b'{"success":true,"err":"","result":7}'], [fd] * 8)
        os.close(fd)

    async with peer(folder / "s", serve):
        client = Control(folder / "s")
        assert await client.call("m", None) == 7
        client.close()
    fds = Path("/proc/self/fd")
    assert str(offered) not in {os.readlink(fd) for fd in fds.iterdir() if os.path.lexists(fd)}


async def test_a_refusal_names_the_method_and_carries_no_control_characters(folder: Path) -> None:
    answer = json.dumps({"success": False, "err": "no \x1b[31m such\n container", "result": None}).encode()
    async with peer(folder / "s", answering(answer)):
        client = Control(folder / "s")
        with pytest.raises(
            ControlError, match=r"containerManager\.StartRoot failed: no \\x1b\[31m such\\x0a container"
        ) as caught:
            await client.call("containerManager.StartRoot", "x")
        client.close()
    assert caught.value.answered
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"neither an answer nor the end of one }", "no answer"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "nested too deeply"),
        (b'{"success":"yes"}', "not of the form"),
        (b'{"success":true,"result":"' + b"x" * (control.REPLY_BYTES + 1), "longer than"),
    ],
)
async def test_a_hostile_answer_ends_the_call_and_the_connection(folder: Path, answer: bytes, reason: str) -> None:
    async with peer(folder / "s", answering(answer)):
        client = Control(folder / "s")
        with pytest.raises(ControlError, match=reason):
            await client.call("m", None, seconds=1)
        client.close()


async def test_braces_that_dribble_in_do_not_keep_the_node_busy(folder: Path) -> None:
    async def serve(connection: socket.socket) -> None:
        await receive(connection)
        for _ in range(10_000):
            await asyncio.get_running_loop().sock_sendall(connection, b"}")
            await asyncio.sleep(0)

    async with peer(folder / "s", serve):
        client = Control(folder / "s")
        with pytest.raises(ControlError, match="too many pieces"):
            await client.call("m", None)
        client.close()


async def test_silence_ends_at_the_deadline_and_the_next_call_gets_its_own_answer(folder: Path) -> None:
    calls = 0

    async def serve(connection: socket.socket) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            await receive(connection)
            return
        await echo(connection)

    async with peer(folder / "s", serve):
        client = Control(folder / "s")
        with pytest.raises(ControlError, match=r"no answer within 0\.05 s"):
            await client.call("m", 1, seconds=0.05)
        assert (await client.call("m", 2))["arg"] == 2
        client.close()


async def test_a_call_that_was_given_up_does_not_leave_its_answer_to_the_next(folder: Path) -> None:
    async with peer(folder / "s", echo):
        client = Control(folder / "s")
        call = asyncio.create_task(client.call("m", 1))
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert (await client.call("m", 2))["arg"] == 2
        client.close()


async def test_a_peer_that_hangs_up_is_told(folder: Path) -> None:
    async def serve(connection: socket.socket) -> None:
        await receive(connection)
        connection.shutdown(socket.SHUT_RDWR)

    async with peer(folder / "s", serve):
        client = Control(folder / "s")
        with pytest.raises(ControlError, match="closed the connection"):
            await client.call("m", None)


async def test_a_folder_that_others_may_enter_is_refused(folder: Path) -> None:
    async with peer(folder / "s", echo):
        folder.chmod(0o711)
        with pytest.raises(ControlError, match="mode 0700"):
            await Control(folder / "s").call("m", None)


async def test_a_link_in_place_of_the_folder_or_the_socket_is_refused(folder: Path) -> None:
    (folder.parent / "link").symlink_to(folder)
    (folder / "t").symlink_to("s")
    async with peer(folder / "s", echo):
        for path in (folder.parent / "link" / "s", folder / "t"):
            with pytest.raises(ControlError):
                await Control(path).call("m", None)


async def test_a_path_longer_than_a_socket_address_works(folder: Path) -> None:
    deep = folder / ("d" * 100) / "e"
    deep.mkdir(parents=True, mode=0o700)
    async with peer(deep / "s", echo):
        client = Control(deep / "s")
        assert (await client.call("m", 1))["arg"] == 1
        client.close()


async def test_too_many_descriptors_are_refused_before_anything_is_sent(folder: Path) -> None:
    with pytest.raises(ControlError, match="at most 128"):
        await Control(folder / "s").call("m", None, [0] * 129)
