"""Control groups: what a sandbox may take from the machine, and what it has taken.

Version 1 and hybrids, where version 2 is mounted beside it and controls nothing that we need. Version 2 alone comes
later: `detect` is the place to add it.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from skerry.model import ids
from skerry.model.errors import ConflictError, InternalError, IsolationUnavailableError
from skerry.model.ids import SandboxId
from skerry.model.limits import MIB
from skerry.node.interfaces import Cgroups

MOUNTINFO = Path("/proc/self/mountinfo")
CONTROLLERS = ("cpu", "cpuacct", "memory", "pids")
_PERIOD_US = 100_000  # the kernel's own default
_QUOTA_MIN_US = 1000  # the kernel refuses less
_REMOVE_SECONDS = 2.0
_PAUSE_SECONDS = 0.005
_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class MountedCgroups:
    """The control groups that are mounted: the folder of each version 1 controller, and of version 2 with its list."""

    v1: Mapping[str, Path]
    v2: Path | None = None
    v2_controllers: Collection[str] = ()

    def describe(self) -> str:
        """One line for people."""
        parts = [f"version 1 with {', '.join(sorted(self.v1))}"] if self.v1 else []
        if self.v2 is not None:
            parts.append(f"version 2 at {self.v2} with {', '.join(sorted(self.v2_controllers)) or 'no controller'}")
        return " and ".join(parts) or "none"


def detect(name: str, *, mountinfo: Path = MOUNTINFO) -> Cgroups:
    """Return this machine's control groups, with ours below `name` in each of them.

    Raises IsolationUnavailableError, which says what was found, for what has not been tried.
    """
    found = look(mountinfo)
    missing = [controller for controller in CONTROLLERS if controller not in found.v1]
    if not missing:
        return CgroupsV1(found, name)
    raise IsolationUnavailableError(
        f"the limits of a sandbox need the control groups {', '.join(missing)} in version 1, and this machine has "
        f"{found.describe()}; {_advice(found, missing)}"
    )


def look(mountinfo: Path) -> MountedCgroups:
    """Return what is mounted, from the kernel's own list."""
    v1: dict[str, Path] = {}
    v2: Path | None = None
    for line in mountinfo.read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        mounted = Path(_ESCAPE.sub(lambda match: chr(int(match[1], 8)), before.split(" ")[4]))
        if kind == "cgroup":
            v1 |= {option: mounted for option in options.split(" ")[-1].split(",") if option in CONTROLLERS}
        elif kind == "cgroup2" and v2 is None:
            v2 = mounted
    return MountedCgroups(v1, v2, _v2_controllers(v2))


def _v2_controllers(mounted: Path | None) -> Collection[str]:
    if mounted is None:
        return ()
    try:
        return (mounted / "cgroup.controllers").read_text().split()
    except OSError:
        return ()


def _advice(found: MountedCgroups, missing: Sequence[str]) -> str:
    if found.v2 is not None and any(controller in found.v2_controllers for controller in missing):
        return "version 2 is not supported yet: boot with systemd.unified_cgroup_hierarchy=0"
    return f"enable them in the kernel, and mount them with `mount -t cgroup -o {missing[0]} ...` where they are off"


class CgroupsV1:
    """Version 1: a folder for each sandbox in the hierarchy of each controller. Matches `Cgroups`."""

    def __init__(self, found: MountedCgroups, name: str) -> None:
        self.found = found
        self._parents = {controller: found.v1[controller] / name for controller in CONTROLLERS}

    def make(self, sandbox: SandboxId) -> CgroupV1:
        """Return a new group without limits; raises ConflictError if the sandbox has one."""
        group = self._group(sandbox)
        made: list[Path] = []
        try:
            for folder in group.folders:
                folder.parent.mkdir(parents=True, exist_ok=True)
                folder.mkdir()
                made.append(folder)
        except FileExistsError as exc:
            _undo(made)
            raise ConflictError(f"sandbox {sandbox} has a control group already; sweep first") from exc
        except OSError:
            _undo(made)
            raise
        return group

    def find(self, sandbox: SandboxId) -> CgroupV1 | None:
        """Return the group of a sandbox if any part of it is there."""
        group = self._group(sandbox)
        return group if any(folder.is_dir() for folder in group.folders) else None

    def sweep(self, keep: Collection[SandboxId]) -> Sequence[str]:
        """Remove the groups of all sandboxes that are not in `keep`, and say which."""
        lines = []
        for sandbox in sorted(self._sandboxes() - set(keep)):
            group = self._group(sandbox)
            pids = sorted(group.members())
            group.remove()
            ended = f", ended process {', '.join(map(str, pids))}" if pids else ""
            lines.append(f"cgroups: removed the control group of {sandbox}{ended}")
        return lines

    def close(self) -> None:
        """Remove our own empty folders; one that still holds a sandbox stays."""
        _undo(list(dict.fromkeys(self._parents.values())))

    def _group(self, sandbox: SandboxId) -> CgroupV1:
        return CgroupV1({name: parent / ids.body(sandbox) for name, parent in self._parents.items()})

    def _sandboxes(self) -> set[SandboxId]:
        found = set()
        for parent in set(self._parents.values()):
            for entry in _folders(parent):
                sandbox = f"{ids.SANDBOX}_{entry.name}"
                if ids.is_id(sandbox, ids.SANDBOX):
                    found.add(SandboxId(sandbox))
        return found


