"""What tools/bare_root.py runs in new namespaces: mounts, a change of root, and the command.

Not for use by hand. Reads a plan (JSON) and two descriptors: it says on the first that the namespaces exist,
and goes on when the second is closed, by which time the network is there. It is PID 1 in there: it reaps what
others leave, and when it exits the kernel ends everything else.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

HOSTNAME = "bare"
CGROUP_FOLDER = "sys/fs/cgroup"


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def mount_system(root: Path) -> None:
    """Mount what a booted machine has: /proc, /sys, /dev, /run."""
    mount("-t", "proc", "proc", str(root / "proc"))
    mount("-t", "sysfs", "sysfs", str(root / "sys"))
    mount("--bind", "/dev", str(root / "dev"))
    mount("-t", "devpts", "-o", "newinstance,ptmxmode=0666", "devpts", str(root / "dev/pts"))
    mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", str(root / "dev/shm"))
    mount("-t", "tmpfs", "-o", "mode=0755", "tmpfs", str(root / "run"))


def mount_cgroups(root: Path, cgroups: list[dict[str, str]]) -> None:
    """Mount the machine's cgroup trees; in this namespace each begins at the cgroup that was made for us."""
    top = root / CGROUP_FOLDER
    if all(cgroup["below"] for cgroup in cgroups):
        mount("-t", "tmpfs", "-o", "mode=0755", "tmpfs", str(top))
    for cgroup in cgroups:
        target = top / cgroup["below"]
        target.mkdir(exist_ok=True)
        options = ["-o", cgroup["options"]] if cgroup["options"] else []
        mount("-t", cgroup["type"], *options, cgroup["type"], str(target))
        if cgroup["type"] == "cgroup2":
            # Version 2 gives controllers only to children of a cgroup without processes, as the root of a machine is.
            (target / "init").mkdir()
            (target / "init" / "cgroup.procs").write_text(str(os.getpid()))


def mount_folders(root: Path, folders: list[dict[str, str]]) -> None:
    """Mount the machine's toolchains read-only, and its caches under a layer that is thrown away."""
    for folder in folders:
        target = root / folder["target"].lstrip("/")
        target.mkdir(parents=True, exist_ok=True)
        if folder["layer"]:
            upper, work = Path(folder["layer"]) / "upper", Path(folder["layer"]) / "work"
            upper.mkdir(parents=True)
            work.mkdir()
            layers = f"lowerdir={folder['source']},upperdir={upper},workdir={work}"
            mount("-t", "overlay", "-o", layers, "overlay", str(target))
        else:
            mount("--bind", "-o", "ro", folder["source"], str(target))


def change_root(root: Path) -> None:
    """Make it the root of this mount namespace; a chroot would not do, it forbids user namespaces (clone(2))."""
    os.chdir(root)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.pivot_root(b".", b".") != 0:
        raise OSError(ctypes.get_errno(), f"cannot make {root} the root")
    # The old root now lies over the new one (pivot_root(2), "pivot_root(".", ".")").
    subprocess.run(["umount", "--lazy", "."], check=True)
    os.chdir("/")


def run(command: str, folder: str, env: dict[str, str]) -> int:
    """Run the command to its end, reaping whatever else ends meanwhile; return its exit status."""
    child = subprocess.Popen(["bash", "-c", command], cwd=folder, env=env, stdin=subprocess.DEVNULL)
    while True:
        pid, status = os.wait()
        if pid == child.pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def main() -> int:
    plan: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    ready, go = int(sys.argv[2]), int(sys.argv[3])
    # Ctrl-C is the parent's: it ends this namespace. A handler, since what is ignored stays so in the command.
    signal.signal(signal.SIGINT, lambda *_: None)
    os.umask(0o022)
    root = Path(plan["root"])
    os.write(ready, b"1")
    os.close(ready)
    os.read(go, 1)
    os.close(go)
    socket.sethostname(HOSTNAME)
    mount("--bind", str(root), str(root))  # pivot_root wants a mount point
    mount_system(root)
    mount_cgroups(root, plan["cgroups"])
    mount_folders(root, plan["folders"])
    change_root(root)
    return run(plan["command"], plan["workdir"], plan["env"])


if __name__ == "__main__":
    sys.exit(main())
