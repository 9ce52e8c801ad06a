"""What ours is compared with: a container that plain `runsc` runs from the same image, without skerry."""

from __future__ import annotations

import json
import secrets
import shlex
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from skerry.apps.binaries import RUNSC, binary
from skerry.isolation.gvisor.bodies import CONTAINER_CAPABILITIES
from skerry.model import limits

# What was asked for as the baseline; the platform is the one that sandboxes of ours run on.
FLAGS = ("--platform=systrap", "--network=none", "--ignore-cgroups")
_PREFIX = "bl-"
_PATIENCE_S = 30.0


class Baseline:
    """Containers of one image, with their bundles and runsc's state in one folder."""

    def __init__(self, folder: Path, image: Path) -> None:
        self._folder = folder
        self._image = image
        self._runsc = str(binary(RUNSC))
        self._writing = threading.Lock()
        self._written: set[Path] = set()
        self.root = folder / "root"
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.sweep()

    def command(self, *words: str) -> list[str]:
        return [self._runsc, f"--root={self.root}", *FLAGS, *words]

    def describe(self, *argv: str) -> dict[str, Any]:
        """Return the baseline of `argv` as a reader could run it: the command line and the bundle's config.json."""
        bundle = self.bundle(argv)
        return {
            "command": shlex.join(self.command("run", f"--bundle={bundle}", f"{_PREFIX}ID")),
            "config": json.loads((bundle / "config.json").read_text()),
        }

    def bundle(self, argv: Sequence[str]) -> Path:
        """Return the bundle of a container that runs `argv`, written once."""
        folder = self._folder / f"bundle-{'-'.join(argv).replace('/', '_')}"
        with self._writing:
            if folder not in self._written:
                (folder / "rootfs").mkdir(parents=True, exist_ok=True)  # empty: the annotations name the real one
                (folder / "config.json").write_text(json.dumps(self._config(argv), indent=1))
                self._written.add(folder)
        return folder

    def run(self, bundle: Path) -> subprocess.Popen[bytes]:
        """Start a container in the foreground; its stdout is a pipe, and runsc removes it at its end."""
        return subprocess.Popen(
            self.command("run", f"--bundle={bundle}", _new_id()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def start(self, *argv: str) -> str:
        """Return the id of a container that runs in the background."""
        identifier = _new_id()
        self._call("run", "--detach", f"--bundle={self.bundle(argv)}", identifier)
        return identifier

    @contextmanager
    def started(self, *argv: str) -> Iterator[str]:
        identifier = self.start(*argv)
        try:
            yield identifier
        finally:
            self.delete(identifier)

    def exec_command(self, identifier: str, *argv: str) -> list[str]:
        return self.command("exec", identifier, *argv)

    def exec(self, identifier: str, *argv: str) -> None:
        """Run a command in a container to its end."""
        self._call("exec", identifier, *argv)

    def delete(self, identifier: str) -> None:
        self._call("delete", "--force", identifier)

    def sweep(self) -> None:
        """Remove the containers that a run which was killed has left."""
        for identifier in {path.name.split("_")[0] for path in self.root.glob(f"{_PREFIX}*.state")}:
            self.delete(identifier)

    def _call(self, *words: str) -> None:
        # No pipes: a container in the background would hold them (runsc passes its own on).
        with tempfile.TemporaryFile("w+", dir=self._folder) as said:
            code = subprocess.run(
                self.command(*words),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                timeout=_PATIENCE_S,
            ).returncode
            said.seek(0)
            if code != 0:
                raise RuntimeError(f"runsc {shlex.join(words)} ended with {code}: {said.read()[-500:].strip()}")

    def _config(self, argv: Sequence[str]) -> dict[str, Any]:
        return {
            "ociVersion": "1.2.0",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": list(argv),
                "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"],
                "cwd": "/",
                "capabilities": {kind: list(CONTAINER_CAPABILITIES) for kind in ("bounding", "effective", "permitted")},
            },
            "root": {"path": "rootfs", "readonly": False},
            "hostname": "baseline",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
                {
                    "destination": "/tmp",
                    "type": "tmpfs",
                    "source": "tmpfs",
                    "options": [f"size={limits.TMP_DEFAULT_MIB}M"],
                },
            ],
            "annotations": {
                "dev.gvisor.spec.rootfs.source": str(self._image),
                "dev.gvisor.spec.rootfs.type": "erofs",
                "dev.gvisor.spec.rootfs.overlay": "memory",
                "dev.gvisor.spec.rootfs.options": f"size={limits.DISK_DEFAULT_MIB}M",
            },
            "linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]},
        }


def _new_id() -> str:
    # Of one length: runsc takes an id for any container whose id begins with it.
    return _PREFIX + secrets.token_hex(8)
