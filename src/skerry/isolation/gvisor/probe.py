"""Whether gVisor can run here, and if not, why and what to do."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

from skerry.model.errors import IsolationUnavailableError

# The launcher calls close_range, which is younger than all else that it, gVisor and the pidfds need.
KERNEL_MIN = (5, 9)
MACHINES = ("x86_64", "aarch64")

# What the kernel says when it refuses, and what mends it.
_ADVICE = (
    ("new namespaces", "allow user namespaces: `sysctl -w user.max_user_namespaces=15000`; in a container, run it "
                       "privileged"),
    ("cannot mount", "run the server with CAP_SYS_ADMIN; in a container, run it privileged"),
    ("uid_map", "run the server with CAP_SETUID and CAP_SETGID"),
    ("gid_map", "run the server with CAP_SETUID and CAP_SETGID"),
    ("/cgroup", "let the server write to the control groups; in a container, mount them writable"),
    ("No space left", "free space in the server's runtime folder"),
)  # fmt: skip
_OTHERWISE = "run `skerry doctor` to see what this machine lacks"


def check_machine(*, programs: Sequence[Path], images: Sequence[Path]) -> None:
    """Raise IsolationUnavailableError for what can be told without starting anything."""
    files = (*map(_missing, (*programs, *images)), *map(_not_executable, programs))
    for reason in (_kernel(), _user(), _user_namespaces(), _seccomp(), *files):
        if reason is not None:
            raise IsolationUnavailableError(f"gVisor cannot run here: {reason}")


def unavailable(cause: str) -> IsolationUnavailableError:
    """The error for a sandbox that was tried and did not start."""
    advice = next((what for sign, what in _ADVICE if sign in cause), _OTHERWISE)
    return IsolationUnavailableError(f"gVisor cannot run here: a sandbox did not start ({cause}); {advice}")


def _kernel() -> str | None:
    system, release, machine = platform.system(), platform.release(), platform.machine()
    if system != "Linux" or machine not in MACHINES:
        return f"this is {system} on {machine}; use Linux on {' or '.join(MACHINES)}"
    numbers = re.match(r"(\d+)\.(\d+)", release)
    if numbers is None or tuple(map(int, numbers.groups())) < KERNEL_MIN:
        return f"the kernel is {release}; boot {'.'.join(map(str, KERNEL_MIN))} or later"
    return None


def _user() -> str | None:
    if os.geteuid() != 0:
        return f"the server runs as user {os.geteuid()}; run it as root"
    return None


def _user_namespaces() -> str | None:
    try:
        allowed = Path("/proc/sys/user/max_user_namespaces").read_text().strip()
    except FileNotFoundError:
        return "the kernel was built without user namespaces; boot one with CONFIG_USER_NS"
    if allowed == "0":
        return "user namespaces are switched off; switch them on: `sysctl -w user.max_user_namespaces=15000`"
    return None


def _seccomp() -> str | None:
    if "\nSeccomp:" not in Path("/proc/self/status").read_text():
        return "the kernel was built without seccomp; boot one with CONFIG_SECCOMP_FILTER"
    return None


def _missing(path: Path) -> str | None:
    return None if path.exists() else f"{path} is missing; build it with `make setup`, or install the package again"


def _not_executable(path: Path) -> str | None:
    if os.access(path, os.X_OK):
        return None
    return f"{path} cannot be executed; `chmod +x {path}`, and see that its file system is not mounted noexec"
