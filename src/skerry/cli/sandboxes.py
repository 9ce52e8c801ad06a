"""Sandboxes as commands show them: in the model's words."""

from __future__ import annotations

from dataclasses import asdict

from skerry.model.exits import ProcessExit, SandboxExit
from skerry.model.sandboxes import SandboxView
from skerry.model.text import printable


def as_json(view: SandboxView) -> dict[str, object]:
    """Return a sandbox as plain data."""
    return {
        "id": view.id,
        "state": view.state.value,
        "name": view.spec.name,
        "app": view.spec.app,
        "app_name": view.app_name,
        "tags": dict(view.spec.tags),
        "image": view.spec.image,
        "entrypoint": list(view.spec.entrypoint),
        "lifetime_s": view.spec.lifetime_s,
        "idle_timeout_s": view.spec.idle_timeout_s,
        "idle_since": view.idle_since,
        "volumes": [asdict(mount) for mount in view.spec.volumes],
        "volumes_lost": view.volumes_lost,
        "created_at": view.created_at,
        "started_at": view.started_at,
        "ended_at": view.ended_at,
        "exit": None if view.exit is None else exit_as_json(view.exit),
    }


def exit_as_json(ended: SandboxExit | ProcessExit) -> dict[str, object]:
    return {
        "reason": ended.reason.value,
        "code": ended.code,
        "signal": ended.signal,
        "returncode": ended.returncode,
        "evidence": ended.evidence,
    }


def describe_exit(ended: SandboxExit | ProcessExit) -> str:
    """Return an end in a few words."""
    if ended.code is not None:
        return f"{ended.reason.value} {ended.code}"
    if ended.signal is not None:
        return f"{ended.reason.value} by signal {ended.signal}"
    return ended.reason.value + (f": {printable(ended.evidence, keep='')}" if ended.evidence else "")
