"""The network of a node. Its pieces: the plan of addresses, the firewall, the kernel, DNS, the exemptions, slots."""

from skerry.node.network.guest import hosts, resolv_conf
from skerry.node.network.network import Network
from skerry.node.network.settings import NetworkSettings
from skerry.node.network.slots import Slot

__all__ = ["Network", "NetworkSettings", "Slot", "hosts", "resolv_conf"]
