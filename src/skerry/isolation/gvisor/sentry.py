"""Starting a sentry: gVisor's sandbox process, which runsc's command line would start with three executions of itself.

`skerry-launch` makes the namespaces and the empty root and executes the sentry in them once: 35 ms instead of 64 until
it listens. What it is told here is what runsc's own `create` tells it; a test compares the two sandboxes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from skerry.isolation.gvisor.processes import ProcessKey, key_of

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
)
PROCESS_NAME = "runsc-sandbox"
# The sentry's whole environment. With Go's default of 100 it collects garbage several times while it boots, which costs
# CPU (37 ms instead of 29 with 200). But 200 makes an idle sandbox 1.4 times as large as one of plain runsc, 125 1.30
# times, 110 and 100 1.23 (benchmarks, `idle-memory`); at most 1.3 is promised. A cold create takes as long with 110 as
# with 125, and a little longer with 100 (`cold-create`, four runs in turn).
ENVIRONMENT = ("GOGC=110",)

_LISTEN = 16
_SAID_BYTES = 4096
_TRANSPARENT_HUGEPAGES = Path("/sys/kernel/mm/transparent_hugepage")
_CHOSEN = re.compile(r"\[(\w+)\]")

Given = Mapping[str, Sequence[int]]
"""Descriptors for a process of runsc's, by the flag that names them."""


class SentryError(Exception):
    """The sentry was not started; the text says what did not work."""


@dataclass(frozen=True, kw_only=True)
class Boot:
    """What one sentry gets."""

    container_id: str
    control_socket: Path
    spec: Path
    image: Path
    keeper_in: Path
    keeper_out: Path
    keeper_log: int
    log: int
    cgroup_procs: Sequence[Path] = ()


class Launcher:
    """The two programs, and the folder by which the processes that they start are known."""

    def __init__(self, *, launcher: Path, runsc: Path, root: Path) -> None:
        self.launcher = launcher
        self.runsc = runsc
        self._root = root
        self._machine = tuple(_about_the_machine())

    @property
    def mark(self) -> str:
        """The argument that every sentry of ours carries, and no one else's."""
        return f"--root={self._root}"

    async def start(self, boot: Boot) -> ProcessKey:
        """Return a sentry that has been executed; it answers its control socket once it is up. Raises SentryError."""
        with contextlib.ExitStack() as files:
            given = {
                "log-fd": [boot.log],
                "controller-fd": [files.enter_context(_listening(boot.control_socket)).fileno()],
                "spec-fd": [_open(files, boot.spec, os.O_RDONLY)],
                "io-fds": [_open(files, boot.image, os.O_RDONLY)],
                # For reading and writing: so the keeper sees no end of file when a node goes, and needs none to come.
                "stdio-fds": [
                    _open(files, boot.keeper_in, os.O_RDWR),
                    _open(files, boot.keeper_out, os.O_RDWR),
                    boot.keeper_log,
                ],
                # The sentry writes a byte here when it is up, and gives up if it cannot. Nobody needs it, since the
                # control socket answers by then.
                "start-sync-fd": [_open(files, Path(os.devnull), os.O_WRONLY)],
            }
            return await self.launch(self._arguments(boot, numbered(given)), given, boot.cgroup_procs)

    def _arguments(self, boot: Boot, descriptors: Sequence[str]) -> list[str]:
        log, *others = descriptors
        return [
            PROCESS_NAME,
            self.mark,
            *FLAGS,
            log,
            "boot",
            f"--bundle={boot.spec.parent}",
            "--gofer-mount-confs=erofs:none",
            *others,
            "--proc-mount-sync-fd={proc}",  # the launcher puts the number in
            *self._machine,
            boot.container_id,
        ]

    async def launch(
        self, arguments: Sequence[str], given: Given, procs: Sequence[Path], *, kind: Sequence[str] = ()
    ) -> ProcessKey:
        """Return a process of runsc's once it has been executed; `kind` tells the launcher what it is."""
        passed = [fd for fds in given.values() for fd in fds]
        options = [*kind, *(word for file in procs for word in ("--join", str(file)))]
        options += [word for fd in passed for word in ("--pass", str(fd))]
        options += [word for setting in ENVIRONMENT for word in ("--env", setting)]
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            try:
                # Popen returns within a millisecond or two, and takes no thread as asyncio's own does.
                process = subprocess.Popen(  # noqa: ASYNC220
                    [self.launcher, *options, "--exe", self.runsc, "--", *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=writer,
                    stderr=writer,
                    pass_fds=passed,
                    env={},  # nothing of the server's environment reaches the sandbox
                    cwd="/",
                    start_new_session=True,
                )
            finally:
                os.close(writer)
            try:
                said = await _read_all(reader)
            except BaseException:
                # What it may have started carries our mark, and the caller looks for it.
                process.kill()
                process.wait()
                raise
        finally:
            os.close(reader)
        return _outcome(process.wait(), said)


def numbered(given: Given) -> list[str]:
    """Return the flags that name descriptors: the launcher numbers what it passes on from 3."""
    flags = [flag for flag, fds in given.items() for _ in fds]
    return [f"--{flag}={number}" for number, flag in enumerate(flags, start=3)]


def _about_the_machine() -> Iterator[str]:
    """What the sentry cannot find out in its empty root. The guest sees the machine's memory, and learns no more."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield f"--total-memory={memory}"
    yield f"--total-host-memory={memory}"
    for file, flag in (("shmem_enabled", "host-thp-shmem-enabled"), ("defrag", "host-thp-defrag")):
        with contextlib.suppress(OSError):
            chosen = _CHOSEN.search((_TRANSPARENT_HUGEPAGES / file).read_text())
            if chosen:
                yield f"--{flag}={chosen[1]}"


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    """A socket that already listens, so that a connection made at once waits instead of failing."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(f"/proc/self/fd/{folder}/{path.name}")  # a socket's path has at most 107 bytes
            listener.listen(_LISTEN)
            yield listener
    finally:
        os.close(folder)


async def _read_all(reader: int) -> bytes:
    loop = asyncio.get_running_loop()
    said = bytearray()
    readable = asyncio.Event()
    loop.add_reader(reader, readable.set)
    try:
        while True:
            await readable.wait()
            readable.clear()
            with contextlib.suppress(BlockingIOError):
                chunk = os.read(reader, _SAID_BYTES)
                if not chunk or len(said) > _SAID_BYTES:
                    return bytes(said)
                said += chunk
    finally:
        loop.remove_reader(reader)


def _outcome(status: int, said: bytes) -> ProcessKey:
    text = said.decode(errors="replace").strip()
    if status != 0 or not text.isdigit():
        raise SentryError(text or f"skerry-launch ended with status {status}")
    sentry = key_of(int(text))
    if sentry is None:
        raise SentryError("the sentry ended at once")
    return sentry


def _open(files: contextlib.ExitStack, path: Path, flags: int) -> int:
    fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    files.callback(os.close, fd)
    return fd
