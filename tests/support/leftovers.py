"""What a node might leave on a machine, found by the names that only it uses."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PATIENCE_S = 3.0


def check_nothing_left(folder: Path, prefix: str) -> None:
    """Fail if anything of the node with this state folder and network prefix is left, once it had time to go."""
    deadline = time.monotonic() + PATIENCE_S
    while (found := dict(_found(folder, prefix))) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not found, f"left behind: {found}"


def _found(folder: Path, prefix: str) -> Iterator[tuple[str, list[str]]]:
    kinds = {
        "processes": [line for line in _processes() if str(folder) in line],
        "mounts": mounts_below(folder),
        "loop devices": loop_devices_of(folder),
        "cgroups": [path for path in _cgroups() if prefix in path],
        "devices": [name for name in os.listdir("/sys/class/net") if name.startswith(prefix)],
        "tables": [line for line in _tables() if line.endswith(f"_{prefix}")],
    }
    yield from ((kind, found) for kind, found in kinds.items() if found)


def mounts_below(folder: Path) -> list[str]:
    """Return the lines of what is mounted below a folder."""
    return [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(folder) in line]


def loop_devices_of(folder: Path) -> list[str]:
    """Return the files below a folder that a loop device has open."""
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            file = backing.read_text().strip()
        except OSError:
            continue
        if str(folder) in file:
            found.append(file)
    return found


def _processes() -> Iterator[str]:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            yield f"{pid} {Path(f'/proc/{pid}/cmdline').read_bytes().replace(bytes(1), b' ').decode(errors='replace')}"
        except OSError:
            continue


def _cgroups() -> Iterator[str]:
    for folder, names, _ in os.walk("/sys/fs/cgroup"):
        yield from (f"{folder}/{name}" for name in names)


def _tables() -> list[str]:
    return subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout.splitlines()
