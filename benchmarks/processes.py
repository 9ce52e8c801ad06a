"""Processes of the machine: whose they are, and the memory that they take."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

KIB = 1024


def marked(mark: str) -> set[int]:
    """Return every process with an argument that contains `mark`, and all that descend from one."""
    return with_descendants(pid for pid in pids() if any(mark in word for word in arguments(pid)))


def with_descendants(roots: Iterable[int]) -> set[int]:
    children: dict[int, list[int]] = defaultdict(list)
    for pid in pids():
        children[parent(pid)].append(pid)
    found: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting.extend(children[pid])
    return found


def pids() -> Iterator[int]:
    return map(int, filter(str.isdigit, os.listdir("/proc")))


def arguments(pid: int) -> list[str]:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return raw.decode(errors="replace").split("\0")


def parent(pid: int) -> int:
    return int(_status(pid).get("PPid", "0"))


def kind(pid: int) -> str:
    """Return what a process is to a gVisor sandbox: its sentry, its gofer, or a stub that lends it an address space."""
    words = arguments(pid)
    if "boot" in words:
        return "sentry"
    return "gofer" if "gofer" in words else "stub"


def pss_mib(pid: int) -> float:
    """Return the proportional set size: memory that it shares counts by its share. 0 for one that has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / KIB for line in text.splitlines() if line.startswith("Pss:")), 0.0)


def rss_mib(pid: int) -> float:
    return _mib(pid, "VmRSS")


def peak_rss_mib(pid: int) -> float:
    """Return the highest resident set since `forget_peak`."""
    return _mib(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # proc(5): resets VmHWM to the current value


def descriptors(pid: int) -> list[str]:
    """Return what each open descriptor refers to."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
        except OSError:
            continue  # that of the listing itself
    return found


def _mib(pid: int, field: str) -> float:
    return int(_status(pid)[field].split()[0]) / KIB


def _status(pid: int) -> dict[str, str]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
