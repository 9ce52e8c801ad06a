"""A machine and an internet of its own for a test, made of network namespaces: nothing of the real machine is touched.

The thread that runs the test becomes the machine. Behind its uplink another namespace plays the internet, and owns an
address of every kind, public or not. A guest is played by hand-made frames at a slot's inner end.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import json
import os
import select
import socket
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from skerry.node.network import Network, NetworkSettings, Slot
from skerry.node.network.namespaces import inside, make_namespace

PUBLIC = "8.8.4.4"
NEIGHBOUR = "9.9.9.77"  # in the network that the machine's uplink is in
MACHINE = "9.9.9.2"
# One of each range that is not public, as if an internet, or a company's router, would lead there.
SPECIAL = {
    "0.0.0.0/8": "0.1.2.3",
    "10.0.0.0/8": "10.1.2.3",
    "100.64.0.0/10": "100.64.1.1",
    "168.63.129.16": "168.63.129.16",
    "169.254.0.0/16": "169.254.169.254",
    "172.16.0.0/12": "172.16.5.5",
    "192.0.0.0/24": "192.0.0.8",
    "192.0.2.0/24": "192.0.2.7",
    "192.88.99.0/24": "192.88.99.1",
    "192.168.0.0/16": "192.168.7.7",
    "198.18.0.0/15": "198.18.0.1",
    "198.51.100.0/24": "198.51.100.5",
    "203.0.113.0/24": "203.0.113.80",
    "240.0.0.0/4": "240.1.1.1",
}
PORT = 4000
FENCE_PORT = 4001
DEADLINE_S = 10.0
_CLONE_NEWNET = 0x40000000
_SO_RCVBUFFORCE = 33
_libc = ctypes.CDLL(None, use_errno=True)


def ip(*lines: str) -> None:
    """Run lines of `ip` in the calling thread's namespace."""
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)


def nft(*words: str) -> str:
    return subprocess.run(["nft", *words], text=True, check=True, capture_output=True).stdout


class World:
    """The machine (this thread's namespace), its internet, and what tests ask about them."""

    def __init__(self, folder: Path, internet: int, stack: ExitStack) -> None:
        self.folder = folder
        self.internet = internet
        self.told: list[tuple[str, dict[str, object]]] = []
        self._stack = stack
        self._tokens = itertools.count()
        self.fence = self.udp(PUBLIC, FENCE_PORT)

    def tell(self, event: str, **fields: object) -> None:
        self.told.append((event, fields))

    def told_of(self, event: str) -> list[dict[str, object]]:
        return [fields for told, fields in self.told if told == event]

    def network(self, **changes: object) -> Network:
        settings = {
            "machine_folder": self.folder / "machine",
            "prefix": "skt",
            "exemptions": (),
            "resolv_conf": self.folder / "resolv.conf",
            "hosts_file": self.folder / "hosts",
            "env": {},
            **changes,
        }
        return Network(NetworkSettings(**settings), tell=self.tell)  # type: ignore[arg-type]

    def udp(self, address: str, port: int = PORT, *, at_machine: bool = False) -> socket.socket:
        """Return a UDP socket that listens in the internet, or at the machine itself."""
        return self._listen(socket.SOCK_DGRAM, address, port, at_machine)

    def tcp(self, address: str, port: int = PORT, *, at_machine: bool = False) -> socket.socket:
        """Return a TCP listener in the internet, or at the machine itself."""
        return self._listen(socket.SOCK_STREAM, address, port, at_machine)

    def _listen(self, kind: socket.SocketKind, address: str, port: int, at_machine: bool) -> socket.socket:
        if at_machine:
            sock = socket.socket(socket.AF_INET, kind)
        else:
            with inside(self.internet):
                sock = socket.socket(socket.AF_INET, kind)
        self._stack.callback(sock.close)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        if kind == socket.SOCK_STREAM:
            sock.listen(1024)
        sock.setblocking(False)
        return sock

    def guest(self, slot: Slot) -> Guest:
        guest = Guest(self, slot)
        self._stack.callback(guest.close)
        return guest

    def token(self) -> bytes:
        return f"token-{next(self._tokens)}-".encode()

    def tracked(self, address: str) -> list[str]:
        """Return the tracked connections of this machine that `address` opened."""
        lines = Path("/proc/thread-self/net/nf_conntrack").read_text().splitlines()
        return [line for line in lines if f" src={address} " in line.partition("dport=")[0]]

    def arrived(self, token: bytes, listener: socket.socket) -> bool:
        """Tell whether `token` is among what a UDP listener has received by now."""
        found = False
        while True:
            try:
                found |= token in listener.recv(65536)
            except BlockingIOError:
                return found


