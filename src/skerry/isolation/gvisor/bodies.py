"""What is said to the sentry: the specs, the Conf, the mounts and the links, as plain data made by pure functions.

The shapes are gVisor's own Go types of the pinned build; `shapes.json` beside this file describes them, and a test
compares every body below with it, because the sentry ignores a field that it does not know.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

from skerry.isolation.gvisor.shapes import default_conf
from skerry.model.members import Claim, MountedVolume, Nic, Upper

Body = dict[str, Any]

KEEPER_ARGV = ("/skerry-agent", "keep")
AGENT_FOLDER = "/.skerry"
AGENT_PATH = f"{AGENT_FOLDER}/agent"
RUN_MIB = 64  # /run holds sockets, locks and what the agent binds over /etc
_MEMBER_TMP_MIB = 1  # the keeper writes nothing

_TMP, _SHM = "/tmp", "/dev/shm"  # noqa: S108 - the sandbox's own
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# What a process in a container usually may do (Docker's default set). gVisor takes NET_RAW away while raw sockets are
# off, so it is left out here.
CONTAINER_CAPABILITIES = (
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)
# What the agent needs beyond it, and drops from the bounding set of its children: SYS_ADMIN to set the hostname, bind
# /etc/hosts and the like, and mount the sandbox's own cgroups; SYS_RESOURCE to raise limits for the processes that it
# starts. Having more than any other process also keeps PID 1 out of the guest root's reach.
AGENT_CAPABILITIES = (*CONTAINER_CAPABILITIES, "CAP_SYS_ADMIN", "CAP_SYS_RESOURCE")

# The numbers of capabilities in capability.h, for calls that take a mask.
_CAPABILITY_BITS = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_FOWNER": 3,
    "CAP_FSETID": 4,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_SETPCAP": 8,
    "CAP_NET_BIND_SERVICE": 10,
    "CAP_SYS_CHROOT": 18,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_RESOURCE": 24,
    "CAP_MKNOD": 27,
    "CAP_AUDIT_WRITE": 29,
    "CAP_SETFCAP": 31,
}

# Numbers of gVisor's enumerations (runsc/config and runsc/specutils/gofer_conf.go).
_NETWORK_NONE = 2
_HOST_SETTINGS_IGNORE = 2
_QDISC_FIFO = 1
_CGROUP_V2 = 1
_LISAFS, _EROFS = 1, 2
_NO_OVERLAY, _MEMORY_OVERLAY, _ANONYMOUS_OVERLAY = 0, 1, 3

_GSO_BYTES = 65536


def conf() -> Body:
    """The Conf that a claim carries: that of the member's own flags (see sentry.FLAGS), field by field."""
    return {
        **default_conf(),
        "Network": _NETWORK_NONE,
        "HostSettings": _HOST_SETTINGS_IGNORE,
        "IgnoreCgroups": True,
        "DirectFS": False,
        "AllowSUID": True,
        "InSandboxCgroup": _CGROUP_V2,
        "Platform": "systrap",
        "ControlRPCStopTimeout": 0,
    }


def member_spec() -> Body:
    """The OCI spec of a member: the keeper on the tiny image. It needs no capability and no writable byte of disk."""
    return {
        "ociVersion": "1.2.0",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": list(KEEPER_ARGV),
            "env": [],
            "cwd": "/",
            "capabilities": _capabilities(()),
            "noNewPrivileges": True,
        },
        "root": {"path": "/", "readonly": True},
        "mounts": [
            _mount("/proc", "proc", "nosuid", "noexec"),
            _tmpfs("/dev", 0o755, _MEMBER_TMP_MIB, "nosuid", "noexec"),
            _tmpfs(_TMP, 0o1777, _MEMBER_TMP_MIB, "nosuid", "noexec"),
        ],
        "annotations": {
            "io.kubernetes.cri.container-type": "sandbox",
            # Checkpoints find their containers by these names.
            "io.kubernetes.cri.container-name": "keeper",
        },
        "linux": {"namespaces": _namespaces()},
    }


