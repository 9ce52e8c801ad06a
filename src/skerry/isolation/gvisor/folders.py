"""Where a backend keeps what its members need on the machine, and how that is removed again.

STATE/                     0700, the server's own
  root/                    runsc's: control sockets and state files
  bundle/config.json       one for all members, since all of them start alike
  members/BODY/            BODY is the sandbox's id without its prefix
    keeper.in keeper.out   named pipes, so that a successor of the node can open them again
    runsc.log keeper.log agent.log pid
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from skerry.model import ids
from skerry.model.ids import SandboxId

# Ids of one fixed length, since runsc finds a container by any prefix of its id; and different first letters, so that
# neither of a sandbox's two containers is a prefix of the other.
_MEMBER = "sk-"
_CONTAINER = "su-"
BODY_CHARS = 20


def member_id(sandbox: SandboxId) -> str:
    """The id of the sandbox's root container, and so of the sandbox, to gVisor."""
    return _MEMBER + ids.body(sandbox)


def container_id(sandbox: SandboxId) -> str:
    """The id of the container with the user's image."""
    return _CONTAINER + ids.body(sandbox)


def sandbox_of(gvisor_id: str) -> SandboxId | None:
    """The sandbox that a member's id belongs to."""
    sandbox = f"{ids.SANDBOX}_{gvisor_id.removeprefix(_MEMBER)}"
    return SandboxId(sandbox) if gvisor_id.startswith(_MEMBER) and ids.is_id(sandbox, ids.SANDBOX) else None


@dataclass(frozen=True)
class MemberFolder:
    """The folder of one member."""

    path: Path

    @property
    def keeper_in(self) -> Path:
        return self.path / "keeper.in"

    @property
    def keeper_out(self) -> Path:
        return self.path / "keeper.out"

    @property
    def keeper_log(self) -> Path:
        return self.path / "keeper.log"

    @property
    def agent_log(self) -> Path:
        return self.path / "agent.log"

    @property
    def runsc_log(self) -> Path:
        return self.path / "runsc.log"

    @property
    def pid(self) -> Path:
        return self.path / "pid"

    def make(self) -> None:
        self.path.mkdir(mode=0o700)
        os.mkfifo(self.keeper_in, 0o600)
        os.mkfifo(self.keeper_out, 0o600)


class StateFolder:
    """The folder of one backend; everything in it can be found and removed without a database."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.root = path / "root"
        self.bundle = path / "bundle"
        self._members = path / "members"

    def prepare(self, spec: object) -> None:
        """Make the folders, and write the bundle unless it is there; raises OSError."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chmod(self.path, 0o700)
        for folder in (self.root, self.bundle, self._members):
            folder.mkdir(mode=0o700, exist_ok=True)
            os.chmod(folder, 0o700)
        # runsc resolves the root's path even where an image stands in for it.
        (self.bundle / "rootfs").mkdir(mode=0o700, exist_ok=True)
        self._write_bundle(json.dumps(spec))

    def member(self, sandbox: SandboxId) -> MemberFolder:
        return MemberFolder(self._members / ids.body(sandbox))

    def control_socket(self, sandbox: SandboxId) -> Path:
        return self.root / f"runsc-{member_id(sandbox)}.sock"

    def remove(self, sandbox: SandboxId) -> None:
        """Remove everything that this sandbox left here; raises OSError if something stays."""
        for path in self._state_files(member_id(sandbox)):
            path.unlink(missing_ok=True)
        folder = self.member(sandbox).path
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)

    def sandboxes(self) -> set[SandboxId]:
        """Every sandbox that left something here."""
        found = {_MEMBER + name for name in _names(self._members)}
        found |= {_of_state_file(name) for name in _names(self.root)}
        return {sandbox for sandbox in map(sandbox_of, found) if sandbox is not None}

    def _state_files(self, identifier: str) -> list[Path]:
        # sk-BODY_sandbox:sk-BODY.state, the same with .lock, and runsc-sk-BODY.sock
        return [self.root / name for name in _names(self.root) if _of_state_file(name) == identifier]

    def _write_bundle(self, text: str) -> None:
        target = self.bundle / "config.json"
        with contextlib.suppress(FileNotFoundError):
            if target.read_text() == text:
                return
        new = self.bundle / f".config.json.{os.getpid()}"
        new.write_text(text)
        new.replace(target)


def _names(folder: Path) -> Iterator[str]:
    with contextlib.suppress(FileNotFoundError):
        yield from os.listdir(folder)


def _of_state_file(name: str) -> str:
    return name.removeprefix("runsc-").removesuffix(".sock").split("_")[0]