class CgroupV1:
    """The folders of one sandbox, by controller; controllers that are mounted together share one. Matches `Cgroup`."""

    def __init__(self, by_controller: Mapping[str, Path]) -> None:
        self._of = by_controller

    @property
    def folders(self) -> tuple[Path, ...]:
        return tuple(dict.fromkeys(self._of.values()))

    @property
    def procs(self) -> tuple[Path, ...]:
        # Not `cgroup.procs`: that moves all threads of a process, and waits 10 ms until none on the machine forks.
        return tuple(folder / "tasks" for folder in self.folders)

    def limit(self, *, memory_mib: int, cpus: float, processes: int) -> None:
        self._limit_memory(memory_mib * MIB)
        quota = max(_QUOTA_MIN_US, round(cpus * _PERIOD_US))
        _write(self._of["cpu"] / "cpu.cfs_period_us", _PERIOD_US)
        _write(self._of["cpu"] / "cpu.cfs_quota_us", quota)
        _write(self._of["pids"] / "pids.max", processes)

    def oom_kills(self) -> int:
        return _field(self._of["memory"] / "memory.oom_control", "oom_kill")

    def memory_bytes(self) -> int:
        return _read(self._of["memory"] / "memory.usage_in_bytes")

    def memory_peak_bytes(self) -> int:
        return _read(self._of["memory"] / "memory.max_usage_in_bytes")

    def cpu_seconds(self) -> float:
        return _read(self._of["cpuacct"] / "cpuacct.usage") / 1e9

    def members(self) -> Collection[int]:
        pids: set[int] = set()
        for folder in self.folders:
            with contextlib.suppress(FileNotFoundError, OSError):
                pids |= set(map(int, (folder / "cgroup.procs").read_text().split()))
        return pids

    def remove(self) -> None:
        deadline = time.monotonic() + _REMOVE_SECONDS
        while not self._removed():
            for pid in self.members():
                self._kill(pid)
            if time.monotonic() > deadline:
                raise InternalError(
                    f"the control group {self.folders[0]} does not go; it holds processes "
                    f"{sorted(self.members())}, see /proc/PID/stack of each"
                )
            time.sleep(_PAUSE_SECONDS)

    def _removed(self) -> bool:
        for folder in self.folders:
            # EBUSY while a process is in it, or has just ended
            with contextlib.suppress(OSError):
                folder.rmdir()
        return not any(folder.exists() for folder in self.folders)

    def _kill(self, pid: int) -> None:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            # Only now is the pid certain to be that of a process in the group, and of no other one later.
            if pid in self.members():
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass
        finally:
            os.close(pidfd)

    def _limit_memory(self, limit: int) -> None:
        # Memory and swap together may never be below memory alone, so the order depends on the way that they go. Equal
        # limits mean no swap: a sandbox that swaps is slow for its neighbours too.
        memory = self._of["memory"] / "memory.limit_in_bytes"
        both = self._of["memory"] / "memory.memsw.limit_in_bytes"
        if not both.exists():  # the kernel keeps no account of swap
            _write(memory, limit)
        elif limit <= _read(both):
            _write(memory, limit)
            _write(both, limit)
        else:
            _write(both, limit)
            _write(memory, limit)


def _write(file: Path, value: int) -> None:
    try:
        file.write_text(str(value))
    except OSError as exc:
        raise InternalError(f"cannot write {value} to {file}: {exc.strerror}") from exc


def _read(file: Path) -> int:
    return int(file.read_text())


def _field(file: Path, name: str) -> int:
    for line in file.read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    raise InternalError(f"{file} has no line {name}; the kernel is older than 4.13")


def _folders(parent: Path) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError):
        yield from (entry for entry in parent.iterdir() if entry.is_dir())


def _undo(folders: Sequence[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
