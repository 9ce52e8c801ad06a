"""What an open sandbox cannot reach. Each test has a listener that does hear once the rule is taken away."""

from __future__ import annotations

import fcntl
import socket
import struct
import subprocess
from pathlib import Path

import pytest
from internet import (
    MACHINE,
    NEIGHBOUR,
    PORT,
    PUBLIC,
    SPECIAL,
    Guest,
    World,
    ip,
    nft,
    take_away_range,
    take_away_rule,
)

from skerry.model.ids import SandboxId
from skerry.node.network import Network
from skerry.node.network.firewall import UNREACHABLE
from skerry.node.network.namespaces import inside

TABLE = "skerry_skt"
HERE = ("127.0.0.0/8", "224.0.0.0/4")  # these lead to the machine itself, and have tests of their own


async def open_guest(world: World, network: Network, name: str = "sb_a") -> Guest:
    slot = await network.slot(SandboxId(name))
    await slot.open()
    return world.guest(slot)


async def test_a_public_address_is_reached(world: World, network: Network) -> None:
    guest = await open_guest(world, network)
    assert guest.sends(PUBLIC)


def test_every_range_that_is_not_public_has_a_test() -> None:
    assert sorted((*SPECIAL, *HERE)) == sorted(UNREACHABLE)


@pytest.mark.parametrize("kind", sorted(SPECIAL))
async def test_an_address_that_is_not_public_is_not_reached(world: World, network: Network, kind: str) -> None:
    guest = await open_guest(world, network)
    assert not guest.sends(SPECIAL[kind])
    take_away_range(TABLE, kind)
    assert guest.sends(SPECIAL[kind])


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9"])
async def test_the_machines_loopback_is_not_reached(world: World, network: Network, address: str) -> None:
    guest = await open_guest(world, network)
    # The kernel itself refuses such packets from outside unless someone has set this, as kube-proxy does.
    Path("/proc/sys/net/ipv4/conf/all/route_localnet").write_text("1")
    nft("flush", "set", "inet", TABLE, "connected")
    listener = world.udp("0.0.0.0", at_machine=True)
    assert not guest.sends(address, listener=listener)
    take_away_rule(TABLE, "this machine")
    assert not guest.sends(address, listener=listener)
    take_away_range(TABLE, "127.0.0.0/8")
    assert guest.sends(address, listener=listener)


async def test_an_address_of_the_machine_is_not_reached(world: World, network: Network) -> None:
    guest = await open_guest(world, network)
    nft("flush", "set", "inet", TABLE, "connected")  # it is in a connected network as well, which is another rule
    listener = world.udp(MACHINE, at_machine=True)
    assert not guest.sends(MACHINE, listener=listener)
    take_away_rule(TABLE, "this machine")
    assert guest.sends(MACHINE, listener=listener)


async def test_a_listener_of_the_machine_takes_no_connection(world: World, network: Network) -> None:
    guest = await open_guest(world, network)
    guest.becomes_a_host()
    nft("flush", "set", "inet", TABLE, "connected")
    world.tcp("0.0.0.0", at_machine=True)
    assert await guest.fails_to_connect(MACHINE)
    take_away_rule(TABLE, "this machine")
    assert await guest.connects(MACHINE)


async def test_an_address_that_the_machine_gets_later_is_not_reached_from_that_moment(
    world: World, network: Network
) -> None:
    guest = await open_guest(world, network)
    ip("addr add 8.8.4.99/32 dev lo")
    listener = world.udp("8.8.4.99", at_machine=True)
    assert not guest.sends("8.8.4.99", listener=listener)


async def test_the_gateway_serves_nothing_but_dns(world: World, network: Network) -> None:
    guest = await open_guest(world, network)
    listener = world.udp("0.0.0.0", at_machine=True)
    nft("flush", "set", "inet", TABLE, "connected")
    assert not guest.sends(guest.gateway, listener=listener)
    take_away_rule(TABLE, "this machine")
    assert guest.sends(guest.gateway, listener=listener)


