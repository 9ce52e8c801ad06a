"""Forgetting the tracked connections of one sandbox."""

from __future__ import annotations

import os
import socket
import struct

from skerry.node.network.rtnetlink import NLM_F_ACK, NLMSG_ERROR, attribute, message, messages

_NETLINK_NETFILTER = 12
_IPCTNL_MSG_CT_DELETE = (1 << 8) | 2  # subsystem NFNL_SUBSYS_CTNETLINK in the upper byte
_CTA_MARK, _CTA_MARK_MASK = 8, 21


class Conntrack:
    """The kernel's table of tracked connections. Blocking; for one thread at a time."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        self._socket.bind((0, 0))
        self._socket.settimeout(10)

    def forget(self, mark: int) -> None:
        """Remove every IPv4 connection that carries `mark`."""
        body = (
            bytes([socket.AF_INET, 0, 0, 0])
            + attribute(_CTA_MARK, struct.pack(">I", mark))
            + attribute(_CTA_MARK_MASK, struct.pack(">I", 0xFFFFFFFF))
        )
        self._socket.send(message(_IPCTNL_MSG_CT_DELETE, NLM_F_ACK, body))
        for kind, answer in messages(self._socket.recv(65536)):
            number = -struct.unpack_from("=i", answer)[0] if kind == NLMSG_ERROR else 0
            if number:
                raise OSError(number, f"cannot forget connections: {os.strerror(number)}")

    def close(self) -> None:
        self._socket.close()
