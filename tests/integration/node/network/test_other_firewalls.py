"""Sandboxes beside Docker and ufw: real chains, made by the real programs, in a machine of the test's own."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys

import pytest
from internet import PUBLIC, Guest, World, nft
from other_firewalls import Ufw, docker_reloads, docker_starts, iptables, without_accepts
from waiting import until

from skerry.model.ids import SandboxId
from skerry.node.network import Network

A = SandboxId("sb_a")
TABLE = "skerry_skt"
KINDS = pytest.mark.parametrize("kind", ["nft", "legacy"])
_QUERY = bytes.fromhex("0007 0100 0001 0000 0000 0000 076578616d706c65 04 74657374 00 0001 0001")


async def open_guest(world: World, network: Network) -> Guest:
    slot = await network.slot(A)
    await slot.open()
    guest = world.guest(slot)
    guest.becomes_a_host()
    world.tcp(PUBLIC)
    return guest


async def resolves(guest: Guest, within: float = 10.0) -> bool:
    """Tell whether the forwarder answers, if only that it knows no resolver."""
    loop = asyncio.get_running_loop()
    with guest.socket(socket.SOCK_DGRAM) as sock:
        await loop.sock_connect(sock, (guest.gateway, 53))
        await loop.sock_sendall(sock, _QUERY)
        try:
            async with asyncio.timeout(within):
                return (await loop.sock_recv(sock, 512))[:2] == _QUERY[:2]
        except (TimeoutError, OSError):
            return False


def accepted(kind: str) -> bool:
    return f"{TABLE}:" in iptables(kind, "-S")


@KINDS
async def test_sandboxes_have_a_network_beside_docker(world: World, kind: str) -> None:
    docker_starts(kind)
    before = iptables(kind, "-S")
    network = world.network()
    await network.start()
    guest = await open_guest(world, network)
    assert await guest.connects(PUBLIC)
    await network.leave()
    with without_accepts(kind, TABLE):
        assert await guest.fails_to_connect(PUBLIC)
        successor = world.network()
        await successor.start()
        assert await guest.connects(PUBLIC)
    await successor.stop()
    assert iptables(kind, "-S") == before
    told = {"firewall": f"iptables-{kind}", "chains": ["FORWARD"]}
    assert world.told_of("network.accept_added") == [told, told]
    assert world.told_of("network.accept_removed") == [told]
    assert not world.told_of("network.other_firewall")


async def test_what_docker_or_its_owner_takes_away_is_put_back(world: World) -> None:
    network = world.network()
    await network.start()
    guest = await open_guest(world, network)
    docker_starts("nft")  # after the node
    await until(lambda: accepted("nft"))
    assert await guest.connects(PUBLIC)
    docker_reloads("nft")
    await until(lambda: accepted("nft"))
    assert await guest.connects(PUBLIC)
    await network.stop()
    assert not accepted("nft")


async def test_what_is_flushed_of_the_older_iptables_is_put_back_by_the_sweep(world: World) -> None:
    docker_starts("legacy")
    network = world.network()
    await network.start()
    guest = await open_guest(world, network)
    docker_reloads("legacy")
    await network.sweep()
    assert await guest.connects(PUBLIC)
    await network.stop()
    assert not accepted("legacy")


async def test_what_the_machines_owner_forbids_in_dockers_chain_stays_forbidden(world: World) -> None:
    docker_starts("nft")
    iptables("nft", "-I", "DOCKER-USER", "-d", PUBLIC, "-j", "DROP")
    network = world.network()
    await network.start()
    guest = await open_guest(world, network)
    assert accepted("nft")
    assert await guest.fails_to_connect(PUBLIC)
    iptables("nft", "-D", "DOCKER-USER", "-d", PUBLIC, "-j", "DROP")
    assert await guest.connects(PUBLIC)
    await network.stop()


async def test_sandboxes_have_a_network_and_names_beside_ufw(world: World) -> None:
    ufw = Ufw(world.folder)
    ufw("--force", "enable")
    before = iptables("nft", "-S")
    network = world.network()
    await network.start()
    guest = await open_guest(world, network)
    assert await guest.connects(PUBLIC)
    assert await resolves(guest)
    ufw("reload")  # flushes the chains that ours stand in
    await until(lambda: "-A ufw-user-forward" in iptables("nft", "-S") and accepted("nft"))
    assert await guest.connects(PUBLIC)
    assert await resolves(guest)
    await network.stop()
    assert iptables("nft", "-S") == before


async def test_beside_ufw_the_accepts_are_what_lets_sandboxes_through(world: World) -> None:
    Ufw(world.folder)("--force", "enable")
    network = world.network()
    await network.start()
    guest = await open_guest(world, network)
    listing = iptables("nft", "-S")
    assert listing.count(f"{TABLE}:") == 5  # two for what is forwarded, three for what the machine itself serves
    network._keepers[-1].cancel()  # nobody is to put them back
    assert await resolves(guest)
    with without_accepts("nft", TABLE):
        assert await guest.fails_to_connect(PUBLIC)
        assert not await resolves(guest, within=0.5)
    await network.stop()


async def test_a_firewall_that_is_turned_off_keeps_no_accept(world: World) -> None:
    ufw = Ufw(world.folder)
    ufw("--force", "enable")
    network = world.network()
    await network.start()
    assert accepted("nft")
    ufw("disable")
    await until(lambda: not accepted("nft"))
    await network.stop()


async def test_beside_docker_and_ufw_together_one_accept_is_enough(world: World) -> None:
    docker_starts("nft")
    Ufw(world.folder)("--force", "enable")
    network = world.network()
    await network.start()
    guest = await open_guest(world, network)
    assert await guest.connects(PUBLIC)
    assert await resolves(guest)
    await network.stop()
    assert not accepted("nft")


@KINDS
async def test_the_accept_alone_lets_nothing_new_through(world: World, kind: str) -> None:
    docker_starts(kind)
    network = world.network()
    await network.start()
    guest = await open_guest(world, network)
    assert await guest.connects(PUBLIC)
    nft("delete", "table", "inet", TABLE)  # as somebody who flushes all of nftables does
    nft("add table ip nat; add chain ip nat post { type nat hook postrouting priority srcnat; }")
    nft("add", "rule", "ip", "nat", "post", "masquerade")
    assert accepted(kind)
    assert await guest.fails_to_connect(PUBLIC)
    iptables(kind, "-P", "FORWARD", "ACCEPT")
    assert await guest.connects(PUBLIC)
    iptables(kind, "-P", "FORWARD", "DROP")
    nft("add", "table", "inet", TABLE)  # so that the node can undo
    await network.stop()


@KINDS
async def test_the_accepts_of_a_killed_node_are_taken_over_and_go_with_its_successor(world: World, kind: str) -> None:
    docker_starts(kind)
    before = iptables(kind, "-S")
    node_is_killed(world)
    left = iptables(kind, "-S")
    assert f"{TABLE}:10.151.0.0/16:leaving" in left
    successor = world.network()  # no sandbox lives, so it takes the first range that is free
    await successor.start()
    assert "10.151.0.0/16" not in iptables(kind, "-S")
    assert accepted(kind)
    await successor.stop()
    assert iptables(kind, "-S") == before


def node_is_killed(world: World) -> None:
    with subprocess.Popen([sys.executable, "-c", _NODE, str(world.folder)], stdout=subprocess.PIPE, text=True) as node:
        assert node.stdout is not None
        assert node.stdout.readline() == "ready\n"
        node.kill()


_NODE = """
import asyncio, sys
from ipaddress import IPv4Network
from pathlib import Path
from skerry.node.network import Network, NetworkSettings
async def main():
    folder = Path(sys.argv[1]) / "machine"
    network = Network(NetworkSettings(
        machine_folder=folder, prefix="skt", exemptions=(), env={}, range=IPv4Network("10.151.0.0/16")))
    await network.start()
    print("ready", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


async def test_a_filter_that_iptables_cannot_show_is_told_of_and_left_alone(world: World) -> None:
    nft("add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 5; policy drop; }")
    before = nft("list", "table", "ip", "filter")
    network = world.network()
    await network.start()
    assert nft("list", "table", "ip", "filter") == before
    await network.stop()
    assert world.told_of("network.other_firewall")


async def test_doctor_tells_what_it_found(world: World) -> None:
    from skerry.apps.probes import other_firewalls

    assert other_firewalls().text == "no other firewall drops what sandboxes send"
    docker_starts("nft")
    found = other_firewalls()
    assert (found.status, "iptables-nft FORWARD" in found.text) == ("ok", True)
    nft("add table inet mine; add chain inet mine pass { type filter hook forward priority 5; policy drop; }")
    found = other_firewalls()
    assert (found.status, "inet mine pass" in found.text) == ("note", True)
