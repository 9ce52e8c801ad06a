"""The few requests to the kernel's routing netlink that a network of slots needs, encoded by hand.

pyroute2 can do all of this and much more; importing it costs 0.3 s and 25 MiB in a server that should start at once.
Numbers are from linux/rtnetlink.h, linux/if_link.h, linux/neighbour.h and linux/veth.h.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Self

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH = 28

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_OPERSTATE, IFLA_LINKINFO = 1, 3, 4, 16, 18
IFLA_IFALIAS, IFLA_AF_SPEC, IFLA_GROUP, IFLA_NET_NS_FD = 20, 26, 27, 28
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER = 1, 2, 1
IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE = 8, 1
IFF_UP, IFF_NOARP = 0x1, 0x80
IF_OPER_UP = 6
SIOCETHTOOL, ETHTOOL_GLINK = 0x8946, 0xA
IFA_ADDRESS, IFA_LOCAL = 1, 2
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_MULTIPATH, RTA_TABLE, RTA_VIA = 1, 4, 5, 9, 15, 18
RTN_UNICAST, RTN_BLACKHOLE = 1, 6
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RT_SCOPE_HOST = 0, 253, 254
RT_TABLE_MAIN, RT_TABLE_LOCAL = 254, 255
NDA_DST, NDA_LLADDR, NUD_PERMANENT = 1, 2, 0x80

# What our routes are marked with (rtm_protocol; 5 to 255 are free for programs), so that our own changes are told
# apart from the machine's.
PROTOCOL = 0x73

_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBi")
_ROUTE = struct.Struct("=BBBBBBBBI")
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
_ATTRIBUTE = struct.Struct("=HH")
_RECEIVE_BYTES = 256 * 1024


@dataclass(frozen=True)
class Link:
    """A network device. `alias` is the free text that its maker gave it, `passing` whether packets pass already."""

    index: int
    name: str
    group: int
    mtu: int
    alias: str
    passing: bool = True


@dataclass(frozen=True)
class Address:
    """An IPv4 address of a device, with the network that is reached through it (of the peer, if it has one)."""

    index: int
    local: IPv4Address
    network: IPv4Network


@dataclass(frozen=True)
class Route:
    """An IPv4 route. `gateway` tells whether it goes through another router."""

    destination: IPv4Network
    table: int
    kind: int
    protocol: int
    oif: int
    gateway: bool


def attribute(kind: int, payload: bytes) -> bytes:
    """Return one netlink attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(payload), kind) + payload + bytes(-len(payload) % 4)


def text_attribute(kind: int, text: str) -> bytes:
    return attribute(kind, text.encode() + b"\0")


def number_attribute(kind: int, number: int) -> bytes:
    return attribute(kind, struct.pack("=I", number))