def gofer_spec(volumes: Sequence[MountedVolume], container_id: str) -> Body:
    """The OCI spec for a gofer: of a container on an image, so that it serves nothing but the volumes."""
    return {
        "ociVersion": "1.2.0",
        "process": {"user": {"uid": 0, "gid": 0}, "args": [AGENT_PATH], "cwd": "/"},
        "root": {"path": "/", "readonly": True},
        "mounts": [{**_volume(one), "source": str(one.folder)} for one in volumes],
        "annotations": {
            "io.kubernetes.cri.container-type": "container",
            "io.kubernetes.cri.sandbox-id": container_id,
        },
        "linux": {"namespaces": _namespaces()},
    }


def claim_arguments(claim: Claim, *, member_id: str, container_id: str, volumes: Sequence[MountedVolume] = ()) -> Body:
    """The argument of StartSubcontainer. The descriptors beside it are, in this order: stdin, stdout, stderr, the file
    behind the upper layer if it is on disk, the image, the agent's image, the extra images, a socket to the gofer for
    each volume."""
    extra = [_mount(image.target, "erofs", "ro") for image in claim.extra_images]
    return {
        "CID": container_id,
        "Spec": _container_spec(claim, member_id, [*extra, *map(_volume, volumes)]),
        "Conf": conf(),
        "NumGoferFilestoreFDs": 1 if claim.upper.disk_folder is not None else 0,
        "IsDevIoFilePresent": False,
        "IsRootfsUpperTarFilePresent": False,
        "GoferMountConfs": [
            _root_layers(claim.upper),
            *({"lower": _EROFS, "upper": _NO_OVERLAY} for _ in range(1 + len(extra))),
            *({"lower": _LISAFS, "upper": _NO_OVERLAY} for _ in volumes),
        ],
    }


def attach_arguments(container_id: str) -> Body:
    """The argument of ExecuteAsync for `agent attach`, with its stdin, stdout and stderr beside it."""
    mask = sum(1 << _CAPABILITY_BITS[name] for name in AGENT_CAPABILITIES)
    return {
        "ContainerID": container_id,
        "argv": [AGENT_PATH, "attach"],
        "envv": [_PATH],
        "wd": "/",
        "KUID": 0,
        "KGID": 0,
        "GuestFDs": [0, 1, 2],
        "StdioIsPty": False,
        "Capabilities": {
            "PermittedCaps": mask,
            "EffectiveCaps": mask,
            "BoundingCaps": mask,
            "InheritableCaps": 0,
            "AmbientCaps": 0,
        },
    }


def loopback() -> Body:
    """The argument of SetNetworkArgs: a member starts with its loopback alone."""
    return _links(
        loopbacks=[
            {
                "Name": "lo",
                "Addresses": [{"Address": "127.0.0.1", "PrefixLen": 8}, {"Address": "::1", "PrefixLen": 128}],
                "Routes": [_route("127.0.0.0/8"), _route("::1/128")],
                "GVisorGRO": False,
            }
        ]
    )


def card(nic: Nic, *, segmentation: bool) -> Body:
    """The argument of CreateLinksAndRoutes, with the packet socket beside it. It replaces the whole route table.

    `segmentation` says that the socket carries virtio headers, so that the sentry may hand over 64 KiB at a time.
    """
    gateway = {"IP": nic.gateway, "HardwareAddr": _bytes(bytes.fromhex(nic.gateway_mac.replace(":", "")))}
    link = {
        "Name": "eth0",
        "InterfaceIndex": 0,
        "MTU": nic.mtu,
        "Addresses": [{"Address": nic.address, "PrefixLen": 32}],
        "Routes": [_route(f"{nic.gateway}/32")],
        "GSOMaxSize": _GSO_BYTES if segmentation else 0,
        "GVisorGSOEnabled": False,
        "GVisorGRO": False,
        "TXChecksumOffload": False,
        "RXChecksumOffload": True,
        "LinkAddress": _bytes(bytes.fromhex(nic.mac.replace(":", ""))),
        "QDisc": _QDISC_FIFO,
        "TBFRate": 0,
        "TBFBurst": 0,
        "Neighbors": [gateway],
        "NumChannels": 1,
        "ProcessorsPerChannel": 0,
        # The sentry's filter forbids what it would need to find these out and set them itself.
        "IsPacket": [True],
        "PreConfigured": True,
    }
    default = {"Route": _route("0.0.0.0/0", nic.gateway), "Name": "eth0"}
    return _links(cards=[link], default_v4=default)


