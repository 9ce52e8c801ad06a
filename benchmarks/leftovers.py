"""What sandboxes of one server might leave on the machine, by what names each thing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks import processes
from benchmarks.server import Server

_CGROUPS = Path("/sys/fs/cgroup")
_DEVICES = Path("/sys/class/net")
# Numbers that name nothing: two descriptors of one kind are told apart by how many there are.
_NUMBER = re.compile(r"\d+")
_ID = re.compile(r"sb_\w+|pr_\w+|[0-9a-f]{12,}")


@dataclass(frozen=True)
class Things:
    """Sets of names for each kind of thing that belongs to the server; others use the machine too."""

    by_kind: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, server: Server) -> Things:
        ours = processes.marked(server.mark) | processes.with_descendants([server.pid])
        found = {
            "processes": _processes(ours),
            "mounts": _mounts(server),
            "cgroups": _cgroups(server),
            "namespaces": _namespaces(ours),
            "devices": _devices(server),
            "firewall elements": _firewall(server),
            "descriptors": _descriptors(server),
            "files": _files(server),
        }
        return cls({kind: frozenset(names) for kind, names in found.items()})

    def more_than(self, before: Things) -> dict[str, set[str]]:
        """Return what is here and not in `before`, for each kind that has any."""
        more = {kind: set(names - before.by_kind[kind]) for kind, names in self.by_kind.items()}
        return {kind: names for kind, names in more.items() if names}

    def counts(self) -> dict[str, int]:
        return {kind: len(names) for kind, names in self.by_kind.items()}


def _processes(ours: set[int]) -> Iterator[str]:
    for pid in ours:
        if words := processes.arguments(pid):
            yield f"{pid} {' '.join(words)[:120]}"


def _mounts(server: Server) -> Iterator[str]:
    marks = (str(server.settings.runtime_dir), str(server.settings.data_dir), "skerry", f"/{server.prefix}")
    for pid in ("self", str(server.pid)):
        for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
            if any(mark in line for mark in marks):
                yield line


def _cgroups(server: Server) -> Iterator[str]:
    name = f"skerry{server.instance}"
    for parent in [*_CGROUPS.glob(name), *_CGROUPS.glob(f"*/{name}")]:
        yield str(parent)
        yield from (f"{folder}/{each}" for folder, names, _ in os.walk(parent) for each in names)


def _namespaces(ours: set[int]) -> Iterator[str]:
    """The namespaces in which processes of ours are, or which they hold open."""
    for pid in ours:
        for folder in (f"/proc/{pid}/ns", f"/proc/{pid}/fd"):
            yield from (target for target in _links(folder) if re.fullmatch(r"\w+:\[\d+\]", target) and _is_ns(target))


def _is_ns(target: str) -> bool:
    return target.split(":")[0] in {"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"}


def _devices(server: Server) -> Iterator[str]:
    return (name for name in os.listdir(_DEVICES) if name.startswith(server.prefix))


def _firewall(server: Server) -> Iterator[str]:
    """The rules and set elements that name a device of the server; nothing where the nft program is missing.

    Its tables have the addresses and networks of the machine too, which others change.
    """
    if shutil.which("nft") is None:
        return
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    for line in tables.splitlines():
        _, family, name = line.split()
        if server.prefix in name:
            listed = subprocess.run(["nft", "list", "table", family, name], capture_output=True, text=True, check=True)
            # By element and not by line: a set is wrapped anew whenever it changes.
            elements = (element.strip() for element in re.split(r"[,{}\n]", listed.stdout))
            yield from (f"{name}: {element}" for element in elements if server.prefix in element)


def _descriptors(server: Server) -> Iterator[str]:
    kinds = Counter(_NUMBER.sub("N", _ID.sub("ID", target)) for target in processes.descriptors(server.pid))
    yield from (f"{kind} #{number}" for kind, count in kinds.items() for number in range(count))


def _files(server: Server) -> Iterator[str]:
    """Every file and folder but for what was written, which is kept on purpose (see docs/explanation/output.md)."""
    kept = server.settings.data_dir / "output"
    for top in (server.settings.runtime_dir, server.settings.data_dir):
        for folder, folders, files in os.walk(top):
            if Path(folder) == kept:
                folders.clear()
                continue
            yield from (f"{folder}/{name}" for name in (*folders, *files))


def _links(folder: str) -> Iterator[str]:
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        try:
            yield os.readlink(f"{folder}/{name}")
        except OSError:
            continue
