"""Which node gets a sandbox: a plain decision over what is known of the nodes, and what was decided already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from skerry.engine.interfaces import NodeHandle, NodeView
from skerry.model.errors import ResourceExhaustedError
from skerry.model.ids import NodeId, SandboxId
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


class Places:
    """The places given to sandboxes that their nodes do not count yet."""

    def __init__(self, nodes: Mapping[NodeId, NodeHandle]) -> None:
        self._nodes = nodes
        self._given: dict[SandboxId, tuple[NodeId, Resources]] = {}

    def take(self, sandbox: SandboxId, ask: Resources) -> NodeId:
        """Choose a node and hold the room there until `release`; raises ResourceExhaustedError."""
        chosen = place(ask, [self._with_given(node.view()) for node in self._nodes.values()])
        if isinstance(chosen, NoCapacity):
            raise ResourceExhaustedError(
                f"the machine has no room for this sandbox: {chosen}; terminate others or ask for less",
                missing={name: dict(lack) for name, lack in chosen.missing.items()},
            )
        self._given[sandbox] = (chosen, ask)
        return chosen

    def release(self, sandbox: SandboxId) -> None:
        """Let go of the room, if it is held."""
        self._given.pop(sandbox, None)

    def _with_given(self, view: NodeView) -> NodeView:
        given = [ask for node, ask in self._given.values() if node == view.id]
        return replace(
            view,
            reserved_cpus=view.reserved_cpus + sum(ask.cpu for ask in given),
            reserved_memory_mib=view.reserved_memory_mib + sum(ask.memory_mib for ask in given),
            sandboxes=view.sandboxes + len(given),
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
