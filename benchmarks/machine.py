"""What the figures were measured on: the host, the versions, the load."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from skerry.apps.binaries import RUNSC, binary
from skerry.node.cgroups import look
from skerry.version import version

MIB = 1 << 20


def host() -> dict[str, Any]:
    """Return what a reader needs to judge the figures."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // MIB,
        "kernel": platform.release(),
        "cgroups": look(Path("/proc/self/mountinfo")).describe(),
        "virtual": "hypervisor" in _cpuinfo("flags").split(),
    }


def versions() -> dict[str, str]:
    """Return the versions of everything that took part."""
    said = subprocess.run([binary(RUNSC), "--version"], capture_output=True, text=True, check=True).stdout
    return {
        "skerry": version(),
        "commit": _commit(),
        "runsc": said.splitlines()[0].removeprefix("runsc version "),
        "agent": _stamp("skerry-agent"),
        "launcher": _stamp("skerry-launch"),
        "python": platform.python_version(),
    }


def load() -> list[float]:
    """Return the load averages of the last minute, five and fifteen."""
    return [round(value, 2) for value in os.getloadavg()]


def _cpu_model() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(field: str) -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return ""


def _stamp(program: str) -> str:
    """Return the version that the build wrote beside a program, with the beginning of its content's hash."""
    stamp = json.loads(Path(f"{binary(program)}.json").read_text())
    return f"{stamp['version']} ({stamp['sha256'][:12]})"


def _commit() -> str:
    """Return which sources these are; a plus says that there are changes which are in no commit."""
    root = Path(__file__).resolve().parents[1]
    try:
        named = subprocess.run(
            ["git", "-C", root, "describe", "--always", "--dirty=+", "--abbrev=12"], capture_output=True, text=True
        )
    except OSError:
        return "unknown"
    return named.stdout.strip() or "unknown"
