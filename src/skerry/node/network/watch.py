"""Being told when the machine's addresses or routes, or the chains of its firewalls, change."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from skerry.node.network.rtnetlink import PROTOCOL, RTM_DELROUTE, RTM_NEWROUTE, messages, parse_route

_RTMGRP_IPV4_IFADDR, _RTMGRP_IPV4_ROUTE = 0x10, 0x40
_NETLINK_NETFILTER = 12
_NFNLGRP_NFTABLES = 1 << (7 - 1)
_NFTABLES = 10  # NFNL_SUBSYS_NFTABLES, the upper byte of a message's kind
_NFPROTO_IPV4 = 2
# NFT_MSG_NEW and DEL of tables, chains and rules; elements of sets, which our own slots are, are left out.
_CHAIN_MESSAGES = frozenset((0, 2, 3, 5, 6, 8))
_READS_AT_ONCE = 64


class _Watch:
    """Calls `changed` when the kernel tells something to one of `groups` that concerns us."""

    def __init__(
        self, protocol: int, groups: int, concerns_us: Callable[[int, bytes], bool], changed: Callable[[], None]
    ) -> None:
        self._changed = changed
        self._concerns_us = concerns_us
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol
        )
        self._socket.bind((0, groups))
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _read(self) -> None:
        news = False
        for _ in range(_READS_AT_ONCE):
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                break
            except OSError:  # ENOBUFS: messages were lost, so anything may have changed
                news = True
                continue
            news = news or any(self._concerns_us(kind, body) for kind, body in messages(data))
        if news:
            self._changed()


class RouteWatch(_Watch):
    """Calls `changed` when an IPv4 address or route of this namespace comes or goes, except routes of ours."""

    def __init__(self, changed: Callable[[], None]) -> None:
        super().__init__(socket.NETLINK_ROUTE, _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV4_ROUTE, _is_route_of_others, changed)


class ChainWatch(_Watch):
    """Calls `changed` when a chain or rule of IPv4 changes in nftables, where iptables keeps its own too."""

    def __init__(self, changed: Callable[[], None]) -> None:
        super().__init__(_NETLINK_NETFILTER, _NFNLGRP_NFTABLES, _is_chain, changed)


def _is_route_of_others(kind: int, body: bytes) -> bool:
    return kind not in (RTM_NEWROUTE, RTM_DELROUTE) or parse_route(body).protocol != PROTOCOL


def _is_chain(kind: int, body: bytes) -> bool:
    return kind >> 8 == _NFTABLES and kind & 0xFF in _CHAIN_MESSAGES and body[:1] == bytes([_NFPROTO_IPV4])
