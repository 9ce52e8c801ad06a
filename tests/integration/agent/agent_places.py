"""Places in which an agent is PID 1: Linux namespaces, which are quick, and gVisor, which is what counts."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent_driver import Host

CHECKOUT = Path(__file__).parents[3]
AGENT = CHECKOUT / "src/skerry/_bin/skerry-agent"
RUNSC = CHECKOUT / "src/skerry/_bin/runsc"
FLAGS = (
    "--platform=systrap", "--network=none", "--ignore-cgroups", "--directfs=false", "--host-settings=ignore",
    "--allow-suid", "--in-sandbox-cgroup=v2",
)  # fmt: skip
CAPABILITIES = [
    "CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_ADMIN",
    "CAP_SYS_CHROOT", "CAP_SYS_RESOURCE",
]  # fmt: skip
IMAGE = ("-x-1", "-T0", "-Enoinline_data")
HOSTS = b"127.0.0.1 localhost\n"
PROCESSES = 200


def setup(**changes: Any) -> dict[str, Any]:
    return {
        "hostname": "box",
        "files": [["/etc/hosts", 0o644, HOSTS]],
        "attributes": [],
        "cpus": 0,
        "processes": PROCESSES,
        "cgroup": False,
        **changes,
    }


@dataclass
class Sandbox:
    """An agent that has had its HELLO."""

    host: Host
    stderr: Path
    secret: bytes
    process: subprocess.Popen[bytes] | None = None
    runsc: tuple[str, ...] = ()
    container: str = ""
    generation: int = 0
    pipes: list[int] = field(default_factory=list)

    @property
    def log(self) -> str:
        return self.stderr.read_text(errors="replace")

    def attach(self) -> Host:
        """Be a successor: hand new pipes to the agent, with HELLO in the first already."""
        ours_read, theirs_write = os.pipe()
        theirs_read, ours_write = os.pipe()
        host = Host(ours_read, ours_write)
        secret, self.generation = secrets.token_bytes(32), self.generation + 1
        host.send_map("HELLO", 0, version=1, secret=secret, proof=self.secret, generation=self.generation, setup=None)
        self.run_attach(theirs_read, theirs_write)
        os.close(theirs_read)
        os.close(theirs_write)
        host.wait(lambda: host.ready, "READY")
        host.next_stream = host.ready["last_stream"] + 1
        self.host, self.secret = host, secret
        return host

    def run_attach(self, stdin: int, stdout: int) -> None:
        if self.container:
            argv = [*self.runsc, "exec", self.container, "/.skerry/agent", "attach"]
        else:
            child = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()[0]
            argv = ["nsenter", "-t", child, "-a", str(AGENT), "attach"]
        subprocess.run(argv, stdin=stdin, stdout=stdout, check=True, timeout=20)


@contextlib.contextmanager
def namespaced(folder: Path, **changes: Any) -> Iterator[Sandbox]:
    """Run the agent in namespaces of its own, on the machine's own files."""
    unshare = ["unshare", "--fork", "--pid", "--mount", "--net", "--uts", "--ipc", "--mount-proc", "--kill-child"]
    theirs_read, ours_write = os.pipe()
    ours_read, theirs_write = os.pipe()
    log = folder / "agent.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen([*unshare, AGENT], stdin=theirs_read, stdout=theirs_write, stderr=stderr)
    os.close(theirs_read)
    os.close(theirs_write)
    sandbox = Sandbox(Host(ours_read, ours_write), log, secrets.token_bytes(32), process)
    try:
        if changes.pop("greet", True):
            sandbox.host.hello(sandbox.secret, setup=setup(files=[], **changes))
        yield sandbox
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def in_gvisor(folder: Path, image: Path, **changes: Any) -> Iterator[Sandbox]:
    """Run a keeper as the root container, and the agent on the image as a container beside it."""
    runsc = (str(RUNSC), "--root", str(folder / "state"), *FLAGS)
    agent_image, keeper_image = _agent_images(folder)
    member = f"member-{secrets.token_hex(6)}"
    container = f"agents-{secrets.token_hex(6)}"
    common = {"folder": folder, "runsc": runsc}
    _create(**common, name=member, args=["/agent", "keep"], image=keeper_image, kind="sandbox", owner=member)
    sandbox = None
    try:
        mounts = [{"destination": "/.skerry", "type": "erofs", "source": str(agent_image), "options": ["ro"]}]
        theirs_read, ours_write = os.pipe()
        ours_read, theirs_write = os.pipe()
        stdio = {"stdin": theirs_read, "stdout": theirs_write}
        argv = ["/.skerry/agent"]
        _create(
            **common, name=container, args=argv, image=image, kind="container", owner=member, mounts=mounts, **stdio
        )
        os.close(theirs_read)
        os.close(theirs_write)
        log = folder / f"{container}.log"
        sandbox = Sandbox(Host(ours_read, ours_write), log, secrets.token_bytes(32), runsc=runsc, container=container)
        sandbox.host.hello(sandbox.secret, setup=setup(**{"cgroup": True, **changes}))
        yield sandbox
    finally:
        for name in (container, member):
            subprocess.run([*runsc, "delete", "--force", name], capture_output=True, timeout=30)