@pytest.mark.parametrize("address", ["224.0.0.251", "255.255.255.255"])
async def test_a_group_of_hosts_is_not_reached(world: World, network: Network, address: str) -> None:
    guest = await open_guest(world, network)
    listener = world.udp("0.0.0.0", at_machine=True)
    membership = struct.pack("=4s4si", socket.inet_aton("224.0.0.251"), bytes(4), socket.if_nametoindex("skt2"))
    listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    assert not guest.sends(address, listener=listener)
    take_away_rule(TABLE, "this machine")
    assert not guest.sends(address, listener=listener)
    take_away_range(TABLE, "224.0.0.0/4" if address.startswith("224") else "240.0.0.0/4")
    assert guest.sends(address, listener=listener)


async def test_a_neighbour_of_the_machine_is_not_reached(world: World, network: Network) -> None:
    guest = await open_guest(world, network)
    assert not guest.sends(NEIGHBOUR)
    take_away_rule(TABLE, "connected")
    assert guest.sends(NEIGHBOUR)


async def test_another_sandbox_is_not_reached(world: World, network: Network) -> None:
    guest, other = await open_guest(world, network), await open_guest(world, network, "sb_b")
    other.becomes_a_host()
    listener = other.socket(socket.SOCK_DGRAM)
    listener.bind(("0.0.0.0", PORT))
    assert not guest.sends(other.address, listener=listener)
    take_away_rule(TABLE, "only answers enter")
    assert guest.sends(other.address, listener=listener)


async def test_a_sandbox_is_not_reached_from_outside(world: World, network: Network) -> None:
    guest = await open_guest(world, network)
    guest.becomes_a_host()
    listener = guest.socket(socket.SOCK_DGRAM)
    listener.bind(("0.0.0.0", PORT))
    with inside(world.internet):
        ip("route add 11.5.0.0/16 via 9.9.9.2")
    stranger = world.udp("9.9.9.1", 4444)

    def hears() -> bool:
        token = world.token()
        stranger.sendto(token, (guest.address, PORT))
        guest.pass_fence()
        return world.arrived(token, listener)

    assert not hears()
    take_away_rule(TABLE, "only answers enter")
    assert hears()


async def test_a_sandbox_is_not_reached_from_the_machine(world: World, network: Network) -> None:
    guest = await open_guest(world, network)
    guest.becomes_a_host()
    listener = guest.socket(socket.SOCK_DGRAM)
    listener.bind(("0.0.0.0", PORT))
    local = world.udp("0.0.0.0", 4444, at_machine=True)

    def hears() -> bool:
        token = world.token()
        try:
            local.sendto(token, (guest.address, PORT))
        except PermissionError:  # a drop on the way out is told to who sends
            return False
        guest.pass_fence()
        return world.arrived(token, listener)

    assert not hears()
    take_away_rule(TABLE, "the machine opens nothing")
    assert hears()


@pytest.mark.parametrize("source", ["11.5.0.3", "8.8.4.99", MACHINE, "11.5.0.1"])
async def test_a_false_source_address_is_dropped(world: World, network: Network, source: str) -> None:
    guest = await open_guest(world, network)
    await open_guest(world, network, "sb_b")  # 11.5.0.3 is an open neighbour
    for setting in ("all", "skt2", "up0"):
        Path(f"/proc/sys/net/ipv4/conf/{setting}/rp_filter").write_text("0")
    Path("/proc/sys/net/ipv4/conf/skt2/accept_local").write_text("1")
    listener = world.udp(PUBLIC)
    assert not guest.sends(PUBLIC, listener=listener, source=source)
    take_away_rule(TABLE, "source")
    assert guest.sends(PUBLIC, listener=listener, source=source)


