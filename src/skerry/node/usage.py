"""What one sandbox takes from the machine: from the control groups, the network card, and gVisor's own numbers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from skerry.model.errors import Error
from skerry.model.events import Events
from skerry.model.usage import MemberUsage, SandboxUsage
from skerry.node.holdings import Holdings

DEVICES: Final = Path("/sys/class/net")

log = Events("skerry.node")


async def measure(holdings: Holdings) -> SandboxUsage | None:
    """Return a sample of a running sandbox; None if it is ending."""
    inside = await _inside(holdings)
    cgroup = holdings.cgroup
    try:
        if cgroup is None:
            return None
        cpu_seconds, memory_bytes = cgroup.cpu_seconds(), cgroup.memory_bytes()
    except OSError:
        return None  # its control group has just gone
    device = None if holdings.slot is None else holdings.slot.device
    return SandboxUsage(
        id=holdings.sandbox,
        at=time.time(),
        cpu_seconds=cpu_seconds,
        memory_bytes=memory_bytes,
        file_bytes=None if inside is None else inside.file_bytes,
        processes=None if inside is None else inside.processes,
        # What goes into the machine's end of its cable comes out of the sandbox's.
        received_bytes=_counter(device, "tx_bytes"),
        sent_bytes=_counter(device, "rx_bytes"),
    )


async def _inside(holdings: Holdings) -> MemberUsage | None:
    if holdings.member is None:
        return None
    try:
        return await holdings.member.usage()
    except Error as exc:
        log.debug("sandbox.usage_unknown", sandbox=holdings.sandbox, cause=exc.message)
        return None


def _counter(device: str | None, name: str) -> int | None:
    if device is None:
        return None
    try:
        return int((DEVICES / device / "statistics" / name).read_text())
    except (OSError, ValueError):
        return None