def _container_spec(claim: Claim, member_id: str, extra: Sequence[Body]) -> Body:
    return {
        "ociVersion": "1.2.0",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": [AGENT_PATH],
            "env": [_PATH],
            "cwd": "/",
            "capabilities": _capabilities(AGENT_CAPABILITIES),
            # sudo must work for who asks for it; the agent sets it for each process that does not.
            "noNewPrivileges": False,
        },
        "root": {"path": "/", "readonly": False},
        "hostname": claim.hostname,
        "mounts": [*_container_mounts(claim), *extra],
        "annotations": {
            "io.kubernetes.cri.container-type": "container",
            "io.kubernetes.cri.sandbox-id": member_id,
            "io.kubernetes.cri.container-name": "main",
        },
        "linux": {"namespaces": _namespaces()},
    }


def _container_mounts(claim: Claim) -> list[Body]:
    # Every tmpfs has a size: without one, a guest that fills it takes the sandbox down instead of getting ENOSPC.
    return [
        _mount("/proc", "proc", "nosuid", "noexec"),
        _mount("/sys", "sysfs", "nosuid", "noexec", "ro"),
        # It takes no size. Read-only, its devices work as ever, and nothing can grow in it.
        _mount("/dev", "dev", "nosuid", "ro"),
        _mount("/dev/pts", "devpts", "nosuid", "noexec"),
        _tmpfs(_SHM, 0o1777, claim.shm_mib, "nosuid"),
        _tmpfs("/run", 0o755, RUN_MIB, "nosuid"),
        _tmpfs(_TMP, 0o1777, claim.tmp_mib),
        _mount(AGENT_FOLDER, "erofs", "ro"),
    ]


def _root_layers(upper: Upper) -> Body:
    kind = _MEMORY_OVERLAY if upper.disk_folder is None else _ANONYMOUS_OVERLAY
    return {"lower": _EROFS, "upper": kind, "size": f"{upper.size_mib}M"}


def _volume(volume: MountedVolume) -> Body:
    # Where it lies on the machine is nothing that a guest need see.
    access = "ro" if volume.read_only else "rw"
    return {**_mount(volume.target, "bind", "rbind", access, "nosuid", "nodev"), "source": "volume"}


def _mount(destination: str, kind: str, *options: str) -> Body:
    return {"destination": destination, "type": kind, "source": kind, "options": list(options)}


def _tmpfs(destination: str, mode: int, size_mib: int, *options: str) -> Body:
    return _mount(destination, "tmpfs", f"mode={mode:o}", f"size={size_mib}M", *options)


def _capabilities(names: Sequence[str]) -> Mapping[str, list[str]]:
    return {kind: list(names) for kind in ("bounding", "effective", "permitted")}


def _namespaces() -> list[Body]:
    return [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]


def _links(
    *, loopbacks: list[Body] | None = None, cards: list[Body] | None = None, default_v4: Body | None = None
) -> Body:
    nowhere = {"Route": {"Destination": {"IP": "", "Mask": None}, "Gateway": "", "MTU": 0}, "Name": ""}
    return {
        "LoopbackLinks": loopbacks,
        "FDBasedLinks": cards,
        "XDPLinks": None,
        "Defaultv4Gateway": default_v4 or nowhere,
        "Defaultv6Gateway": nowhere,
        "PCAP": False,
        "LogPackets": False,
        "NATBlob": False,
        "IsRestore": False,
        "PauseExternalNetworking": False,
        "AllowConnectedOnSave": False,
    }


def _route(destination: str, gateway: str = "") -> Body:
    network = ipaddress.ip_network(destination)
    mask = _bytes(network.netmask.packed)
    return {
        "Destination": {"IP": str(network.network_address), "Mask": mask},
        "Gateway": gateway,
        "MTU": 0,
    }


def _bytes(raw: bytes) -> str:
    """Bytes as Go's encoding/json writes them."""
    return base64.b64encode(raw).decode()
