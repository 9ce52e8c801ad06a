"""The local server: started by the first client that needs it, found by all others.

One starter wins a file lock, the others wait for its server. It is started so that nothing of the caller reaches it:
from `/`, with a fixed environment, without the caller's descriptors, in a session of its own, and with Python's
isolated mode, so that no module is imported from the caller's folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from skerry.client.settings import ServerAddress
from skerry.client.transports import unix
from skerry.model.errors import Error, InvalidError, PermissionDeniedError, ServerUnavailableError, StartFailedError
from skerry.model.places import START_LOCK, START_LOG
from skerry.model.text import printable

MODULE: Final = "skerry.apps.local"
START_TIMEOUT_S: Final = 60.0
LOG_BYTES_MAX: Final = 4 * 1024 * 1024
LOG_LINES_SHOWN: Final = 12
_POLL_S: Final = 0.02
SERVER_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What a server reads of its environment. Everything else of the caller's stays with the caller.
_FOLDER = re.compile(r"SKERRY_[A-Z]+(_[A-Z]+)*_DIR")
_SETTINGS: Final = (
    "SKERRY_NETWORK_RANGE",
    "SKERRY_IMAGES_GIB",
    "SKERRY_IMAGES_DAYS",
    "SKERRY_ENDED_DAYS",
    "SKERRY_ENDED_MAX",
    "SKERRY_VOLUME_GIB",
    "SKERRY_KEY_FILE",
)


async def ensure(address: ServerAddress) -> None:
    """Return when a server listens, started now if nobody else starts it; raises what keeps it from running."""
    if os.geteuid() != 0:
        raise no_server(address)
    prepare_folder(address.runtime_dir)
    deadline = time.monotonic() + START_TIMEOUT_S
    with _lock_file(address.runtime_dir / START_LOCK) as lock:
        while not _try_lock(lock):
            if await _listens(address.socket):
                return
            if time.monotonic() > deadline:
                raise ServerUnavailableError(
                    f"another program has been starting the local server for {START_TIMEOUT_S:.0f} s; "
                    f"see {address.runtime_dir / START_LOG}",
                    retry=False,
                )
            await asyncio.sleep(_POLL_S)
        if not await _listens(address.socket):
            await _start(address, deadline)


def prepare_folder(folder: Path) -> None:
    """Make the runtime folder; raises InvalidError if others could put a socket of their own there."""
    with contextlib.suppress(FileExistsError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode):
        raise InvalidError(f"the runtime folder {folder} is no folder; remove it or set SKERRY_RUNTIME_DIR")
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
        raise InvalidError(
            f"the runtime folder {folder} can be written by others (uid {found.st_uid}, mode "
            f"{stat.S_IMODE(found.st_mode):04o}); run `chown root {folder} && chmod go-w {folder}`, or set "
            "SKERRY_RUNTIME_DIR"
        )


def no_server(address: ServerAddress) -> Error:
    """Return the error for a client that finds no server and may not start one."""
    if not address.autostart:
        return ServerUnavailableError(
            f"no server listens on {address.socket}, and starting one is forbidden (SKERRY_AUTOSTART=0 or an address "
            "was given); run `skerry server`, or allow the start"
        )
    return ServerUnavailableError(
        f"no server listens on {address.socket}, and only root can start it: run `sudo skerry server --group "
        f"{group_name()}` in another terminal, or run this program as root"
    )


def no_access(address: ServerAddress) -> Error:
    """Return the error for a user whom the socket's permissions keep out."""
    return PermissionDeniedError(
        f"you (uid {os.geteuid()}) may not use the server on {address.socket}: run this program as root, or let root "
        f"run `skerry server --group {group_name()}`, which gives that whole group access to all its sandboxes"
    )


def server_command() -> list[str]:
    """Return how the server is run: isolated, so that neither the caller's folder nor variables give it modules."""
    return [sys.executable, "-I", "-m", MODULE]


def server_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the whole environment of the server: fixed, but for the folders and settings that the caller chose."""
    folders = {name: value for name, value in environ.items() if _FOLDER.fullmatch(name) and value.startswith("/")}
    settings = {name: environ[name] for name in _SETTINGS if name in environ}
    return {"PATH": SERVER_PATH, "HOME": "/root", "LANG": "C.UTF-8", "TZ": "UTC", **folders, **settings}


def log_tail(log: Path, since: int) -> str:
    """Return the last lines that a server wrote after byte `since`, fit for a terminal."""
    try:
        with log.open("rb") as file:
            file.seek(max(since, os.fstat(file.fileno()).st_size - 64 * 1024))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError as exc:
        return f"(its log {log} cannot be read: {exc.strerror})"
    return "\n".join(f"  {printable(line)}" for line in lines[-LOG_LINES_SHOWN:]) or "  (it wrote nothing)"


async def _start(address: ServerAddress, deadline: float) -> None:
    log = address.runtime_dir / START_LOG
    begun = time.monotonic()
    with _open_log(log) as output:
        since = os.fstat(output).st_size
        process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once, and outlives this loop
            server_command(),
            cwd="/",
            env=server_environment(os.environ) | {"SKERRY_RUNTIME_DIR": str(address.runtime_dir)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            close_fds=True,
            start_new_session=True,
            umask=0o077,
        )
    _tell(f"starting the local server (pid {process.pid}, log {log})")
    while not await _listens(address.socket):
        if process.poll() is not None:
            raise StartFailedError(
                f"the local server ended with code {process.returncode} before it was ready; its last lines in {log}:\n"
                f"{log_tail(log, since)}\nRun `skerry doctor` to see what this machine lacks.",
                stage="server",
            )
        if time.monotonic() > deadline:
            raise ServerUnavailableError(
                f"the local server (pid {process.pid}) is not ready after {START_TIMEOUT_S:.0f} s; its last lines in "
                f"{log}:\n{log_tail(log, since)}",
                retry=False,
            )
        await asyncio.sleep(_POLL_S)
    _tell(f"the local server is ready after {time.monotonic() - begun:.1f} s")


async def _listens(path: Path) -> bool:
    try:
        protocol = await unix.connect(path, _Knock)
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    protocol.leave()
    return True


class _Knock(asyncio.Protocol):
    """A connection that only proves that someone listens."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def leave(self) -> None:
        self._transport.close()


@contextlib.contextmanager
def _lock_file(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _open_log(path: Path) -> Iterator[int]:
    """Open the log to append; one that has grown beyond 4 MiB becomes the old one."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > LOG_BYTES_MAX:
            path.replace(path.with_name(path.name + ".1"))
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def group_name() -> str:
    """Return the name of this user's group, to whom a server can be given."""
    import grp

    try:
        return grp.getgrgid(os.getgid()).gr_name
    except KeyError:
        return str(os.getgid())


def _tell(text: str) -> None:
    print(f"skerry: {text}", file=sys.stderr, flush=True)
