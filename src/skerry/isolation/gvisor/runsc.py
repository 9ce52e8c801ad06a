"""The runsc command line, for what the control socket cannot do: create a member, and delete one as a last resort."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from skerry.isolation.gvisor.processes import ProcessKey, Watch, key_of

# Every member runs with these flags. `bodies.conf` says the same to the claim, and docs/explanation/isolation.md says
# what each one is for.
FLAGS = (
    "--platform=systrap",
    "--network=none",
    "--directfs=false",
    "--ignore-cgroups",
    "--host-settings=ignore",
    "--allow-suid",
    "--in-sandbox-cgroup=v2",  # made by the sentry, for the agent: a group for each process it starts
    "--control-rpc-stop-timeout=0",  # else a sentry that has ended lingers 15 s while a connection is open
    "--overlay2=none",  # for the member's own root; a claim says for itself what lies over its image
)
# Nothing of the server's environment reaches runsc.
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

LAST_LINES = 5
LAST_BYTES = 4096

# The shell joins the groups and becomes runsc, so every process of the sandbox is in them from its first instruction.
_JOIN = 'while [ "$1" != -- ]; do echo $$ >"$1" || exit 125; shift; done; shift; exec "$@"'


class RunscError(Exception):
    """A runsc command failed; the text holds the last lines of what it said."""


@dataclass(frozen=True)
class Standard:
    """The three standard descriptors of a command. `runsc create` hands them to the sandbox, for as long as it lives,
    and makes the sandbox's user their owner: so give it files of the member's own, never /dev/null."""

    stdin: int
    stdout: int
    stderr: int


class Runsc:
    """The pinned binary and the folder where it keeps its state."""

    def __init__(self, binary: Path, root: Path) -> None:
        self.binary = binary
        self.root = root

    async def create(
        self, container_id: str, *, bundle: Path, log: Path, pid_file: Path, standard: Standard, procs: Sequence[Path]
    ) -> ProcessKey:
        """Create a sandbox whose root container waits for StartRoot, and return its sentry. Raises RunscError."""
        command = self._command(log, "create", f"--bundle={bundle}", f"--pid-file={pid_file}", container_id)
        status = await _run([*_joining(procs), *command], standard)
        if status:
            raise RunscError(f"runsc create ended with {_status(status)}")
        sentry = key_of(int(pid_file.read_text()))
        if sentry is None:
            raise RunscError("the sentry ended at once")
        return sentry

    async def delete(self, container_id: str) -> None:
        """Force the end of a sandbox. Raises RunscError."""
        # delete, unlike create, leaves the owner of its standard files alone.
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            status = await _run(
                self._command(Path(os.devnull), "delete", "--force", container_id), Standard(null, null, null)
            )
        finally:
            os.close(null)
        if status:
            raise RunscError(f"runsc delete ended with {_status(status)}")

    def _command(self, log: Path, *arguments: str) -> list[str]:
        return [str(self.binary), f"--root={self.root}", f"--log={log}", *FLAGS, *arguments]


def last_lines(*files: Path) -> str:
    """The last lines of some small logs, as one line of printable text."""
    lines: list[str] = []
    for path in files:
        try:
            raw = path.read_bytes()[-LAST_BYTES:]
        except OSError:
            continue
        lines += [line.strip() for line in raw.decode(errors="replace").splitlines() if line.strip()]
    text = "; ".join(dict.fromkeys(lines[-LAST_LINES:]))
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _joining(procs: Sequence[Path]) -> list[str]:
    return ["/bin/sh", "-c", _JOIN, "join", *map(str, procs), "--"] if procs else []


async def _run(command: Sequence[str], standard: Standard) -> int:
    """Run a command from / in a session of its own, and return its exit status; it is killed if the caller gives up."""
    # Popen returns within a millisecond or two, and takes no second thread as asyncio's own does.
    process = subprocess.Popen(  # noqa: ASYNC220
        command,
        stdin=standard.stdin,
        stdout=standard.stdout,
        stderr=standard.stderr,
        env=ENVIRONMENT,
        cwd="/",
        start_new_session=True,
    )
    watch = _watch(process)
    try:
        if watch is not None:
            await watch.ended()
        return process.wait()
    except asyncio.CancelledError:
        process.kill()
        process.wait()
        raise
    finally:
        if watch is not None:
            watch.close()


def _watch(process: subprocess.Popen[bytes]) -> Watch | None:
    key = key_of(process.pid)
    if key is None:
        return None
    try:
        return Watch(key)
    except ProcessLookupError:
        return None


def _status(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"status {status}"
