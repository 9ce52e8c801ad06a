"""A local server of a test's own over the real node: started as clients start it, killed, started again."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.base_image import give
from leftovers import check_nothing_left, mounts_below

from skerry import Client
from skerry.apps.node import instance_of
from skerry.apps.settings import Settings
from skerry.client.autostart import server_command, server_environment
from skerry.client.client import connect, set_default

CHECKOUT = Path(__file__).parents[2]
PATIENCE_S = 60.0
END_S = 10.0
STEP_S = 0.02


class Server:
    """One server with a runtime and a data folder of its own; all that it makes on the machine bears its name."""

    def __init__(self, runtime: Path, data: Path) -> None:
        self.settings = Settings(runtime_dir=runtime, data_dir=data)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def runtime(self) -> Path:
        return self.settings.runtime_dir

    @property
    def data(self) -> Path:
        return self.settings.data_dir

    @property
    def url(self) -> str:
        return f"unix://{self.settings.socket}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def environ(self) -> dict[str, str]:
        """What a client, or a command, needs to find this server and no other."""
        return {
            "SKERRY_RUNTIME_DIR": str(self.runtime),
            "SKERRY_DATA_DIR": str(self.data),
            "SKERRY_AUTOSTART": "0",
        }

    def start(self) -> None:
        """Start it, and return once it listens."""
        self.begin()
        self.wait_until_it_listens()

    def begin(self) -> None:
        """Start it without waiting."""
        self.runtime.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self.runtime / "start.log").open("ab") as said:
            self._process = subprocess.Popen(
                server_command(),
                cwd="/",
                env=server_environment(self.environ),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
                umask=0o077,
            )

    def wait_until_it_listens(self) -> None:
        assert self._process is not None
        with connect(self.url, autostart=False) as client:
            wait_for(lambda: self._process.poll() is not None or _listens(client), "the server's answer")  # type: ignore[union-attr]
        assert self._process.poll() is None, f"it ended: {self.said()}"

    def kill9(self) -> None:
        """Kill it; its sandboxes run on."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def stop(self) -> None:
        """End it in order, if it runs; its sandboxes run on."""
        if self._process is None:
            return
        self._process.terminate()
        assert self._process.wait(PATIENCE_S) == 0, self.said()
        self._process = None

    def said(self) -> str:
        """Return what it wrote, for a test that failed."""
        files = (self.runtime / "start.log", self.settings.log)
        return "\n".join(file.read_text()[-8000:] for file in files if file.exists())

    # What it has on this machine

    def sentries(self) -> list[int]:
        """Return the processes that serve a sandbox's system calls, one for each sandbox."""
        mark = f"--root={self.runtime}/gvisor".encode()
        return [pid for pid in _pids() if mark in _arguments(pid) and b"boot" in _arguments(pid)]

    def check_nothing_left(self) -> None:
        """Fail if the server, which has ended, or a sandbox of it has left anything on the machine."""
        instance = instance_of(self.runtime)
        check_nothing_left(self.runtime, f"sk{instance}")
        check_nothing_left(self.data, f"skerry{instance}")
        self.check_no_sandbox_left()
        self.check_nothing_of_a_build_left()

    def check_no_sandbox_left(self) -> None:
        """Fail if anything of a sandbox is there, once it had time to go."""
        folders = [self.runtime / place for place in ("records", "gvisor/members", "gvisor/sockets")]
        wait_for(lambda: not _entries(folders), lambda: f"the end of {_entries(folders)}", seconds=END_S)
        wait_for(lambda: not self.sentries(), lambda: f"the end of processes {self.sentries()}", seconds=END_S)

    def check_nothing_of_a_build_left(self) -> None:
        """Fail if anything of a build is there, once it had time to go."""
        folders = [self.data / place for place in ("builds", "images/drafts", "bases")]
        wait_for(lambda: not _entries(folders), lambda: f"the end of {_entries(folders)}", seconds=END_S)

    def outputs(self) -> set[str]:
        """Return the sandboxes of which it keeps output."""
        return set(os.listdir(self.data / "output"))


def wait_for(condition, what, *, seconds: float = PATIENCE_S) -> None:  # type: ignore[no-untyped-def]
    """Return once `condition()` holds; fail with `what` was waited for at the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what() if callable(what) else what}"
        time.sleep(STEP_S)


@contextmanager
def real_server(image: Path, runtime: Path) -> Iterator[Server]:
    """Yield a running server that has `image` as its default image. At the end nothing of it is left.

    Calls without `client=` go to it meanwhile.
    """
    place = CHECKOUT / "build" / "servers"  # on the disk of the image, which is given as a second name
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    data = Path(tempfile.mkdtemp(dir=place))
    server = Server(runtime, data)
    give(image, server.settings)
    try:
        server.start()
        with connect(server.url, autostart=False) as client:
            set_default(client)
            try:
                yield server
            finally:
                set_default(None)
                _end_all(server, client)
        server.stop()
        server.check_nothing_left()
    finally:
        _force_end(server)
        shutil.rmtree(data, ignore_errors=True)


def _end_all(server: Server, client: Client) -> None:
    from skerry import Sandbox

    if server._process is None or server._process.poll() is not None:
        server.start()  # its sandboxes are found again, and ended in order
    for sandbox in Sandbox.list(client=client):
        sandbox.terminate(wait=True)


def _force_end(server: Server) -> None:
    """End what a failed test left: only processes that carry this server's own folder."""
    if server._process is not None:
        if server.settings.log.exists():
            shutil.copy(server.settings.log, server.runtime)  # for whoever looks into the failure
        server._process.kill()
        server._process.wait()
        server._process = None
    for pid in server.sentries():
        os.kill(pid, 9)
    for line in mounts_below(server.data):
        subprocess.run(["umount", "--lazy", line.split()[1]], check=False)


def _listens(client: Client) -> bool:
    from skerry import Error, Sandbox

    try:
        next(iter(Sandbox.list(client=client)), None)
    except (Error, OSError):
        return False
    return True


def _entries(folders: list[Path]) -> list[str]:
    return [str(path) for folder in folders if folder.is_dir() for path in folder.iterdir()]


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _arguments(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []
