"""A network card plugged into a running sandbox: a veth of the test's own, between two namespaces of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from ctypes import CDLL
from pathlib import Path

import pytest
from guest import Guest, hello
from realbackend import RealBackend, small_claim

from skerry.model.errors import StartFailedError
from skerry.model.members import Nic

pytestmark = pytest.mark.root
CLONE_NEWNET = 0x40000000
ETH_P_ALL = 3
SOL_PACKET, PACKET_VNET_HDR = 263, 15
GUEST, GATEWAY = "198.18.77.2", "198.18.77.1"  # the range for benchmarks: nobody's address
GUEST_MAC, GATEWAY_MAC = "02:00:00:77:00:02", "02:00:00:77:00:01"

TALK = f"""
import socket
server = socket.create_server(('127.0.0.1', 80))
socket.create_connection(('127.0.0.1', 80), 5)
print('loopback')
print(socket.create_connection(('{GATEWAY}', 8080), 5).recv(100).decode())
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def inside(namespace: str, make: Callable[[], socket.socket]) -> socket.socket:
    """Make a socket in a network namespace, in a thread that enters it and ends there."""
    made: list[socket.socket] = []

    def enter_and_make() -> None:
        fd = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
        assert CDLL(None).setns(fd, CLONE_NEWNET) == 0
        os.close(fd)
        made.append(make())

    thread = threading.Thread(target=enter_and_make)
    thread.start()
    thread.join()
    return made[0]


def packet_socket(*, headers: bool) -> socket.socket:
    card = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    card.bind(("eth0", ETH_P_ALL))
    if headers:
        card.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    return card


@pytest.fixture
def slot(real: RealBackend) -> Iterator[str]:
    """A namespace with one end of a veth; at the other end a server says hello."""
    token = secrets.token_hex(3)
    slot, gateway = f"skt-slot-{token}", f"skt-gate-{token}"
    for name in (slot, gateway):
        ip("netns", "add", name)
    try:
        card, peer = f"eth0 address {GUEST_MAC} netns {slot}", f"gw address {GATEWAY_MAC} netns {gateway}"
        ip(*f"link add {card} type veth peer name {peer}".split())
        ip("-n", slot, *["link", "set", "eth0", "up"])
        ip("-n", gateway, *["link", "set", "gw", "up"])
        ip("-n", gateway, *f"addr add {GATEWAY}/24 dev gw".split())
        with inside(gateway, lambda: socket.create_server(("", 8080))) as server:
            threading.Thread(target=greet, args=(server,), daemon=True).start()
            yield slot
    finally:
        for name in (slot, gateway):
            ip("netns", "del", name)


def greet(server: socket.socket) -> None:
    with contextlib.suppress(OSError):  # nobody came before the test was over
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"hello from the gateway")


def nic(card: socket.socket) -> Nic:
    return Nic(socket_fd=card.fileno(), address=GUEST, gateway=GATEWAY, mac=GUEST_MAC, gateway_mac=GATEWAY_MAC)


@pytest.mark.parametrize("headers", [True, False])
async def test_a_plugged_card_reaches_its_gateway_and_the_loopback_stays(
    real: RealBackend, base_image: Path, slot: str, headers: bool
) -> None:
    member = await real.backend.boot(real.spec())
    with inside(slot, lambda: packet_socket(headers=headers)) as card:
        await member.plug(nic(card))
    async with Guest(await member.claim(small_claim(base_image))) as guest:
        await guest.greet(hello())
        said = await guest.run("python3", "-c", TALK)
        assert said.text.split("\n") == ["loopback", "hello from the gateway", ""]
        seen = await guest.run("python3", "-c", "import socket; print([name for _, name in socket.if_nameindex()])")
        assert seen.text == "['lo', 'eth0']\n"
    await member.destroy()


async def test_without_a_card_there_is_the_loopback_alone(real: RealBackend, base_image: Path) -> None:
    member = await real.backend.boot(real.spec())
    async with Guest(await member.claim(small_claim(base_image))) as guest:
        await guest.greet(hello())
        said = await guest.run("python3", "-c", TALK)
        assert "loopback\n" in said.text
        assert "Network is unreachable" in said.text
    await member.destroy()


async def test_plugging_twice_is_refused_and_the_first_card_goes_on(real: RealBackend, slot: str) -> None:
    member = await real.backend.boot(real.spec())
    with inside(slot, lambda: packet_socket(headers=True)) as card:
        await member.plug(nic(card))
        with pytest.raises(StartFailedError) as caught:
            await member.plug(nic(card))
    assert caught.value.details["stage"] == "network"
    assert member.alive()
    await asyncio.wait_for(member.destroy(), 10)
