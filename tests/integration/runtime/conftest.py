"""Real runsc, real sandboxes: what the tests of the runtime build need."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
BUILD = REPOSITORY / "tools" / "build_runtime.py"
RUNSC = REPOSITORY / "src" / "skerry" / "_bin" / "runsc"


def build_runtime(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, BUILD, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def built(*arguments: str | Path) -> None:
    answer = build_runtime(*arguments)
    if answer.returncode != 0:
        pytest.fail(answer.stderr)


@pytest.fixture(scope="session")
def runsc() -> Path:
    """Our runsc, built now if it is not up to date."""
    built()
    return RUNSC


@pytest.fixture(scope="session")
def plain_runsc() -> Path:
    """Upstream's module without our additions, kept in build/ between runs."""
    binary = REPOSITORY / "build" / "runtime" / "runsc-plain"
    built("--plain", "--output", binary)
    return binary


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An EROFS image with one static program that waits, /guest."""
    if shutil.which("mkfs.erofs") is None:
        pytest.skip("mkfs.erofs is missing; apt install erofs-utils")
    tree = tmp_path_factory.mktemp("rootfs")
    for folder in ("proc", "mnt"):
        (tree / folder).mkdir()
    built("--program", "guest", "--output", tree / "guest")
    file = tmp_path_factory.mktemp("image") / "guest.erofs"
    # gVisor's EROFS reads neither extended attributes nor the inline data of a file that it maps.
    subprocess.run(["mkfs.erofs", "-x-1", "-Enoinline_data", file, tree], check=True, capture_output=True)
    return file


class Sandbox:
    """One sandbox of runsc's command line, with a state folder and debug logs of its own."""

    # Lines tell the boot process, the gofer and the command line apart by %COMMAND%.
    FLAGS = ("--network=none", "--ignore-cgroups", "--platform=systrap", "--gofer-network-namespace=new", "--debug")

    def __init__(self, runsc: Path, folder: Path, image: Path, *, directfs: bool, volume: Path | None) -> None:
        self.id = f"rt{secrets.token_hex(8)}"
        self.state_folder = folder / "state"
        self.state_folder.mkdir(mode=0o700)
        self.logs = folder / "logs"
        self.bundle = folder / "bundle"
        self.bundle.mkdir()
        (folder / "empty").mkdir()
        (self.bundle / "config.json").write_text(json.dumps(self._spec(folder / "empty", image, volume)))
        flags = [*self.FLAGS, f"--directfs={str(directfs).lower()}", f"--debug-log={self.logs}/%COMMAND%.log"]
        self._runsc = [runsc, "--root", self.state_folder, *flags]
        # runsc gives its stdio to the user of the sandbox, so it must be files that are ours to give.
        self._output = folder / "output"
        self._output.touch()

    @staticmethod
    def _spec(root: Path, image: Path, volume: Path | None) -> dict[str, object]:
        mounts = [{"destination": "/proc", "type": "proc", "source": "proc"}]
        if volume is not None:
            mounts.append({"destination": "/mnt", "type": "bind", "source": str(volume)})
        return {
            "ociVersion": "1.0.0",
            "process": {"user": {"uid": 0, "gid": 0}, "args": ["/guest"], "cwd": "/"},
            "root": {"path": str(root)},
            "mounts": mounts,
            "annotations": {
                "dev.gvisor.spec.rootfs.source": str(image),
                "dev.gvisor.spec.rootfs.type": "erofs",
                "dev.gvisor.spec.rootfs.overlay": "memory",
            },
            "linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]},
        }

    def call(self, *arguments: str | Path, check: bool = True) -> str:
        with self._output.open("a+b") as output:  # a guest writes from the file's beginning, unless it is to append
            start = output.tell()
            answer = subprocess.run([*self._runsc, *arguments], stdin=output, stdout=output, stderr=output, check=False)
        said = self._output.read_bytes()[start:].decode()
        if check and answer.returncode != 0:
            pytest.fail(f"runsc {arguments[0]}: {said}")
        return said

    def create(self) -> None:
        self.call("create", "--bundle", self.bundle, self.id)

    def start(self) -> None:
        self.call("start", self.id)
        assert self.status() == "running"

    def status(self) -> str:
        return str(json.loads(self.call("state", self.id))["status"])

    def delete(self) -> None:
        self.call("delete", "--force", self.id, check=False)

    def log_lines(self, command: str) -> list[str]:
        return (self.logs / f"{command}.log").read_text().splitlines()


def started(sandbox: Sandbox) -> Sandbox:
    sandbox.create()
    sandbox.start()
    return sandbox


def restored(original: Sandbox, clone: Sandbox, checkpoint: Path) -> Sandbox:
    """Write down a sandbox that runs, and let another go on from there."""
    original.call("checkpoint", "--image-path", checkpoint, original.id)
    clone.call("restore", "--detach", "--bundle", clone.bundle, "--image-path", checkpoint, clone.id)
    return clone


Sandboxes = Callable[..., Sandbox]


@pytest.fixture
def sandboxes(tmp_path: Path, image: Path) -> Iterator[Sandboxes]:
    """Make sandboxes; each is deleted at the end, and nothing of it may be left."""
    if os.geteuid() != 0:
        pytest.skip("sandboxes need root")
    made: list[Sandbox] = []

    def make(runsc: Path, *, directfs: bool = False, volume: Path | None = None) -> Sandbox:
        folder = tmp_path / f"sandbox{len(made)}"
        folder.mkdir()
        made.append(Sandbox(runsc, folder, image, directfs=directfs, volume=volume))
        return made[-1]

    with deleted_at_the_end(made):
        yield make


@contextmanager
def deleted_at_the_end(made: list[Sandbox]) -> Iterator[None]:
    try:
        yield
    finally:
        for sandbox in made:
            sandbox.delete()
        left = [str(path) for sandbox in made for path in sandbox.state_folder.iterdir()]
        assert left == [], "runsc delete left state behind"
