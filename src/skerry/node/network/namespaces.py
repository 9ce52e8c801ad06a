"""Network namespaces: made, entered, and left again by the calling thread."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_OWN = "/proc/thread-self/ns/net"
_ETH_P_ALL = 0x0003
_SOL_PACKET, _PACKET_VNET_HDR = 263, 15
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_BUFFER_BYTES = 4 * 1024 * 1024

_libc = ctypes.CDLL(None, use_errno=True)


def make_namespace() -> int:
    """Return a descriptor of a new network namespace, in which IPv6 is off.

    It has no name: it lives as long as a descriptor or a socket in it is open, so that neither a crash of this process
    nor the end of the sandbox leaves it behind.
    """
    own = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.unshare(_CLONE_NEWNET), "make a network namespace")
        try:
            _switch_ipv6_off()
            return os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
        finally:
            _enter(own)
    finally:
        os.close(own)


def namespace_number() -> int:
    """Return the number by which the kernel knows the calling thread's namespace."""
    return os.stat(_OWN).st_ino


@contextmanager
def inside(namespace: int) -> Iterator[None]:
    """Let the calling thread work in `namespace` for the length of the block."""
    own = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(namespace)
        try:
            yield
        finally:
            _enter(own)
    finally:
        os.close(own)


def packet_socket(namespace: int, device: str) -> int:
    """Return a packet socket on `device` in `namespace`: whole frames, each behind a virtio header that lets the guest
    leave segmentation to the kernel. The caller owns it."""
    with inside(namespace):
        # Protocol 0 until it is bound: otherwise it would take frames of every device first.
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        try:
            sock.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
            sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _BUFFER_BYTES)
            sock.bind((device, _ETH_P_ALL))
        except BaseException:
            sock.close()
            raise
        return sock.detach()


def _switch_ipv6_off() -> None:
    setting = Path("/proc/sys/net/ipv6/conf/default/disable_ipv6")
    if setting.exists():  # absent where the kernel has no IPv6
        setting.write_text("1")


def _enter(namespace: int) -> None:
    _check(_libc.setns(namespace, _CLONE_NEWNET), "enter a network namespace")


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot {what}: {os.strerror(number)}")
