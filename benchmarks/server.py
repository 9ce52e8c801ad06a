"""A local server of the benchmarks' own, so that nothing of the user's is touched or measured."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import skerry
from benchmarks.base_image import give
from skerry.apps.node import instance_of
from skerry.apps.settings import Settings
from skerry.client.autostart import server_environment

_START_S = 60.0
_STOP_S = 60.0


@dataclass(frozen=True)
class Server:
    """A server that runs, and where its things are."""

    pid: int
    settings: Settings

    @property
    def mark(self) -> str:
        """What stands among the arguments of every process of a sandbox of this server."""
        return f"--root={self.settings.runtime_dir}"

    @property
    def prefix(self) -> str:
        """How the names of its network devices and firewall tables begin; its control groups have it in theirs."""
        return f"sk{self.instance}"

    @property
    def instance(self) -> str:
        return instance_of(self.settings.runtime_dir)


@contextmanager
def running(folder: Path, image: Path) -> Iterator[Server]:
    """Yield a server with its folders in `folder` and the default image from a file.

    At the end its sandboxes are gone, and what they wrote.
    """
    settings = Settings(runtime_dir=folder / "run", data_dir=folder / "data")
    give(image, settings)
    process = _start(settings)
    os.environ["SKERRY_URL"] = f"unix://{settings.socket}"  # from here on the SDK of this process goes there
    try:
        _wait_until_it_listens(process, settings)
        yield Server(process.pid, settings)
    finally:
        _stop(process, settings)


def _start(settings: Settings) -> subprocess.Popen[bytes]:
    settings.runtime_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    folders = {"SKERRY_RUNTIME_DIR": str(settings.runtime_dir), "SKERRY_DATA_DIR": str(settings.data_dir)}
    with (settings.runtime_dir / "start.log").open("w") as said:
        return subprocess.Popen(
            # Not in the foreground: should this program be killed, the server leaves by itself in the end.
            [sys.executable, "-I", "-m", "skerry.apps.local"],
            env=server_environment(folders),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,  # Ctrl-C reaches us alone, and we end it in order
        )


def _wait_until_it_listens(process: subprocess.Popen[bytes], settings: Settings) -> None:
    deadline = time.monotonic() + _START_S
    while not _listens(settings.socket):
        if process.poll() is not None or time.monotonic() > deadline:
            said = (settings.runtime_dir / "start.log").read_text().strip()
            raise RuntimeError(f"the server of the benchmarks did not start ({settings.log}): {said}")
        time.sleep(0.02)


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def _stop(process: subprocess.Popen[bytes], settings: Settings) -> None:
    if process.poll() is None:
        with suppress(skerry.Error):
            for sandbox in skerry.Sandbox.list():
                sandbox.terminate(wait=True)
        process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    shutil.rmtree(settings.data_dir / "output", ignore_errors=True)