class Guest:
    """Someone at the inner end of a slot who sends whatever frames he likes."""

    def __init__(self, world: World, slot: Slot) -> None:
        self.world = world
        self.address = str(slot.address)
        plan = slot.plan
        self.gateway = str(plan.gateway)
        self.mac, self.gateway_mac = plan.mac(slot.index), plan.gateway_mac
        self.namespace = os.dup(slot.namespace)
        with inside(self.namespace):
            self.wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            self.wire.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 8 << 20)
            self.wire.bind(("eth0", 3))

    def close(self) -> None:
        self.wire.close()
        if self.namespace >= 0:
            os.close(self.namespace)
            self.namespace = -1

    def sends(self, to: str, port: int = PORT, listener: socket.socket | None = None, **how: object) -> bool:
        """Send one datagram and tell whether it reached `listener`, by default one that is bound to the address."""
        token = self.world.token()
        heard = listener or self.world.udp(to, port)
        self.frame(self.packet(to, port, token, **how), **_mac_of(to))  # type: ignore[arg-type]
        self.pass_fence()
        return self.world.arrived(token, heard)

    def packet(
        self, to: str, port: int, payload: bytes, *, source: str | None = None, flags: int = 0, options: bytes = b"",
        protocol: int = socket.IPPROTO_UDP,
    ) -> bytes:  # fmt: skip
        """Return an IPv4 packet with a UDP datagram."""
        datagram = struct.pack(">HHHH", 5555, port, 8 + len(payload), 0) + payload
        return self._headed(to, datagram, source, flags, options, protocol)

    def fragment(self, to: str, part: bytes, flags: int) -> bytes:
        """Return an IPv4 packet that carries a part of a datagram; `flags` with its offset in units of eight."""
        return self._headed(to, part, None, flags, b"", socket.IPPROTO_UDP)

    def carry(self, to: str, content: bytes, *, protocol: int) -> bytes:
        """Return an IPv4 packet with this content."""
        return self._headed(to, content, None, 0, b"", protocol)

    def _headed(self, to: str, datagram: bytes, source: str | None, flags: int, options: bytes, protocol: int) -> bytes:
        words = 5 + len(options) // 4
        head = struct.pack(
            ">BBHHHBBH4s4s", 0x40 | words, 0, words * 4 + len(datagram), 7, flags, 64, protocol, 0,
            IPv4Address(source or self.address).packed, IPv4Address(to).packed,
        )  # fmt: skip
        head += options
        return head[:10] + _checksum(head) + head[12:] + datagram

    def frame(
        self, packet: bytes, *, source_mac: str | None = None, to_mac: str | None = None, kind: int = 0x0800
    ) -> None:
        """Put one frame on the wire."""
        self.wire.send(
            _mac(to_mac or self.gateway_mac) + _mac(source_mac or self.mac) + struct.pack(">H", kind) + packet
        )

    def pass_fence(self) -> None:
        """Return when a datagram that may pass has arrived: what was sent before it has then arrived, or never will."""
        token = self.world.token()
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            self.frame(self.packet(PUBLIC, FENCE_PORT, token))
            select.select([self.world.fence], [], [], 0.5)
            if self.world.arrived(token, self.world.fence):
                return
        raise AssertionError("not even a public address can be reached")

    def frames(self) -> list[bytes]:
        """Return what has come over the wire by now, without what the guest sent itself."""
        found = []
        while True:
            try:
                frame = self.wire.recv(65536, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return [frame for frame in found if frame[6:12] != _mac(self.mac)]
            found.append(frame)

    def becomes_a_host(self) -> None:
        """Give the slot's inner end the guest's address, so that ordinary sockets can be used there."""
        with inside(self.namespace):
            ip(
                f"addr add {self.address}/32 dev eth0",
                "link set lo up",
                f"route add {self.gateway} dev eth0",
                f"neigh replace {self.gateway} lladdr {self.gateway_mac} dev eth0 nud permanent",
                f"route add default via {self.gateway}",
            )

    def socket(self, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
        with inside(self.namespace):
            sock = socket.socket(socket.AF_INET, kind)
        sock.setblocking(False)
        return sock

    async def connects(self, to: str, port: int = PORT) -> bool:
        """Tell whether a TCP connection comes about, if not at once then when the guest tries again after a second."""
        return await self._connects(to, port, DEADLINE_S)

    async def fails_to_connect(self, to: str, port: int = PORT) -> bool:
        """Tell whether a TCP connection does not come about at once; the firewall does not answer, so it just waits."""
        return not await self._connects(to, port, 0.5)

    async def _connects(self, to: str, port: int, within: float) -> bool:
        with self.socket() as sock:
            try:
                async with asyncio.timeout(within):
                    await asyncio.get_running_loop().sock_connect(sock, (to, port))
            except (OSError, TimeoutError):
                return False
            return True


def take_away_rule(table: str, name: str) -> None:
    """Delete every rule of a table that carries this comment; there must be one."""
    listing = json.loads(nft("-j", "-a", "list", "table", "inet", table))["nftables"]
    rules = [entry["rule"] for entry in listing if entry.get("rule", {}).get("comment") == name]
    assert rules, f"no rule is called {name!r}"
    for rule in rules:
        nft("delete", "rule", "inet", table, rule["chain"], "handle", str(rule["handle"]))


def take_away_range(table: str, network: str) -> None:
    nft("delete", "element", "inet", table, "unreachable", f"{{ {network} }}")


@contextmanager
def play(folder: Path) -> Iterator[World]:
    """Let this thread be a machine of its own for the length of the block."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    with ExitStack() as stack:
        stack.callback(os.close, own)
        _check(_libc.unshare(_CLONE_NEWNET))
        stack.callback(lambda: _check(_libc.setns(own, _CLONE_NEWNET)))
        internet = make_namespace()
        stack.callback(os.close, internet)
        _wire(internet)
        (folder / "resolv.conf").write_text("nameserver 8.8.4.53\n")
        (folder / "hosts").write_text("127.0.0.1 localhost\n")
        yield World(folder, internet, stack)


def _wire(internet: int) -> None:
    # A new namespace begins with the settings of the first one, whatever they are at this moment.
    Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
    ip("link set lo up", "link add up0 type veth peer name up1")
    ip("link set up0 addrgenmode none", "link set up1 addrgenmode none")  # no IPv6 addresses that come by themselves
    _move("up1", internet)
    ip(f"addr add {MACHINE}/24 dev up0", "link set up0 up", "route add default via 9.9.9.1")
    with inside(internet):
        owned = [PUBLIC, "8.8.4.53", *SPECIAL.values()]
        ip(
            "link set lo up",
            "addr add 9.9.9.1/24 dev up1",
            f"addr add {NEIGHBOUR}/24 dev up1",
            "link set up1 up",
            *(f"addr add {address}/32 dev lo" for address in owned),
        )


def _move(device: str, namespace: int) -> None:
    subprocess.run(
        ["ip", "link", "set", device, "netns", f"/proc/self/fd/{namespace}"], check=True, pass_fds=[namespace]
    )


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _mac_of(address: str) -> dict[str, str]:
    """Return the frame's destination for groups of hosts; others go to the gateway."""
    packed = IPv4Address(address).packed
    if address == "255.255.255.255":
        return {"to_mac": "ff:ff:ff:ff:ff:ff"}
    if IPv4Address(address).is_multicast:
        return {"to_mac": f"01:00:5e:{packed[1] & 0x7F:02x}:{packed[2]:02x}:{packed[3]:02x}"}
    return {}


def _checksum(head: bytes) -> bytes:
    total = sum(struct.unpack(f">{len(head) // 2}H", head))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack(">H", ~total & 0xFFFF)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    if os.geteuid():
        pytest.skip("network namespaces need root")
    with play(tmp_path) as made:
        yield made


@pytest.fixture
async def network(world: World) -> AsyncIterator[Network]:
    # A range that no rule about private addresses covers, so that each rule stands alone in its test.
    made = world.network(range=IPv4Network("11.5.0.0/16"))
    await made.start()
    yield made
    await made.stop()