def attributes(payload: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield kind and payload of each attribute."""
    at = 0
    while at + _ATTRIBUTE.size <= len(payload):
        length, kind = _ATTRIBUTE.unpack_from(payload, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind & 0x3FFF, payload[at + _ATTRIBUTE.size : at + length]
        at += length + (-length % 4)


def message(kind: int, flags: int, body: bytes) -> bytes:
    """Return one netlink request."""
    return _HEADER.pack(_HEADER.size + len(body), kind, flags | NLM_F_REQUEST, 0, 0) + body


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and body of each message in what the kernel sent."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return
        yield kind, data[at + _HEADER.size : at + length]
        at += length + (-length % 4)


def veth_messages(*, name: str, mac: str, group: int, alias: str, mtu: int, peer: str, peer_mac: str, fd: int) -> bytes:
    """Return the requests that make a veth pair: this end up, without ARP and IPv6, `peer` in the namespace of `fd`."""
    common = number_attribute(IFLA_MTU, mtu)
    inner = (
        _LINK.pack(0, 0, 0, 0, 0)
        + text_attribute(IFLA_IFNAME, peer)
        + attribute(IFLA_ADDRESS, mac_bytes(peer_mac))
        + common
        + number_attribute(IFLA_NET_NS_FD, fd)
    )
    info = text_attribute(IFLA_INFO_KIND, "veth") + attribute(IFLA_INFO_DATA, attribute(VETH_INFO_PEER, inner))
    named = text_attribute(IFLA_IFNAME, name)
    create = (
        _LINK.pack(0, 0, 0, 0, 0)
        + named
        + attribute(IFLA_ADDRESS, mac_bytes(mac))
        + common
        + number_attribute(IFLA_GROUP, group)
        + attribute(IFLA_LINKINFO, info)
    )
    # No link-local address: the kernel gives one when the device goes up, unless it was told not to before.
    mode = attribute(IFLA_INET6_ADDR_GEN_MODE, bytes([IN6_ADDR_GEN_MODE_NONE]))
    quiet = _LINK.pack(0, 0, 0, 0, 0) + named + attribute(IFLA_AF_SPEC, attribute(socket.AF_INET6, mode))
    flags = IFF_UP | IFF_NOARP
    up = _LINK.pack(0, 0, 0, flags, flags) + named + text_attribute(IFLA_IFALIAS, alias)
    return (
        message(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, create)
        + message(RTM_SETLINK, NLM_F_ACK, quiet)
        + message(RTM_SETLINK, NLM_F_ACK, up)
    )


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def settle(device: str) -> None:
    """Return when the kernel has seen that the device's other end is up.

    It learns that in a work queue, and until then drops what is sent out of the device: a guest that is quick would
    lose the first answers. Asking for the link's state makes it look now (linkwatch_sync_dev in ethtool_op_get_link).
    """
    answer = array("I", [ETHTOOL_GLINK, 0])
    request = struct.pack("16sP", device.encode(), answer.buffer_info()[0]) + bytes(16)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        fcntl.ioctl(sock, SIOCETHTOOL, request)


class Rtnetlink:
    """A routing netlink socket in the namespace of the thread that makes it. Blocking; for one thread at a time."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._socket.settimeout(10)

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def make_veth(
        self, *, name: str, mac: str, group: int, alias: str, mtu: int, peer: str, peer_mac: str, fd: int
    ) -> None:
        requests = veth_messages(
            name=name, mac=mac, group=group, alias=alias, mtu=mtu, peer=peer, peer_mac=peer_mac, fd=fd
        )
        self._ask(requests, 3, f"make the device {name}")

    def set_up(self, name: str) -> None:
        body = _LINK.pack(0, 0, 0, IFF_UP, IFF_UP) + text_attribute(IFLA_IFNAME, name)
        self._ask(message(RTM_SETLINK, NLM_F_ACK, body), 1, f"set up the device {name}")

    def set_alias(self, name: str, alias: str) -> None:
        body = _LINK.pack(0, 0, 0, 0, 0) + text_attribute(IFLA_IFNAME, name) + text_attribute(IFLA_IFALIAS, alias)
        self._ask(message(RTM_SETLINK, NLM_F_ACK, body), 1, f"name the owner of the device {name}")

    def delete_link(self, name: str) -> bool:
        """Delete a device; False if there is none of this name."""
        body = _LINK.pack(0, 0, 0, 0, 0) + text_attribute(IFLA_IFNAME, name)
        return self._ask_absent(message(RTM_DELLINK, NLM_F_ACK, body), f"delete the device {name}")

    def lead_to(self, address: IPv4Address, mac: str, index: int) -> None:
        """Send packets for `address` out of the device `index`, in frames to `mac`, without asking by ARP."""
        route = (
            _ROUTE.pack(socket.AF_INET, 32, 0, 0, RT_TABLE_MAIN, PROTOCOL, RT_SCOPE_LINK, RTN_UNICAST, 0)
            + attribute(RTA_DST, address.packed)
            + number_attribute(RTA_OIF, index)
        )
        neighbour = (
            _NEIGHBOUR.pack(socket.AF_INET, index, NUD_PERMANENT, 0, 0)
            + attribute(NDA_DST, address.packed)
            + attribute(NDA_LLADDR, mac_bytes(mac))
        )
        flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE
        requests = message(RTM_NEWNEIGH, flags, neighbour) + message(RTM_NEWROUTE, flags, route)
        self._ask(requests, 2, f"lead packets for {address} to its slot")

    def blackhole(self, network: IPv4Network, *, present: bool) -> None:
        """Make, or remove, the route that swallows packets for `network`."""
        body = _ROUTE.pack(
            socket.AF_INET, network.prefixlen, 0, 0, RT_TABLE_MAIN, PROTOCOL, RT_SCOPE_UNIVERSE, RTN_BLACKHOLE, 0
        ) + attribute(RTA_DST, network.network_address.packed)
        if present:
            self._ask(message(RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, body), 1, f"reserve {network}")
        else:
            self._ask_absent(message(RTM_DELROUTE, NLM_F_ACK, body), f"release {network}")

    def loopback_address(self, address: IPv4Address, *, present: bool) -> None:
        """Give the machine `address`, or take it away again."""
        body = (
            _ADDRESS.pack(socket.AF_INET, 32, 0, RT_SCOPE_HOST, socket.if_nametoindex("lo"))
            + attribute(IFA_LOCAL, address.packed)
            + attribute(IFA_ADDRESS, address.packed)
        )
        if present:
            flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE
            self._ask(message(RTM_NEWADDR, flags, body), 1, f"take the address {address}")
        else:
            self._ask_absent(message(RTM_DELADDR, NLM_F_ACK, body), f"give up the address {address}")

    def links(self) -> list[Link]:
        return [parse_link(body) for kind, body in self._dump(RTM_GETLINK) if kind == RTM_NEWLINK]

    def addresses(self) -> list[Address]:
        found = (parse_address(body) for kind, body in self._dump(RTM_GETADDR) if kind == RTM_NEWADDR)
        return [address for address in found if address is not None]

    def routes(self) -> list[Route]:
        return [parse_route(body) for kind, body in self._dump(RTM_GETROUTE) if kind == RTM_NEWROUTE]

    def _ask(self, requests: bytes, answers: int, what: str) -> None:
        self._socket.send(requests)
        failures = []
        while answers:
            for kind, body in messages(self._socket.recv(_RECEIVE_BYTES)):
                if kind == NLMSG_ERROR:
                    answers -= 1
                    failures.append(-struct.unpack_from("=i", body)[0])
        number = next((failure for failure in failures if failure), 0)
        if number:
            raise OSError(number, f"cannot {what}: {os.strerror(number)}")

    def _ask_absent(self, request: bytes, what: str) -> bool:
        try:
            self._ask(request, 1, what)
        except OSError as exc:
            if exc.errno in (errno.ENODEV, errno.ESRCH, errno.EADDRNOTAVAIL):
                return False
            raise
        return True

    def _dump(self, kind: int) -> Iterator[tuple[int, bytes]]:
        family = socket.AF_UNSPEC if kind == RTM_GETLINK else socket.AF_INET
        body = {RTM_GETLINK: _LINK, RTM_GETADDR: _ADDRESS, RTM_GETROUTE: _ROUTE}[kind].size
        self._socket.send(message(kind, NLM_F_DUMP, bytes([family]) + bytes(body - 1)))
        while True:
            for answer, payload in messages(self._socket.recv(_RECEIVE_BYTES)):
                if answer == NLMSG_DONE:
                    return
                if answer == NLMSG_ERROR:
                    number = -struct.unpack_from("=i", payload)[0]
                    raise OSError(number, f"cannot list the network of this machine: {os.strerror(number)}")
                yield answer, payload


def parse_link(body: bytes) -> Link:
    found = dict(attributes(body[_LINK.size :]))
    return Link(
        index=_LINK.unpack_from(body)[2],
        name=_text(found.get(IFLA_IFNAME)),
        group=_number(found.get(IFLA_GROUP)),
        mtu=_number(found.get(IFLA_MTU)),
        alias=_text(found.get(IFLA_IFALIAS)),
        passing=found.get(IFLA_OPERSTATE) == bytes([IF_OPER_UP]),
    )


def parse_address(body: bytes) -> Address | None:
    _, bits, _, _, index = _ADDRESS.unpack_from(body)
    found = dict(attributes(body[_ADDRESS.size :]))
    local = found.get(IFA_LOCAL) or found.get(IFA_ADDRESS)
    if local is None:
        return None
    network = IPv4Network((found.get(IFA_ADDRESS) or local, bits), strict=False)
    return Address(index=index, local=IPv4Address(local), network=network)


def parse_route(body: bytes) -> Route:
    _, bits, _, _, table, protocol, _, kind, _ = _ROUTE.unpack_from(body)
    found = dict(attributes(body[_ROUTE.size :]))
    return Route(
        destination=IPv4Network((found.get(RTA_DST, bytes(4)), bits)),
        table=_number(found.get(RTA_TABLE)) or table,
        kind=kind,
        protocol=protocol,
        oif=_number(found.get(RTA_OIF)),
        gateway=any(attr in found for attr in (RTA_GATEWAY, RTA_VIA, RTA_MULTIPATH)),
    )


def _text(payload: bytes | None) -> str:
    return (payload or b"").rstrip(b"\0").decode("utf-8", "replace")


def _number(payload: bytes | None) -> int:
    return int(struct.unpack_from("=I", payload)[0]) if payload else 0
