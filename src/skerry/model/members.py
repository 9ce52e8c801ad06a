"""What a node asks of a backend: a member to boot, an image to start in it, and what is known when it ends.

A *member* is a booted sandbox whose root container is only the keeper. A *claim* starts the user's image in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from skerry.model.ids import SandboxId


@dataclass(frozen=True, kw_only=True)
class MountedVolume:
    """A volume at `target` of the user's container: a folder of the machine that several sandboxes may write to."""

    folder: Path
    target: str
    read_only: bool = False


@dataclass(frozen=True, kw_only=True)
class MemberSpec:
    """A member to boot. `cgroup_procs` are the files in which its processes join before they execute anything."""

    sandbox: SandboxId
    cgroup_procs: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Upper:
    """The writable layer over an image: in memory, or on disk in an unlinked file under `disk_folder`."""

    size_mib: int
    disk_folder: Path | None = None


@dataclass(frozen=True, kw_only=True)
class ExtraImage:
    """One more EROFS image mounted read-only in the sandbox."""

    image: Path
    target: str


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The user's container: its root file system and the sizes of what is writable. Sizes in MiB."""

    image: Path
    upper: Upper
    tmp_mib: int
    shm_mib: int
    extra_images: tuple[ExtraImage, ...] = ()
    hostname: str = "sandbox"


@dataclass(frozen=True, kw_only=True)
class Nic:
    """A network card to plug: a packet socket already open in the slot's namespace, and what the guest sees.

    Addresses are dotted IPv4; the gateway is reached directly, whatever the prefix.
    """

    socket_fd: int
    address: str
    gateway: str
    mac: str
    gateway_mac: str
    mtu: int = 1500


@dataclass(frozen=True, kw_only=True)
class MemberRecord:
    """What a successor of the node needs to find a member again; plain data, kept in the node's own folder."""

    sandbox: SandboxId
    container_id: str
    control_socket: str
    pid: int
    pid_start: int  # field 22 of /proc/PID/stat: a pid alone may have been given to another process
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AgentPipes:
    """The node's ends of the two pipes to the agent, both non-blocking and owned by who receives this."""

    reader_fd: int
    writer_fd: int
