"""A slot from its making to its release, with real devices and packets."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from internet import DEADLINE_S, PORT, PUBLIC, Guest, World, ip, nft

from skerry.model.errors import ConflictError, ResourceExhaustedError
from skerry.model.ids import SandboxId
from skerry.node.network import Network
from skerry.node.network.kernel import Kernel
from skerry.node.network.plan import Plan

A, B = SandboxId("sb_a"), SandboxId("sb_b")
TABLE = "skerry_skt"


async def host_guest(world: World, network: Network, name: SandboxId = A) -> Guest:
    slot = await network.slot(name)
    await slot.open()
    guest = world.guest(slot)
    guest.becomes_a_host()
    return guest


async def echo_once(listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    connection, _ = await loop.sock_accept(listener)
    with connection:
        while data := await loop.sock_recv(connection, 65536):
            await loop.sock_sendall(connection, data)


async def test_a_connection_to_the_internet_carries_data_both_ways(world: World, network: Network) -> None:
    guest = await host_guest(world, network)
    loop = asyncio.get_running_loop()
    server = asyncio.create_task(echo_once(world.tcp(PUBLIC)))
    sent = os.urandom(1 << 20)
    with guest.socket() as sock:
        await loop.sock_connect(sock, (PUBLIC, PORT))
        sending = asyncio.create_task(loop.sock_sendall(sock, sent))
        received = bytearray()
        async with asyncio.timeout(DEADLINE_S):
            while len(received) < len(sent):
                received += await loop.sock_recv(sock, 65536)
        await sending
    assert received == sent
    await server


async def test_the_internet_sees_the_machines_address(world: World, network: Network) -> None:
    guest = await host_guest(world, network)
    listener = world.udp(PUBLIC)
    with guest.socket(socket.SOCK_DGRAM) as sock:
        sock.sendto(b"hello", (PUBLIC, PORT))
    guest.pass_fence()
    assert listener.recvfrom(100)[1][0] == "9.9.9.2"


async def test_ping_is_answered(world: World, network: Network) -> None:
    guest = await host_guest(world, network)
    echo = bytes([8, 0, 0xF7, 0xFF, 0, 0, 0, 0])  # with its checksum
    guest.frame(guest.carry(PUBLIC, echo, protocol=socket.IPPROTO_ICMP))
    guest.pass_fence()
    answers = [frame for frame in guest.frames() if frame[23] == socket.IPPROTO_ICMP]
    assert [answer[34] for answer in answers] == [0]  # an echo reply


async def test_the_card_carries_frames_behind_a_virtio_header(world: World, network: Network) -> None:
    slot = await network.slot(A)
    await slot.open()
    guest = world.guest(slot)
    listener = world.udp(PUBLIC)
    async with slot.nic() as nic:
        assert (nic.address, nic.gateway, nic.mtu) == ("11.5.0.2", "11.5.0.1", 1500)
        frame = bytes.fromhex((nic.gateway_mac + nic.mac).replace(":", "")) + b"\x08\x00"
        os.write(nic.socket_fd, bytes(10) + frame + guest.packet(PUBLIC, PORT, b"by card"))
        guest.pass_fence()
        assert world.arrived(b"by card", listener)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(nic.socket_fd, b"x")


async def test_closing_a_slot_ends_connections_that_are_up(world: World, network: Network) -> None:
    slot = await network.slot(A)
    await slot.open()
    guest = world.guest(slot)
    guest.becomes_a_host()
    server = asyncio.create_task(echo_once(world.tcp(PUBLIC)))
    loop = asyncio.get_running_loop()
    other = await host_guest(world, network, B)
    with guest.socket() as sock:
        await loop.sock_connect(sock, (PUBLIC, PORT))
        await loop.sock_sendall(sock, b"before")
        assert await loop.sock_recv(sock, 100) == b"before"
        assert world.tracked("11.5.0.2")
        await slot.close()
        assert not world.tracked("11.5.0.2")
        await loop.sock_sendall(sock, b"after")
        other.pass_fence()
        with pytest.raises(BlockingIOError):
            sock.recv(100)
        await slot.open()  # and open again, the same connection goes on: nothing but the firewall was in the way
    server.cancel()


async def test_answers_for_a_closed_slot_do_not_enter(world: World, network: Network) -> None:
    slot = await network.slot(A)
    await slot.open()
    guest = world.guest(slot)
    listener = world.udp(PUBLIC)
    guest.frame(guest.packet(PUBLIC, PORT, b"question"))
    guest.pass_fence()
    _, asker = listener.recvfrom(100)
    await slot.close()
    other = world.guest(await opened(network, B))
    guest.frames()
    listener.sendto(b"answer", asker)
    other.pass_fence()
    assert not [frame for frame in guest.frames() if b"answer" in frame]


async def opened(network: Network, name: SandboxId):  # type: ignore[no-untyped-def]
    slot = await network.slot(name)
    await slot.open()
    return slot


async def test_a_released_slot_leaves_nothing(world: World, network: Network) -> None:
    listener = world.udp(PUBLIC)
    before = everything()
    slot = await network.slot(A)
    await slot.open()
    guest = world.guest(slot)
    assert guest.sends(PUBLIC, listener=listener)
    guest.close()
    await slot.release()
    await slot.release()
    assert everything() == before


def everything() -> dict[str, object]:
    """What the machine has: devices, routes, neighbours, elements of our sets, tracked connections, descriptors."""
    gc.collect()  # or what earlier tests left would close its descriptors in between
    shown = run("ip", "link") + run("ip", "route")
    return {
        "lines": [line for line in shown if "sk" in line or "11.5" in line],
        "descriptors": len(os.listdir("/proc/self/fd")),
        "neighbours": [line for line in run("ip", "neigh") if "up0" not in line],
        "table": nft("list", "table", "inet", TABLE),
        "tracked": [line for line in tracked().splitlines() if "11.5." in line],
    }


def run(*argv: str) -> list[str]:
    return subprocess.run(argv, text=True, capture_output=True, check=True).stdout.splitlines()


def tracked() -> str:
    return Path("/proc/thread-self/net/nf_conntrack").read_text()


async def test_the_next_sandbox_at_an_address_inherits_nothing(world: World) -> None:
    # The smallest range there is: 13 slots, so that an address comes again soon.
    network = world.network(range=IPv4Network("11.5.0.0/28"), connections_max=20)
    await network.start()
    try:
        listener = world.udp(PUBLIC)
        for turn in range(14):
            slot = await network.slot(SandboxId(f"sb_{turn}"))
            await slot.open()
            guest = world.guest(slot)
            for _ in range(40):  # twice what is allowed
                guest.frame(guest.packet(PUBLIC, PORT, b"first"))
            assert guest.sends(PUBLIC, listener=listener)
            guest.close()
            await slot.release()
    finally:
        await network.stop()


async def test_a_full_range_is_an_error_that_says_so(world: World) -> None:
    network = world.network(range=IPv4Network("11.5.0.0/28"))
    await network.start()
    try:
        slots = [await network.slot(SandboxId(f"sb_{number}")) for number in range(13)]
        with pytest.raises(ResourceExhaustedError, match="all 13 network slots"):
            await network.slot(A)
        await slots[0].release()
        assert (await network.slot(A)).address == slots[0].address
    finally:
        await network.stop()


async def test_a_released_slot_cannot_be_opened(world: World, network: Network) -> None:
    slot = await network.slot(A)
    await slot.release()
    with pytest.raises(ConflictError, match="was released"):
        await slot.open()


async def test_a_device_of_the_same_name_is_passed_over(world: World, network: Network) -> None:
    ip("link add skt2 type veth peer name other")
    slot = await network.slot(A)
    assert slot.device == "skt3"


async def test_a_slot_that_nobody_waits_for_any_more_is_removed(world: World, network: Network) -> None:
    before = everything()
    making = asyncio.create_task(network.slot(A))
    await asyncio.sleep(0)
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    await (await network.slot(B)).release()  # the network's thread has done what came before
    assert everything() == before


def test_packets_pass_from_the_moment_a_slot_is_there(world: World) -> None:
    # The kernel notices in its own time that both ends are up; without asking it, about one in ten came too early.
    kernel, plan = Kernel(), Plan("skt", IPv4Network("11.5.0.0/16"))
    namespaces = []
    for index in range(2, 82):
        namespaces.append(kernel.make_slot(plan, index, A, 1500))
        states = {link.name: link.passing for link in kernel.links.links()}
        assert states[plan.device(index)]
    kernel.close()
    for namespace in namespaces:
        os.close(namespace)


async def test_many_slots_can_be_made_and_released_at_once(world: World, network: Network) -> None:
    before = everything()
    slots = await asyncio.gather(*(network.slot(SandboxId(f"sb_{number}")) for number in range(20)))
    assert len({slot.address for slot in slots}) == 20
    await asyncio.gather(*(slot.open() for slot in slots))
    await asyncio.gather(*(slot.release() for slot in slots))
    assert everything() == before


async def test_the_guest_is_told_its_name_address_and_resolver(world: World, network: Network) -> None:
    slot = await network.slot(A)
    assert "nameserver 11.5.0.1\n" in slot.resolv_conf()
    assert "11.5.0.2\tbox\n" in slot.hosts("box")


async def test_the_card_knows_the_uplinks_mtu(world: World) -> None:
    ip("link set up0 mtu 1400")
    network = world.network()
    await network.start()
    try:
        async with (await network.slot(A)).nic() as nic:
            assert nic.mtu == 1400
    finally:
        await network.stop()
