"""The kernel's side of a node's network: devices, routes, firewall, connections. Blocking, for one thread.

The kernel is the record: a slot's device carries the id of its sandbox as its alias, and the word `open` behind it
while the firewall lets it through. So a successor finds everything without a file that could disagree.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network
from socket import if_nametoindex

from skerry.model.errors import InternalError
from skerry.node.network import firewall
from skerry.node.network.conntrack import Conntrack
from skerry.node.network.firewall import Exemption, Standing
from skerry.node.network.namespaces import inside, make_namespace, packet_socket
from skerry.node.network.nftables import Nftables, has_filter_of_iptables, strict_chains
from skerry.node.network.plan import Plan, connected_networks, uplink_mtu
from skerry.node.network.rtnetlink import Link, Rtnetlink, settle

GUEST_DEVICE = "eth0"  # the slot's inner end; the guest's own name for its card is the backend's choice
_OPEN = " open"


@dataclass(frozen=True)
class FoundSlot:
    """A slot that exists in the kernel: whose it is, and whether it is open."""

    index: int
    sandbox: str
    open: bool


class Kernel:
    """Everything that a node does to the network of its namespace."""

    def __init__(self) -> None:
        self.links = Rtnetlink()
        self._nft = Nftables()
        self._conntrack = Conntrack()

    def close(self) -> None:
        self.links.close()
        self._nft.close()
        self._conntrack.close()

    def take_range(self, plan: Plan, standing: Standing) -> Standing:
        """Reserve the node's addresses and write its table; returns `standing` as it was written."""
        self.links.blackhole(plan.network, present=True)
        self.links.loopback_address(plan.gateway, present=True)
        try:
            self._nft.run(firewall.ruleset(plan, standing))
        except InternalError:
            # Kernels without CONFIG_NF_CONNTRACK_TIMEOUT: closed connections then stay for their usual time.
            standing = replace(standing, brief_timeouts=False)
            self._nft.run(firewall.ruleset(plan, standing))
        return standing

    def drop_range(self, plan: Plan) -> None:
        """Undo `take_range`, and remove every slot."""
        for found in self.slots(plan):
            self.links.delete_link(plan.device(found.index))
            self._conntrack.forget(plan.mark(found.index))
        self._nft.run(firewall.remove(plan))
        self.links.loopback_address(plan.gateway, present=False)
        self.links.blackhole(plan.network, present=False)

    def has_table(self, name: str) -> bool:
        return self._nft.read(f"list table inet {name}") is not None

    def slots(self, plan: Plan) -> list[FoundSlot]:
        """Return the slots that exist, from the devices of our group."""
        ours = ((plan.index(link.name), link) for link in self.links.links() if link.group == plan.group)
        return [_found(index, link) for index, link in ours if index is not None]

    def own_exemptions(self, plan: Plan) -> dict[int, frozenset[Exemption]]:
        """Return the exemptions that single slots have, from the table as it stands."""
        found: dict[int, set[Exemption]] = {}
        for entry in self._nft.read(f"list set inet {plan.table} own_exemptions") or ():
            for element in entry.get("set", {}).get("elem", ()):
                source, address, protocol, port = element["concat"]
                index = plan.index_of(IPv4Address(source))
                found.setdefault(index, set()).add(Exemption(IPv4Address(address), protocol, port))
        return {index: frozenset(exemptions) for index, exemptions in found.items()}

    def strict_chains(self, plan: Plan) -> list[str]:
        """Return the chains of other firewalls that drop what no rule of theirs accepts, where our packets pass."""
        return strict_chains(self._nft, plan.table)

    def has_filter_of_iptables(self) -> bool:
        return has_filter_of_iptables(self._nft)

    def connected(self) -> list[IPv4Network]:
        return connected_networks(self.links.addresses(), self.links.routes())

    def mtu(self) -> int:
        return uplink_mtu(self.links.links(), self.links.routes())

    def devices(self) -> list[str]:
        return [link.name for link in self.links.links()]

    def make_slot(self, plan: Plan, index: int, sandbox: str, mtu: int) -> int:
        """Make namespace, devices and route of a slot that lets nothing through; returns the namespace's descriptor."""
        name, mac = plan.device(index), plan.mac(index)
        namespace = make_namespace()
        try:
            self.links.make_veth(
                name=name, mac=plan.gateway_mac, group=plan.group, alias=sandbox, mtu=mtu,
                peer=GUEST_DEVICE, peer_mac=mac, fd=namespace,
            )  # fmt: skip
            with inside(namespace), Rtnetlink() as inner:
                inner.set_up(GUEST_DEVICE)  # a veth end cannot go up in the request that makes it
            settle(name)
            self.links.lead_to(plan.address(index), mac, if_nametoindex(name))
        except BaseException as exc:
            os.close(namespace)
            if not (isinstance(exc, OSError) and exc.errno == errno.EEXIST):
                self.links.delete_link(name)
            raise
        return namespace

    def packet_socket(self, namespace: int) -> int:
        return packet_socket(namespace, GUEST_DEVICE)

    def open_slot(self, plan: Plan, index: int, sandbox: str, exemptions: Iterable[Exemption]) -> None:
        self._nft.run(firewall.open_slot(plan, index, exemptions))
        self.links.set_alias(plan.device(index), sandbox + _OPEN)

    def close_slot(self, plan: Plan, index: int, sandbox: str, exemptions: Iterable[Exemption]) -> None:
        self._nft.run(firewall.close_slot(plan, index, exemptions))
        # After the table: a packet that was on its way would be tracked anew.
        self._conntrack.forget(plan.mark(index))
        with suppress(OSError):  # the device may have gone with its namespace
            self.links.set_alias(plan.device(index), sandbox)

    def remove_slot(self, plan: Plan, index: int) -> None:
        """Remove a slot that belongs to nobody here."""
        self.links.delete_link(plan.device(index))
        self._nft.run(firewall.close_slot(plan, index))
        self._conntrack.forget(plan.mark(index))

    def sweep(self, plan: Plan, keep: Collection[str]) -> list[FoundSlot]:
        """Remove every slot whose sandbox is not in `keep`; returns what was removed."""
        gone = [found for found in self.slots(plan) if found.sandbox not in keep]
        for found in gone:
            self.remove_slot(plan, found.index)
        return gone

    def replace_exemptions(self, plan: Plan, exemptions: Sequence[Exemption]) -> None:
        self._nft.run(firewall.replace_exemptions(plan, exemptions))

    def replace_connected(self, plan: Plan, networks: Sequence[IPv4Network]) -> None:
        self._nft.run(firewall.replace_connected(plan, networks))


def delete_device(name: str) -> None:
    """Delete a device of the calling thread's namespace; the kernel makes it wait for 20 to 40 ms."""
    with Rtnetlink() as links:
        links.delete_link(name)


def _found(index: int, link: Link) -> FoundSlot:
    return FoundSlot(index=index, sandbox=link.alias.removesuffix(_OPEN), open=link.alias.endswith(_OPEN))
