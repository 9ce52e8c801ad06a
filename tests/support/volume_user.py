"""What tests of volumes do with them: mount, run, read."""

from __future__ import annotations

from pathlib import Path

from realserver import Server

import skerry


def sh(sandbox: skerry.Sandbox, script: str) -> str:
    """Return what a script prints; it must succeed."""
    process = sandbox.exec("sh", "-c", script)
    said = process.stdout.read()
    assert process.wait() == 0, (script, said, process.stderr.read())
    return said


def fails(sandbox: skerry.Sandbox, script: str) -> str:
    """Return the complaint of a script that must fail."""
    process = sandbox.exec("sh", "-c", script)
    assert process.wait() != 0, script
    return process.stderr.read()


def content(volume: skerry.Volume, path: str, commit: str | None = None) -> bytes:
    return b"".join(volume.read_file(path, commit=commit))


def gofers_of(server: Server) -> list[int]:
    """The processes that serve volumes to sandboxes of a server."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if f"--root={server.runtime}/gvisor".encode() in arguments and b"gofer" in arguments:
            found.append(int(entry.name))
    return found


def mount(volume: skerry.Volume, *argv: str, at: str = "/data", **options: object) -> skerry.Sandbox:
    return skerry.Sandbox.create(*argv, volumes={at: volume}, block_network=True, **options)  # type: ignore[arg-type]
