"""What sandboxes take from the machine, as rows: two samples make a rate. Without I/O."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from skerry.cli.output import command_line, duration, size
from skerry.model.limits import MIB
from skerry.model.sandboxes import SandboxView
from skerry.model.usage import SandboxUsage

HEAD: Final = ("SANDBOX", "CPU", "MEMORY", "OF", "DISK", "OF", "PROCESSES", "RECEIVES", "SENDS", "AGE", "COMMAND")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One sandbox. Rates are None until there are two samples."""

    view: SandboxView
    now: SandboxUsage
    cpu: float | None = None
    received_s: float | None = None
    sent_s: float | None = None

    @property
    def network(self) -> float:
        return (self.received_s or 0.0) + (self.sent_s or 0.0)


KEYS: Final[Mapping[str, Callable[[Row], float]]] = {
    "cpu": lambda row: row.cpu or 0.0,
    "memory": lambda row: row.now.memory_bytes,
    "disk": lambda row: row.now.file_bytes or 0,
    "processes": lambda row: row.now.processes or 0,
    "network": lambda row: row.network,
    "age": lambda row: -row.view.created_at,
}


def rows(
    views: Sequence[SandboxView],
    before: Mapping[str, SandboxUsage],
    now: Mapping[str, SandboxUsage],
    *,
    sort: str = "cpu",
) -> list[Row]:
    """Return a row for each sandbox of which there is a sample, the one that takes most in front."""
    found = [_row(view, before.get(view.id), now[view.id]) for view in views if view.id in now]
    return sorted(found, key=KEYS[sort], reverse=True)


def cells(row: Row) -> tuple[str, ...]:
    """Return a row as text for people."""
    now, resources = row.now, row.view.spec.resources
    return (
        row.view.spec.name or row.view.id,
        "" if row.cpu is None else f"{row.cpu * 100:.0f}%",
        size(now.memory_bytes),
        size(resources.memory_limit_mib * MIB),
        "" if now.file_bytes is None else size(now.file_bytes),
        size(resources.disk_mib * MIB),
        "" if now.processes is None else str(now.processes),
        _rate(row.received_s),
        _rate(row.sent_s),
        duration(time.time() - row.view.created_at),
        command_line(row.view.spec.entrypoint),
    )


def as_json(row: Row) -> dict[str, Any]:
    """Return a row as plain data; `cpu` is in cores, rates are in bytes a second."""
    now, resources = row.now, row.view.spec.resources
    return {
        "id": row.view.id,
        "name": row.view.spec.name,
        "at": now.at,
        "cpu": row.cpu,
        "cpu_seconds": now.cpu_seconds,
        "cpu_limit": resources.cpu_limit,
        "memory_bytes": now.memory_bytes,
        "memory_limit_bytes": resources.memory_limit_mib * MIB,
        "file_bytes": now.file_bytes,
        "file_limit_bytes": resources.disk_mib * MIB,
        "processes": now.processes,
        "received_bytes": now.received_bytes,
        "sent_bytes": now.sent_bytes,
        "received_bytes_s": row.received_s,
        "sent_bytes_s": row.sent_s,
    }


def _row(view: SandboxView, before: SandboxUsage | None, now: SandboxUsage) -> Row:
    if before is None or now.at <= before.at:
        return Row(view=view, now=now)
    seconds = now.at - before.at

    def rate(first: float | None, last: float | None) -> float | None:
        return None if first is None or last is None else max(0.0, last - first) / seconds

    return Row(
        view=view,
        now=now,
        cpu=rate(before.cpu_seconds, now.cpu_seconds),
        received_s=rate(before.received_bytes, now.received_bytes),
        sent_s=rate(before.sent_bytes, now.sent_bytes),
    )


def _rate(bytes_s: float | None) -> str:
    return "" if bytes_s is None else f"{size(bytes_s)}/s"
