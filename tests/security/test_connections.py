"""A sandbox that opens connections without end hurts nobody but itself."""

from __future__ import annotations

import asyncio
import struct
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from internet import DEADLINE_S, PORT, PUBLIC, Guest, World, ip, take_away_rule

from skerry.model.ids import SandboxId
from skerry.node.network import Network, firewall
from skerry.node.network.namespaces import inside

TABLE = "skerry_skt"
SILENT = "8.8.5.5"  # packets to it are swallowed: a connection stays half open


async def open_guest(world: World, network: Network, name: str) -> Guest:
    slot = await network.slot(SandboxId(name))
    await slot.open()
    with inside(world.internet):
        ip("route replace blackhole 8.8.5.0/24")
    return world.guest(slot)


def flood(guest: Guest, count: int, *, tcp: bool) -> None:
    """Send the first packet of `count` connections to different ports and addresses."""
    for number in range(count):
        to = f"8.8.5.{number // 60_000 + 1}"
        port = number % 60_000 + 1
        if tcp:
            guest.frame(guest.carry(to, _syn(port), protocol=6))
        else:
            guest.frame(guest.packet(to, port, b"x"))


def _syn(port: int) -> bytes:
    # The checksum is left out: tracking verifies it only on request for what is forwarded (nf_conntrack_checksum).
    return struct.pack(">HHIIBBHHH", 5555, port, 1, 0, 5 << 4, 2, 65535, 0, 0)


async def machine_connects(to: str) -> bool:
    async with asyncio.timeout(DEADLINE_S):
        _, writer = await asyncio.open_connection(to, PORT)
    writer.close()
    return True


@pytest.mark.parametrize("kind", ["half-open tcp", "udp"])
async def test_one_that_opens_100000_leaves_machine_and_neighbours_able_to_connect(
    world: World, network: Network, kind: str
) -> None:
    # What tracking would refuse for its checksum is counted here as well.
    Path("/proc/sys/net/netfilter/nf_conntrack_checksum").write_text("0")
    guest, neighbour = await open_guest(world, network, "sb_a"), await open_guest(world, network, "sb_b")
    neighbour.becomes_a_host()
    world.tcp(PUBLIC)
    flood(guest, 100_000, tcp=kind == "half-open tcp")
    assert 0 < len(world.tracked(guest.address)) <= firewall.ENTRIES_MAX
    assert await neighbour.connects(PUBLIC)
    assert await machine_connects(PUBLIC)


async def test_without_the_limit_on_new_ones_the_table_would_fill(world: World, network: Network) -> None:
    guest = await open_guest(world, network, "sb_a")
    take_away_rule(TABLE, "connection rate")
    take_away_rule(TABLE, "connection count")
    flood(guest, 2 * firewall.ENTRIES_MAX, tcp=False)
    assert len(world.tracked(guest.address)) > firewall.ENTRIES_MAX


@pytest.mark.parametrize("rule", ["connection count", "connection rate"])
async def test_each_limit_holds_alone(world: World, rule: str) -> None:
    most = {"connection count": 100, "connection rate": firewall.NEW_CONNECTIONS_BURST}[rule]
    network = world.network(range=IPv4Network("11.5.0.0/16"), connections_max=100)
    await network.start()
    try:
        guest = await open_guest(world, network, "sb_a")
        take_away_rule(TABLE, ({"connection count", "connection rate"} - {rule}).pop())
        flood(guest, 3000, tcp=False)
        # While the flood lasts, the rate allows some more.
        assert most // 2 <= len(world.tracked(guest.address)) <= most + 500
        take_away_rule(TABLE, rule)
        flood(guest, 3000, tcp=False)
        assert len(world.tracked(guest.address)) >= 3000
    finally:
        await network.stop()


async def test_at_the_bound_open_connections_go_on_and_ended_ones_make_room(world: World) -> None:
    network = world.network(range=IPv4Network("11.5.0.0/16"), connections_max=10)
    await network.start()
    loop = asyncio.get_running_loop()
    try:
        guest = await open_guest(world, network, "sb_a")
        guest.becomes_a_host()
        listener = world.tcp(PUBLIC)
        socks = [guest.socket() for _ in range(10)]
        for sock in socks:
            await loop.sock_connect(sock, (PUBLIC, PORT))
        assert await guest.fails_to_connect(PUBLIC)
        accepted, _ = await loop.sock_accept(listener)
        await loop.sock_sendall(socks[0], b"still there")
        assert await loop.sock_recv(accepted, 100) == b"still there"
        for sock in (socks[0], accepted):
            sock.close()
        assert await guest.connects(PUBLIC)
        for sock in socks:
            sock.close()
    finally:
        await network.stop()


async def test_a_stream_that_nobody_answers_counts_as_one(world: World, network: Network) -> None:
    guest = await open_guest(world, network, "sb_a")
    listener = world.udp(PUBLIC)
    heard = 0
    for _ in range(3 * firewall.NEW_CONNECTIONS_BURST):
        guest.frame(guest.packet(PUBLIC, PORT, b"x"))
        heard += world.arrived(b"x", listener)
    assert heard == 3 * firewall.NEW_CONNECTIONS_BURST
    assert len(world.tracked(guest.address)) == 1


async def test_a_closed_connection_leaves_the_table_soon(world: World, network: Network) -> None:
    guest = await open_guest(world, network, "sb_a")
    guest.becomes_a_host()
    listener = world.tcp(PUBLIC)
    loop = asyncio.get_running_loop()
    with guest.socket() as sock:
        await loop.sock_connect(sock, (PUBLIC, PORT))
        accepted, _ = await loop.sock_accept(listener)
        with accepted:
            sock.close()
            assert await loop.sock_recv(accepted, 1) == b""
    (entry,) = [line.split() for line in world.tracked(guest.address) if f"dport={PORT}" in line]
    assert entry[5] in ("TIME_WAIT", "LAST_ACK")
    assert entry[5] == "LAST_ACK" or int(entry[4]) <= firewall.TIME_WAIT_S


async def test_the_machines_own_connections_keep_their_usual_timeouts(world: World, network: Network) -> None:
    await open_guest(world, network, "sb_a")
    listener = world.tcp(PUBLIC)
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection(PUBLIC, PORT)
    accepted, _ = await loop.sock_accept(listener)
    with accepted:
        writer.close()
        await writer.wait_closed()
        assert await loop.sock_recv(accepted, 1) == b""
    (entry,) = [line.split() for line in world.tracked("9.9.9.2") if f"dport={PORT}" in line]
    assert int(entry[4]) > firewall.TIME_WAIT_S
    assert reader.at_eof()
