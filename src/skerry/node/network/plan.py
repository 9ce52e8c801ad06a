"""Which addresses and names a node's slots have. Pure: what the machine already uses comes in as values."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from skerry.model.errors import InvalidError, ResourceExhaustedError
from skerry.node.network.rtnetlink import PROTOCOL, RT_TABLE_LOCAL, RTN_UNICAST, Address, Link, Route

# Private networks that other software rarely takes: Docker begins at 172.17, Kubernetes uses 10.42, 10.96 and 10.244,
# clouds and home routers begin at 10.0, 172.31, 192.168.0 and 192.168.178.
CANDIDATES = tuple(
    IPv4Network(text)
    for text in (
        "10.213.0.0/16",
        "10.151.0.0/16",
        "10.187.0.0/16",
        "10.87.0.0/16",
        "172.29.0.0/16",
        "10.229.0.0/16",
        "172.26.0.0/16",
        "10.61.0.0/16",
    )
)
MTU_MAX = 1500
MTU_MIN = 576
_FIRST_INDEX = 2  # 0 is the network's own address, 1 the gateway
_PREFIX_CHARS = 6  # a device name has at most 15 characters, and the index needs five
# A route to so much of the address space is a default route cut in two, as VPN programs make them.
_DEFAULT_BITS = 1


@dataclass(frozen=True)
class Plan:
    """The names and addresses of one node: everything follows from its prefix and its network."""

    prefix: str
    network: IPv4Network

    def __post_init__(self) -> None:
        if not (self.prefix.isascii() and self.prefix.isalpha() and self.prefix.islower()):
            raise InvalidError(f"network prefix {self.prefix!r} must be lower-case letters a to z only")
        if len(self.prefix) > _PREFIX_CHARS:
            raise InvalidError(f"network prefix {self.prefix!r} is longer than {_PREFIX_CHARS} letters")
        if not 16 <= self.network.prefixlen <= 28:
            raise InvalidError(f"network range {self.network} must be a /16 to /28")

    @property
    def table(self) -> str:
        return f"skerry_{self.prefix}"

    @property
    def group(self) -> int:
        """The device group of all slots, by which the firewall knows them."""
        return zlib.crc32(self.table.encode()) | 1

    @property
    def gateway(self) -> IPv4Address:
        return self.network[1]

    @property
    def gateway_mac(self) -> str:
        return _mac(self.gateway)

    @property
    def indexes(self) -> range:
        return range(_FIRST_INDEX, self.network.num_addresses - 1)

    def device(self, index: int) -> str:
        return f"{self.prefix}{index}"

    def index(self, device: str) -> int | None:
        """Return the index of a device of ours; None if the name is not one."""
        digits = device.removeprefix(self.prefix)
        if digits == device or not (digits.isascii() and digits.isdigit()) or digits != str(int(digits)):
            return None
        return int(digits)

    def address(self, index: int) -> IPv4Address:
        return self.network[index]

    def index_of(self, address: IPv4Address) -> int:
        return int(address) - int(self.network.network_address)

    def mac(self, index: int) -> str:
        return _mac(self.address(index))

    def mark(self, index: int) -> int:
        """What the tracked connections of a slot carry; other nodes of this machine use another upper half."""
        return (self.group & 0xFFFF) << 16 | index


def _mac(address: IPv4Address) -> str:
    return ":".join(f"{byte:02x}" for byte in b"\x02\x00" + address.packed)  # 02: locally administered


def choose_range(taken: Iterable[IPv4Network], candidates: Sequence[IPv4Network] = CANDIDATES) -> IPv4Network:
    """Return the first candidate that overlaps nothing in `taken`; raises ResourceExhaustedError if there is none."""
    used = list(taken)
    for candidate in candidates:
        if not any(candidate.overlaps(network) for network in used):
            return candidate
    tried = ", ".join(str(candidate) for candidate in candidates)
    raise ResourceExhaustedError(
        f"no private network is free for sandboxes: each of {tried} overlaps a route, an address or a resolver of this "
        "machine; start `skerry server` with SKERRY_NETWORK_RANGE set to a private /16 that is free"
    )


def taken_networks(
    addresses: Iterable[Address], routes: Iterable[Route], resolvers: Iterable[IPv4Address]
) -> list[IPv4Network]:
    """Return what a range of ours must not overlap."""
    taken = [address.network for address in addresses]
    taken += [route.destination for route in routes if route.destination.prefixlen > _DEFAULT_BITS]
    taken += [IPv4Network(resolver) for resolver in resolvers]
    return taken


def connected_networks(addresses: Iterable[Address], routes: Iterable[Route]) -> list[IPv4Network]:
    """Return the networks that this machine reaches without a router: neighbours that a sandbox must not see."""
    found = {address.network for address in addresses if address.network.prefixlen > _DEFAULT_BITS}
    found |= {route.destination for route in routes if _is_direct(route)}
    return sorted(found)


def _is_direct(route: Route) -> bool:
    return (
        route.kind == RTN_UNICAST
        and not route.gateway
        and route.protocol != PROTOCOL
        and route.table != RT_TABLE_LOCAL
        and route.destination.prefixlen > _DEFAULT_BITS
    )


def uplink_mtu(links: Iterable[Link], routes: Iterable[Route]) -> int:
    """Return the largest packet that leaves this machine whole, so that a guest's segments fit from the first."""
    by_index = {link.index: link.mtu for link in links}
    mtus = [by_index.get(route.oif, 0) for route in routes if route.destination.prefixlen <= _DEFAULT_BITS]
    return max(MTU_MIN, min([MTU_MAX, *(mtu for mtu in mtus if mtu)]))
