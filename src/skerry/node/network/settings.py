"""What can be chosen about a node's network."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path

from skerry.model import limits
from skerry.node.network import exits

Tell = Callable[..., None]

_log = logging.getLogger("skerry.node.network")


def tell_log(event: str, **fields: object) -> None:
    """Write an event and its fields to the program's log."""
    _log.info("%s %s", event, " ".join(f"{name}={value!r}" for name, value in fields.items()))


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """`prefix` names devices and table, and must be a node's own on its machine; `range` None means a free one.

    `machine_folder` is shared by the nodes of a machine and must not outlive a restart of it, as the kernel's state.
    """

    prefix: str = "sk"
    range: IPv4Network | None = None
    machine_folder: Path = Path("/run/skerry-network")
    resolv_conf: Path = Path("/etc/resolv.conf")
    hosts_file: Path = Path("/etc/hosts")
    dns_port: int = 53
    connections_max: int = limits.CONNECTIONS_MAX
    # Where exceptions come from: None means the default indexes and this machine's own settings.
    exceptions: tuple[str, ...] | None = None
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    def endpoints(self) -> frozenset[exits.Endpoint]:
        """Return the indexes and proxies that every open sandbox may reach."""
        if self.exceptions is None:
            return frozenset(exits.endpoints_of_machine(self.env))
        return frozenset(found for found in map(exits.endpoint, self.exceptions) if found is not None)
