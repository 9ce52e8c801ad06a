"""What can be chosen about a node's network."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path

from skerry.model import limits
from skerry.model.errors import InvalidError
from skerry.model.events import Events
from skerry.node.network.exemptions import Destination, destination, destinations_of_machine

Tell = Callable[..., None]

RANGE_VARIABLE = "SKERRY_NETWORK_RANGE"

log = Events("skerry.node.network")


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """`prefix` names devices and table, and must be a node's own on its machine. `range` None means the one that
    SKERRY_NETWORK_RANGE names, or a free one.

    `machine_folder` is shared by the nodes of a machine and must not outlive a restart of it, as the kernel's state.
    """

    prefix: str = "sk"
    range: IPv4Network | None = None
    machine_folder: Path = Path("/run/skerry-network")
    resolv_conf: Path = Path("/etc/resolv.conf")
    hosts_file: Path = Path("/etc/hosts")
    dns_port: int = 53
    connections_max: int = limits.CONNECTIONS_MAX
    # Where exemptions come from: None means the default indexes and this machine's own settings.
    exemptions: tuple[str, ...] | None = None
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    def wanted_range(self) -> IPv4Network | None:
        """Return the range that was named, here or in the environment; None leaves the choice to the node."""
        text = self.env.get(RANGE_VARIABLE)
        if self.range is not None or not text:
            return self.range
        try:
            return IPv4Network(text)
        except ValueError as exc:
            raise InvalidError(
                f"{RANGE_VARIABLE}={text!r} is no IPv4 network ({exc}); give one as 10.213.0.0/16"
            ) from exc

    def destinations(self) -> frozenset[Destination]:
        """Return the indexes and proxies that every open sandbox may reach."""
        if self.exemptions is None:
            return frozenset(destinations_of_machine(self.env))
        return frozenset(found for found in map(destination, self.exemptions) if found is not None)
