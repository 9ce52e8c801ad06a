"""Which node gets a sandbox: a plain decision over what is known of the nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from skerry.engine.interfaces import NodeView
from skerry.model.ids import NodeId
from skerry.model.specs import Resources

# A core that nobody uses is anyone's, so requests of CPU are shares: they may exceed the cores by this factor.
CPU_OVERCOMMIT: Final = 16.0


@dataclass(frozen=True)
class NoCapacity:
    """No node has room. `missing` names each lack on the node that came nearest: what was asked, what is free."""

    missing: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __str__(self) -> str:
        return ", ".join(
            f"{name} (asked {lack['asked']:g}, free {lack['free']:g})" for name, lack in self.missing.items()
        )


def place(ask: Resources, nodes: Sequence[NodeView]) -> NodeId | NoCapacity:
    """Return the node with the most memory left among those that fit, or what is missing where none fits."""
    if not nodes:
        return NoCapacity({"nodes": {"asked": 1, "free": 0}})
    lacks = {node.id: _missing(ask, node) for node in nodes}
    fitting = [node for node in nodes if not lacks[node.id]]
    if fitting:
        return max(fitting, key=_free_memory).id
    nearest = min(nodes, key=lambda node: (len(lacks[node.id]), -_free_memory(node)))
    return NoCapacity(lacks[nearest.id])


def _missing(ask: Resources, node: NodeView) -> dict[str, dict[str, float]]:
    wanted = {"cpu": ask.cpu, "memory_mib": float(ask.memory_mib), "sandboxes": 1.0}
    free = {
        "cpu": node.cpus * CPU_OVERCOMMIT - node.reserved_cpus,
        "memory_mib": _free_memory(node),
        "sandboxes": float(node.sandboxes_max - node.sandboxes),
    }
    return {name: {"asked": wanted[name], "free": max(0.0, free[name])} for name in wanted if wanted[name] > free[name]}


def _free_memory(node: NodeView) -> float:
    return float(node.memory_mib - node.reserved_memory_mib)
