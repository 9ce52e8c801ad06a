"""Where a backend keeps what its members need on the machine, and how that is removed again.

STATE/                     0700, the server's own
  root/                    runsc's: control sockets and state files
  bundle/config.json       one for all members, since all of them start alike
  members/BODY/            BODY is the sandbox's id without its prefix
    keeper.in keeper.out   named pipes, so that a successor of the node can open them again
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

# Ids of one fixed length and different first letters: where gVisor looks for a container by a prefix of its id, it
# finds that one alone.
_MEMBER = "sk-"
_CONTAINER = "su-"
_SOCKET = ".sock"


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

    def make(self) -> None:
        self.path.mkdir(mode=0o700)
        os.mkfifo(self.keeper_in, 0o600)
        os.mkfifo(self.keeper_out, 0o600)


class StateFolder:
    """The folder of one backend; everything in it can be found and removed without a database."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spec = path / "member.json"
        self._sockets = path / "sockets"
        self._members = path / "members"

    def prepare(self, spec: object) -> None:
        """Make the folders, and write the spec unless it is there; raises OSError."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self.path, self._sockets, self._members):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o700)
        self._write_spec(json.dumps(spec))

    def member(self, sandbox: SandboxId) -> MemberFolder:
        return MemberFolder(self._members / ids.body(sandbox))

    def control_socket(self, sandbox: SandboxId) -> Path:
        return self._sockets / f"{member_id(sandbox)}{_SOCKET}"

    def remove(self, sandbox: SandboxId) -> None:
        """Remove everything that this sandbox left here; raises OSError if something stays."""
        self.control_socket(sandbox).unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.member(sandbox).path)

    def sandboxes(self) -> set[SandboxId]:
        """Every sandbox that left something here."""
        found = {_MEMBER + name for name in _names(self._members)}
        found |= {name.removesuffix(_SOCKET) for name in _names(self._sockets)}
        return {sandbox for sandbox in map(sandbox_of, found) if sandbox is not None}

    def _write_spec(self, text: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            if self.spec.read_text() == text:
                return
        new = self.path / f".member.json.{os.getpid()}"
        new.write_text(text)
        new.replace(self.spec)


def _names(folder: Path) -> Iterator[str]:
    with contextlib.suppress(FileNotFoundError):
        yield from os.listdir(folder)
