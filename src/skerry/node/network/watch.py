"""Being told when the machine's addresses or routes change."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from skerry.node.network.rtnetlink import PROTOCOL, RTM_DELROUTE, RTM_NEWROUTE, messages, parse_route

_RTMGRP_IPV4_IFADDR, _RTMGRP_IPV4_ROUTE = 0x10, 0x40
_READS_AT_ONCE = 64


class RouteWatch:
    """Calls `changed` when an IPv4 address or route of this namespace comes or goes, except routes of ours."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        self._socket.bind((0, _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV4_ROUTE))
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
            news = news or any(_concerns_us(kind, body) for kind, body in messages(data))
        if news:
            self._changed()


def _concerns_us(kind: int, body: bytes) -> bool:
    return kind not in (RTM_NEWROUTE, RTM_DELROUTE) or parse_route(body).protocol != PROTOCOL
