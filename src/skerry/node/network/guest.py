"""What a sandbox finds in /etc about its network."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address


def hosts(hostname: str, address: IPv4Address | None = None, names: Mapping[str, IPv4Address] | None = None) -> str:
    """Return /etc/hosts: the sandbox's own name at `address`, or at a loopback address when it has no network."""
    lines = [
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        f"{address or '127.0.1.1'}\t{hostname}",
        *(f"{at}\t{name}" for name, at in sorted((names or {}).items())),
    ]
    return "\n".join(lines) + "\n"


def resolv_conf(gateway: IPv4Address | None) -> str:
    """Return /etc/resolv.conf: our forwarder, or a comment when the sandbox has no network."""
    if gateway is None:
        return "# This sandbox has no network.\n"
    # Two tries of three seconds: the forwarder itself answers, if only with a failure, within that time.
    return f"nameserver {gateway}\noptions timeout:3 attempts:2\n"