async def test_a_false_hardware_address_is_dropped(world: World, network: Network) -> None:
    guest = await open_guest(world, network)
    listener = world.udp(PUBLIC)

    def passes() -> bool:
        token = world.token()
        guest.frame(guest.packet(PUBLIC, PORT, token), source_mac="02:00:00:00:00:99")
        guest.pass_fence()
        return world.arrived(token, listener)

    assert not passes()
    take_away_rule(TABLE, "source")
    assert passes()


async def test_someone_outside_cannot_pose_as_a_sandbox(world: World, network: Network) -> None:
    guest = await open_guest(world, network)
    for setting in ("all", "up0"):
        Path(f"/proc/sys/net/ipv4/conf/{setting}/rp_filter").write_text("0")
    local = world.udp(MACHINE, at_machine=True)
    with inside(world.internet):
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        wire.bind(("up1", 3))
    to_mac = _mac_of_device("up0")

    def hears() -> bool:
        token = world.token()
        wire.send(to_mac + bytes.fromhex("020000000077") + b"\x08\x00" + guest.packet(MACHINE, PORT, token))
        guest.pass_fence()
        return world.arrived(token, local)

    with wire:
        assert not hears()
        take_away_rule(TABLE, "posing as a sandbox")
        assert hears()


async def test_ipv6_is_dropped(world: World, network: Network) -> None:
    guest = await open_guest(world, network)
    listener = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    ip("addr add 2001:db8::1/128 dev lo")
    listener.bind(("2001:db8::1", PORT))
    listener.setblocking(False)

    def hears() -> bool:
        token = world.token()
        guest.frame(_ipv6_datagram("2001:db8:1::2", "2001:db8::1", token), kind=0x86DD)
        guest.pass_fence()
        return world.arrived(token, listener)

    with listener:
        assert not hears()
        take_away_rule(TABLE, "this machine")
        assert not hears()
        take_away_rule(TABLE, "ipv6")
        assert hears()


async def test_arp_gets_no_answer_and_teaches_nothing(world: World, network: Network) -> None:
    guest = await open_guest(world, network)
    victim = await open_guest(world, network, "sb_b")
    neighbours = _neighbours()
    ask = _arp(1, guest.mac, guest.address, "00:00:00:00:00:00", MACHINE)
    claim = _arp(2, guest.mac, victim.address, guest.gateway_mac, guest.gateway)

    def answers() -> list[bytes]:
        guest.frame(ask, kind=0x0806, to_mac="ff:ff:ff:ff:ff:ff")
        guest.frame(claim, kind=0x0806)
        guest.pass_fence()
        return [frame for frame in guest.frames() if frame[12:14] == b"\x08\x06"]

    assert not answers()
    assert _neighbours() == neighbours
    ip("link set skt2 arp on")
    assert answers()


