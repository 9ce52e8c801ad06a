"""One sandbox's place in the node's network."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from typing import Protocol

from skerry.model.errors import ConflictError
from skerry.model.ids import SandboxId
from skerry.model.members import Nic
from skerry.model.specs import HostAccess
from skerry.node.network import guest
from skerry.node.network.firewall import Exemption
from skerry.node.network.plan import Plan


class SlotNetwork(Protocol):
    """What a slot asks of the network that it belongs to."""

    @property
    def plan(self) -> Plan: ...

    async def exemptions_of(self, access: HostAccess) -> frozenset[Exemption]: ...
    async def packet_socket(self, namespace: int) -> int: ...
    async def open_slot(self, slot: Slot, exemptions: frozenset[Exemption]) -> None: ...
    async def close_slot(self, slot: Slot) -> None: ...
    async def release_slot(self, slot: Slot) -> None: ...
    def local_names(self) -> Mapping[str, IPv4Address]: ...


class Slot:
    """A namespace, a pair of devices and an address. It lets nothing through until it is opened."""

    def __init__(
        self, network: SlotNetwork, *, sandbox: SandboxId, index: int, mtu: int, namespace: int | None
    ) -> None:
        self.sandbox = sandbox
        self.index = index
        self.exemptions: frozenset[Exemption] = frozenset()
        self.is_open = False
        self.plan = network.plan
        self._network = network
        self._mtu = mtu
        self._namespace = namespace

    @property
    def address(self) -> IPv4Address:
        return self.plan.address(self.index)

    @property
    def device(self) -> str:
        """The name of the slot's end on the machine."""
        return self.plan.device(self.index)

    @property
    def namespace(self) -> int:
        """A descriptor of the slot's namespace; raises ConflictError for a slot taken over from an earlier node."""
        if self._namespace is None:
            raise ConflictError(
                f"the slot of {self.sandbox} has no namespace to plug from: it is taken over from an earlier node, or "
                "released; make a new one"
            )
        return self._namespace

    @asynccontextmanager
    async def nic(self) -> AsyncIterator[Nic]:
        """Lend a network card to plug. Its socket is closed at the end of the block: the sandbox then has its own."""
        socket_fd = await self._network.packet_socket(self.namespace)
        plan = self.plan
        try:
            yield Nic(
                socket_fd=socket_fd,
                address=str(self.address),
                gateway=str(plan.gateway),
                mac=plan.mac(self.index),
                gateway_mac=plan.gateway_mac,
                mtu=self._mtu,
            )
        finally:
            os.close(socket_fd)

    async def open(self, access: HostAccess | None = None) -> None:
        """Let the sandbox reach the public internet, and the indexes and proxies of `access`. May be repeated."""
        exemptions = await self._network.exemptions_of(access) if access is not None else frozenset()
        await self._network.open_slot(self, exemptions)

    async def close(self) -> None:
        """Let nothing through any more; connections end at once. May be repeated."""
        await self._network.close_slot(self)

    async def release(self) -> None:
        """Remove the slot; nothing of it is left for the next one with its address. May be repeated."""
        await self._network.release_slot(self)

    def resolv_conf(self) -> str:
        """What the sandbox's /etc/resolv.conf holds."""
        return guest.resolv_conf(self.plan.gateway)

    def hosts(self, hostname: str) -> str:
        """What the sandbox's /etc/hosts holds."""
        return guest.hosts(hostname, self.address, self._network.local_names())

    def drop_namespace(self) -> None:
        """Close the descriptor of the namespace, which then lives as long as the sandbox's card does."""
        if self._namespace is not None:
            os.close(self._namespace)
            self._namespace = None
