"""What sandboxes might leave on a machine, counted so that two moments can be compared."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PATIENCE_S = 3.0


@dataclass(frozen=True)
class Leftovers:
    """Processes, mounts, cgroups, devices, namespaces and descriptors of this process, by what names them."""

    processes: frozenset[str]
    mounts: frozenset[str]
    cgroups: frozenset[str]
    devices: frozenset[str]
    namespaces: frozenset[str]
    descriptors: int

    @classmethod
    def find(cls) -> Leftovers:
        return cls(
            processes=frozenset(_processes()),
            mounts=frozenset(Path("/proc/self/mounts").read_text().splitlines()),
            cgroups=frozenset(_cgroups()),
            devices=frozenset(os.listdir("/sys/class/net")),
            namespaces=frozenset(_listed("/run/netns")),
            descriptors=len(os.listdir("/proc/self/fd")),
        )

    def check(self, *, descriptors: bool = False) -> None:
        """Fail if there is more than there was, once what ends slowly had time to."""
        deadline = time.monotonic() + PATIENCE_S
        while (more := self._more(Leftovers.find(), descriptors)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not more, f"left behind: {more}"

    def _more(self, now: Leftovers, descriptors: bool) -> dict[str, object]:
        found: dict[str, object] = {
            name: sorted(getattr(now, name) - getattr(self, name))
            for name in ("processes", "mounts", "cgroups", "devices", "namespaces")
        }
        if descriptors:
            found["descriptors"] = max(0, now.descriptors - self.descriptors)
        return {name: value for name, value in found.items() if value}


def _processes() -> Iterator[str]:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if "runsc" in line or "skerry-agent" in line:
            yield f"{pid} {line[:120]}"


def _cgroups() -> Iterator[str]:
    for folder, names, _ in os.walk("/sys/fs/cgroup"):
        for name in names:
            if "skerry" in name or name.startswith(("sb_", "sb-")):
                yield f"{folder}/{name}"


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