async def test_a_fragment_is_dropped(world: World, network: Network) -> None:
    guest = await open_guest(world, network)
    assert not guest.sends(PUBLIC, flags=0x2000 | 1)  # more fragments follow, at offset 8: nothing can be assembled
    whole = guest.packet(PUBLIC, PORT, b"fragmented" + bytes(22))
    listener = world.udp(PUBLIC)

    def assembled() -> bool:
        for start, more in ((0, 0x2000), (24, 0)):
            part = whole[20:][start : start + 24]
            guest.frame(guest.fragment(PUBLIC, part, more | start // 8))
        guest.pass_fence()
        return world.arrived(b"fragmented", listener)

    assert not assembled()
    take_away_rule(TABLE, "fragment")
    assert assembled()


async def test_ip_options_are_dropped(world: World, network: Network) -> None:
    guest = await open_guest(world, network)
    listener = world.udp(PUBLIC)
    record_route = bytes([7, 7, 4, 0, 0, 0, 0, 0])
    assert not guest.sends(PUBLIC, listener=listener, options=record_route)
    take_away_rule(TABLE, "ip options")
    assert guest.sends(PUBLIC, listener=listener, options=record_route)


async def test_only_tcp_udp_and_icmp_leave(world: World, network: Network) -> None:
    guest = await open_guest(world, network)
    with inside(world.internet):
        gre = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_GRE)
    gre.setblocking(False)
    with gre:
        assert not guest.sends(PUBLIC, listener=gre, protocol=socket.IPPROTO_GRE)
        take_away_rule(TABLE, "protocol")
        assert guest.sends(PUBLIC, listener=gre, protocol=socket.IPPROTO_GRE)


async def test_a_slot_that_is_not_open_passes_nothing(world: World, network: Network) -> None:
    opened = await open_guest(world, network)
    shut = world.guest(await network.slot(SandboxId("sb_b")))
    listener = world.udp(PUBLIC)

    def passes() -> bool:
        token = world.token()
        shut.frame(shut.packet(PUBLIC, PORT, token))
        opened.pass_fence()
        return world.arrived(token, listener)

    assert not passes()
    take_away_rule(TABLE, "source")
    assert passes()


def _mac_of_device(name: str) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return fcntl.ioctl(sock, 0x8927, struct.pack("256s", name.encode()))[18:24]


def _ipv6_datagram(source: str, to: str, payload: bytes) -> bytes:
    ends = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, to)
    length = 8 + len(payload)
    padded = payload + bytes(len(payload) % 2)
    pseudo = ends + struct.pack(">IHBB", length, 0, 0, 17) + struct.pack(">HHHH", 5555, PORT, length, 0) + padded
    total = sum(struct.unpack(f">{len(pseudo) // 2}H", pseudo))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    datagram = struct.pack(">HHHH", 5555, PORT, length, ~total & 0xFFFF or 0xFFFF) + payload
    return struct.pack(">IHBB", 6 << 28, length, 17, 64) + ends + datagram


def _arp(kind: int, mac: str, address: str, to_mac: str, to: str) -> bytes:
    hardware = [bytes.fromhex(text.replace(":", "")) for text in (mac, to_mac)]
    protocol = [socket.inet_aton(text) for text in (address, to)]
    return struct.pack(">HHBBH", 1, 0x0800, 6, 4, kind) + hardware[0] + protocol[0] + hardware[1] + protocol[1]


def _neighbours() -> str:
    return subprocess.run(
        ["ip", "neigh", "show", "nud", "permanent"], text=True, capture_output=True, check=True
    ).stdout


NAT = """
table ip other {
  chain nat {
    type nat hook prerouting priority dstnat; policy accept;
    meta l4proto { tcp, udp } th dport %d %s
  }
}
"""


def redirect(where: str) -> None:
    """Let the machine lead packets elsewhere, as Docker does for published ports and proxies for all traffic.

    A `redirect` leads nowhere, whatever the rules: it takes the address of the slot's device, which has none.
    """
    subprocess.run(["nft", "-f", "-"], input=NAT % (PORT, where), text=True, check=True)


async def test_a_public_address_that_the_machine_redirects_to_itself_is_not_reached(
    world: World, network: Network
) -> None:
    guest = await open_guest(world, network)
    listener = world.udp("0.0.0.0", 4002, at_machine=True)
    redirect(f"dnat to {MACHINE}:4002")
    assert not guest.sends(PUBLIC, listener=listener)
    take_away_rule(TABLE, "redirected")
    assert guest.sends(PUBLIC, listener=listener)


async def test_a_public_address_that_the_machine_leads_to_a_private_one_is_not_reached(
    world: World, network: Network
) -> None:
    guest = await open_guest(world, network)
    private = SPECIAL["10.0.0.0/8"]
    listener = world.udp(private)
    redirect(f"dnat to {private}")
    assert not guest.sends(PUBLIC, listener=listener)
    take_away_rule(TABLE, "redirected")
    assert guest.sends(PUBLIC, listener=listener)