def _agent_images(folder: Path) -> tuple[Path, Path]:
    """Return an image that holds the agent alone, and one on which a keeper can run."""
    agent_image, keeper_image = folder / "agent.erofs", folder / "keeper.erofs"
    if not agent_image.exists():
        for image, empty in ((agent_image, ()), (keeper_image, ("proc", "dev", "tmp"))):
            tree = folder / f"{image.stem}-tree"
            tree.mkdir()
            shutil.copy(AGENT, tree / "agent")
            for name in empty:
                (tree / name).mkdir()
            subprocess.run(["mkfs.erofs", *IMAGE, image, tree], check=True, capture_output=True)
    return agent_image, keeper_image


def _create(
    folder: Path,
    runsc: tuple[str, ...],
    name: str,
    args: list[str],
    image: Path,
    kind: str,
    owner: str,
    mounts: list[dict[str, Any]] | None = None,
    stdin: int | None = None,
    stdout: int | None = None,
) -> None:
    bundle = folder / name
    bundle.mkdir()
    (bundle / "config.json").write_text(json.dumps(_spec(bundle, args, image, kind, owner, mounts or [])))
    with (folder / f"{name}.log").open("ab") as log:
        quiet = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "check": True, "timeout": 60}
        subprocess.run([*runsc, "create", "--bundle", str(bundle), name], **quiet)
        # A container in a sandbox that runs gets its pipes when it starts, not when it is created.
        pipes = {"stdin": stdin, "stdout": stdout} if stdin else {}
        subprocess.run([*runsc, "start", name], **{**quiet, **pipes})


def _spec(
    bundle: Path, args: list[str], image: Path, kind: str, owner: str, mounts: list[dict[str, Any]]
) -> dict[str, Any]:
    root = bundle / "root"
    root.mkdir()
    tmpfs = [
        {"destination": path, "type": "tmpfs", "source": "tmpfs", "options": [f"mode={mode}", "size=64m"]}
        for path, mode in (("/dev", "0755"), ("/tmp", "1777"), ("/run", "0755"))
    ]
    proc = {"destination": "/proc", "type": "proc", "source": "proc"}
    devices = [
        {"destination": "/dev", "type": "dev", "source": "dev", "options": ["nosuid", "ro"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec"]},
    ]
    return {
        "ociVersion": "1.2.0",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES),
            "noNewPrivileges": False,
        },
        "root": {"path": str(root), "readonly": False},
        "mounts": [proc, *([*devices, *tmpfs[1:]] if kind == "container" else tmpfs[:2]), *mounts],
        "annotations": {
            "dev.gvisor.spec.rootfs.source": str(image),
            "dev.gvisor.spec.rootfs.type": "erofs",
            "dev.gvisor.spec.rootfs.overlay": "memory",
            "io.kubernetes.cri.container-type": kind,
            "io.kubernetes.cri.sandbox-id": owner,
            "io.kubernetes.cri.container-name": kind,
        },
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]},
    }
