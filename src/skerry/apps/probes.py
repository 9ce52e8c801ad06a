"""What a machine needs for sandboxes, looked at piece by piece. Each probe works alone, whatever else is missing."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from skerry.apps.binaries import AGENT, IMAGE_HELPER, LAUNCHER, RUNSC, place, restored_by
from skerry.client.autostart import SERVER_PATH, group_name
from skerry.client.settings import server_address
from skerry.model.places import SERVER_LOG, data_dir
from skerry.node.cgroups import CONTROLLERS, MOUNTINFO, look
from skerry.node.network.others import look_at_others

Status = Literal["ok", "note", "missing"]

KERNEL_MIN: Final = (5, 14)  # cgroup.kill, and everything older that is used
DISK_MIN_GIB: Final = 5.0
MEMORY_MIN_GIB: Final = 1.0
LOOP_CONTROL: Final = Path("/dev/loop-control")
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000


@dataclass(frozen=True)
class Finding:
    """What a probe found. `mend` is the command that helps, where one does."""

    status: Status
    text: str
    mend: str = ""


def kernel() -> Finding:
    system, machine = platform.system(), platform.machine()
    match = re.match(r"(\d+)\.(\d+)", platform.release())
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    text = f"{system} {platform.release()} on {machine}"
    if system != "Linux" or machine != "x86_64":
        return Finding("missing", f"{text}; sandboxes need Linux on x86_64", "use another machine")
    if version < KERNEL_MIN:
        needed = ".".join(map(str, KERNEL_MIN))
        return Finding("missing", f"{text}; {needed} is needed", "apt full-upgrade, then reboot")
    return Finding("ok", text)


def root() -> Finding:
    if os.geteuid() == 0:
        return Finding("ok", "you are root and may start the local server")
    group = group_name()
    return Finding(
        "note",
        f"you are uid {os.geteuid()}: you can use a server that root shares with your group, but not start one",
        f"sudo skerry server --group {group}",
    )


def runsc() -> Finding:
    path = place(RUNSC)
    if _closed_to_us(path):
        return _only_root(path)
    if not path.exists():
        return Finding("missing", f"{path} is not built", restored_by("make setup"))
    answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=0.9)
    if answer.returncode:
        return Finding("missing", f"{path} does not run: {_last_line(answer.stderr)}", restored_by("make clean setup"))
    return Finding("ok", answer.stdout.splitlines()[0])


def agent() -> Finding:
    closed = [path for path in map(place, (AGENT, LAUNCHER, IMAGE_HELPER)) if _closed_to_us(path)]
    if closed:
        return _only_root(closed[0])
    missing = [name for name in (AGENT, LAUNCHER, IMAGE_HELPER) if not os.access(place(name), os.X_OK)]
    if missing:
        return Finding("missing", f"not built: {', '.join(missing)} (in {place('')})", restored_by("make setup"))
    return Finding("ok", "the agent, the launcher and the image helper are built")


def user_namespaces() -> Finding:
    _unshare(_CLONE_NEWUSER)
    return Finding("ok", "user namespaces can be made")


def network_namespaces() -> Finding:
    if os.geteuid() != 0:
        return Finding("note", "only root can make network namespaces; the server does", "sudo skerry doctor")
    _unshare(_CLONE_NEWNET)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE):
        return Finding("ok", "network namespaces can be made, and netlink answers")


def cgroups() -> Finding:
    found = look(MOUNTINFO)
    lacking = [name for name in CONTROLLERS if name not in found.v1]
    if lacking:
        have = f"; version 2 is at {found.v2}, which is not used yet" if found.v2 else ""
        return Finding(
            "missing",
            f"the control groups {', '.join(lacking)} are not mounted in version 1{have}",
            "boot with systemd.unified_cgroup_hierarchy=0",
        )
    if os.geteuid() == 0 and not all(os.access(folder, os.W_OK) for folder in found.v1.values()):
        mend = f"mount -o remount,rw {found.v1['memory']}"
        return Finding("missing", "the control groups are mounted read-only", mend)
    return Finding("ok", f"version 1 with {', '.join(CONTROLLERS)}")


def nftables() -> Finding:
    try:
        library = ctypes.CDLL("libnftables.so.1")
    except OSError:
        return Finding("missing", "libnftables is not installed", "apt-get install --yes libnftables1")
    if os.geteuid() != 0:
        return Finding("note", "libnftables is there; whether the kernel has nf_tables only root can tell")
    _unshare(_CLONE_NEWNET)  # what is tried here is gone with this child
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    library.nft_ctx_buffer_error.argtypes = [ctypes.c_void_p]
    context = library.nft_ctx_new(0)
    library.nft_ctx_buffer_error(context)
    if library.nft_run_cmd_from_buffer(context, b"add table ip skerry_probe"):
        return Finding("missing", "the kernel has no nf_tables, or does not let us use it", "modprobe nf_tables")
    return Finding("ok", "libnftables and the kernel's nf_tables work")


def ip_forward() -> Finding:
    path = Path("/proc/sys/net/ipv4/ip_forward")
    value = path.read_text().strip()
    if value == "1":
        return Finding("ok", "packets are forwarded already")
    if os.geteuid() == 0 and not os.access(path, os.W_OK):
        return Finding(
            "missing", "packets are not forwarded, and that cannot be changed here", "sysctl -w net.ipv4.ip_forward=1"
        )
    return Finding("ok", "packets are not forwarded; the server turns it on while it runs and off again")


def other_firewalls() -> Finding:
    if os.geteuid() != 0:
        return Finding("note", "only root can see other firewalls; the server does", "sudo skerry doctor")
    helped, helpless = look_at_others()
    if helpless:
        return Finding(
            "note",
            f"{', '.join(helpless)}: drops what it does not know, and the server cannot change it",
            "accept there what comes from, or answers to, the devices sk*; see docs/operate/network.md",
        )
    if helped:
        return Finding("ok", f"the server has sandboxes accepted in {', '.join(helped)} while it runs")
    return Finding("ok", "no other firewall drops what sandboxes send")


def disk() -> Finding:
    folder = data_dir(os.environ)
    try:
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    except PermissionError:
        return _only_root(folder)
    free = shutil.disk_usage(existing).free / 2**30
    text = f"{free:.1f} GiB free for {folder}"
    if free < DISK_MIN_GIB:
        return Finding(
            "missing",
            f"{text}; {DISK_MIN_GIB:.0f} GiB are needed for images and output",
            "export SKERRY_DATA_DIR=/big/disk",
        )
    return Finding("ok", text)


def memory() -> Finding:
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    total, available = (int(fields[name].split()[0]) / 2**20 for name in ("MemTotal", "MemAvailable"))
    text = f"{available:.1f} of {total:.1f} GiB are free"
    if available < MEMORY_MIN_GIB:
        return Finding("missing", f"{text}; {MEMORY_MIN_GIB:.0f} GiB should be", "end other programs")
    return Finding("ok", text)


def image_tools() -> Finding:
    packages = {"mkfs.erofs": "erofs-utils", "mmdebstrap": "mmdebstrap"}
    lacking = [package for tool, package in packages.items() if shutil.which(tool, path=SERVER_PATH) is None]
    if lacking:
        text = f"not installed: {', '.join(lacking)}, which build images"
        return Finding("missing", text, f"apt-get install --yes {' '.join(lacking)}")
    return Finding("ok", "mmdebstrap and mkfs.erofs are there")


def volumes() -> Finding:
    packages = {"mkfs.ext4": "e2fsprogs", "mount": "mount"}
    lacking = [package for tool, package in packages.items() if shutil.which(tool, path=SERVER_PATH) is None]
    if lacking:
        return Finding(
            "note", f"not installed: {', '.join(lacking)}; there can be no volumes", f"apt-get install {lacking[0]}"
        )
    if not LOOP_CONTROL.exists():
        return Finding("note", f"there is no {LOOP_CONTROL}: there can be no volumes", "modprobe loop")
    if "ext4" not in Path("/proc/filesystems").read_text():
        return Finding("note", "the kernel knows no ext4: there can be no volumes", "modprobe ext4")
    return Finding("ok", "loop devices, ext4 and its tools are there")


def images() -> Finding:
    folder = data_dir(os.environ) / "images"
    try:
        built = sum(path.suffix == ".erofs" for path in folder.iterdir())
    except FileNotFoundError:
        built = 0
    except PermissionError:
        return _only_root(folder)
    if built:
        return Finding("ok", f"{built} built in {folder}")
    return Finding("note", "not built yet; the first sandbox builds it in a minute or two", "skerry create")


def server() -> Finding:
    """Ask the server that this program would use, without starting one."""
    path = server_address(autostart=False).socket
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.settimeout(0.8)
        try:
            peer.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            mend = "" if os.geteuid() == 0 else f"sudo skerry server --group {group_name()}"
            return Finding("note", f"none listens on {path}; root's first command starts one", mend)
        except PermissionError:
            return Finding(
                "missing", f"you may not use the one on {path}", f"sudo skerry server --group {group_name()}"
            )
        _, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid not in (0, os.geteuid()):
            return Finding("missing", f"the one on {path} runs as uid {uid} and is not trusted", "unset SKERRY_URL")
        peer.sendall(b"GET /v1/health HTTP/1.1\r\nHost: skerry\r\nConnection: close\r\n\r\n")
        if not peer.recv(4096).startswith(b"HTTP/1.1 200"):
            return Finding(
                "missing", f"the one on {path} answers, but is not well", f"see {data_dir(os.environ) / SERVER_LOG}"
            )
    return Finding("ok", f"one answers on {path}")


PROBES: Final[dict[str, Callable[[], Finding]]] = {
    "kernel": kernel,
    "root": root,
    "runsc": runsc,
    "agent": agent,
    "user namespaces": user_namespaces,
    "network namespaces": network_namespaces,
    "control groups": cgroups,
    "nftables": nftables,
    "ip forwarding": ip_forward,
    "other firewalls": other_firewalls,
    "disk": disk,
    "memory": memory,
    "image tools": image_tools,
    "volumes": volumes,
    "images": images,
    "server": server,
}
# What helps when a probe fails in a way that it does not know.
MENDS: Final[dict[str, str]] = {
    "user namespaces": "sysctl -w user.max_user_namespaces=15000",
    "network namespaces": "sysctl -w user.max_net_namespaces=15000",
    "runsc": restored_by("make clean setup"),
    "server": "SKERRY_TRACEBACK=1 skerry version",
}


def as_data(probe: Callable[[], Finding]) -> dict[str, str]:
    """Return what a probe found as plain data, to cross from a child."""
    return asdict(probe())


def _closed_to_us(program: Path) -> bool:
    """Tell whether a program is, or may be, there and root's alone: the server runs as root and can use it."""
    try:
        return os.geteuid() != 0 and program.exists() and not os.access(program, os.X_OK)
    except PermissionError:
        return True


def _only_root(path: Path) -> Finding:
    return Finding("note", f"only root can look into {path}; the server does", "sudo skerry doctor")


def _unshare(flags: int) -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]
