"""The gofer of one sandbox: gVisor's process that opens the files of volumes for a sentry, which may open none.

It is runsc's own gofer, told what runsc's command line tells it, and it confines itself: a root with nothing in it but
the volumes, six capabilities, a filter on every thread. A test compares it with one that runsc has started. It joins
the control groups of its sandbox, and ends by itself when the sentry does. When it dies before, the volumes answer
every call with an error and the sandbox lives.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from skerry.isolation.gvisor import bodies
from skerry.isolation.gvisor.processes import ProcessKey, Watch, reap
from skerry.isolation.gvisor.sentry import FLAGS, Given, Launcher, numbered
from skerry.model.members import MountedVolume

PROCESS_NAME = "runsc-gofer"
_RECORDED = "gofer"


class Gofer:
    """A gofer that runs, or ran; the sockets to it are open until a claim has passed them on."""

    def __init__(self, key: ProcessKey, volumes: Sequence[MountedVolume] = (), sockets: Sequence[int] = ()) -> None:
        """Take over the process and the sockets."""
        self.volumes = tuple(volumes)
        self.watch: Watch | None = None
        self._key = key
        self._sockets = list(sockets)
        with contextlib.suppress(ProcessLookupError):
            self.watch = Watch(key)

    @classmethod
    def of(cls, record: Mapping[str, str]) -> Gofer | None:
        """Return the gofer that a member's record tells of, running or not."""
        if _RECORDED not in record:
            return None
        pid, start = map(int, record[_RECORDED].split())
        return cls(ProcessKey(pid, start))

    @property
    def record(self) -> Mapping[str, str]:
        """How a successor of the node finds it again."""
        return {_RECORDED: f"{self._key.pid} {self._key.start}"}

    @classmethod
    async def start(
        cls,
        launcher: Launcher,
        volumes: Sequence[MountedVolume],
        *,
        container_id: str,
        folder: Path,
        log: int,
        cgroup_procs: Sequence[Path],
    ) -> Gofer:
        """Return a gofer that has been executed. Raises SentryError, OSError."""
        spec = folder / "gofer.json"
        spec.write_text(json.dumps(bodies.gofer_spec(volumes, container_id)))
        with contextlib.ExitStack() as files:
            ours, theirs = zip(*(_pair(files) for _ in volumes), strict=True)
            rpc, _ = _pair(files)
            given: Given = {
                "log-fd": [log],
                "spec-fd": [_open(files, spec, os.O_RDONLY)],
                # It tells the mounts with their links resolved; there are none in them.
                "mounts-fd": [_open(files, Path(os.devnull), os.O_WRONLY)],
                # Who would open mounts that it may not; it may all of them.
                "rpc-fd": [rpc.fileno()],
                "io-fds": [one.fileno() for one in theirs],
            }
            log_flag, *others = numbered(given)
            arguments = [
                PROCESS_NAME,
                launcher.mark,
                *FLAGS,
                log_flag,
                "gofer",
                f"--bundle={folder}",
                f"--gofer-mount-confs={','.join(['erofs:none', *('lisafs:none' for _ in volumes)])}",
                *others,
                container_id,
            ]
            key = await launcher.launch(arguments, given, cgroup_procs, kind=("--gofer",))
            return cls(key, volumes, [os.dup(one.fileno()) for one in ours])

    @property
    def sockets(self) -> tuple[int, ...]:
        """What the sentry gets, one for each volume."""
        return tuple(self._sockets)

    async def ended(self) -> None:
        """Return when it has ended."""
        if self.watch is not None:
            await self.watch.ended()
            reap(self._key.pid)

    def close_sockets(self) -> None:
        """Let go of the sockets: the sentry has them, and the end of its own must be the gofer's."""
        while self._sockets:
            os.close(self._sockets.pop())

    def close(self) -> None:
        self.close_sockets()
        if self.watch is not None:
            self.watch.close()
            self.watch = None


def _pair(files: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return files.enter_context(one), files.enter_context(other)


def _open(files: contextlib.ExitStack, path: Path, flags: int) -> int:
    fd = os.open(path, flags | os.O_CLOEXEC)
    files.callback(os.close, fd)
    return fd
