"""Docker's and ufw's real chains, in the network namespace of the calling thread."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What dockerd 28 does to the filter table with its default bridge, command for command.
_DOCKER = """
-N DOCKER
-N DOCKER-FORWARD
-N DOCKER-BRIDGE
-N DOCKER-CT
-N DOCKER-ISOLATION-STAGE-1
-N DOCKER-ISOLATION-STAGE-2
-P FORWARD DROP
-I FORWARD -j DOCKER-FORWARD
-A DOCKER-FORWARD -j DOCKER-CT
-A DOCKER-FORWARD -j DOCKER-ISOLATION-STAGE-1
-A DOCKER-FORWARD -j DOCKER-BRIDGE
-A DOCKER-FORWARD -i docker0 -j ACCEPT
-A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-BRIDGE -o docker0 -j DOCKER
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER ! -i docker0 -o docker0 -j DROP
-N DOCKER-USER
-I FORWARD -j DOCKER-USER
"""


def iptables(kind: str, *words: str) -> str:
    return subprocess.run([f"iptables-{kind}", *words], check=True, text=True, capture_output=True).stdout


def docker_starts(kind: str) -> None:
    """Make Docker's chains with the commands that dockerd gives to iptables."""
    for line in _DOCKER.strip().splitlines():
        iptables(kind, *line.split())


def docker_reloads(kind: str) -> None:
    """Begin anew, as dockerd does after somebody has flushed everything."""
    iptables(kind, "-F")
    iptables(kind, "-X")
    docker_starts(kind)


class Ufw:
    """The real ufw, with settings of its own: those of the machine are covered for each of its commands."""

    def __init__(self, folder: Path) -> None:
        self._settings = folder / "ufw"
        shutil.copytree("/etc/ufw", self._settings)

    def __call__(self, *words: str) -> str:
        cover = 'mount --bind "$1" /etc/ufw && shift && cd / && exec ufw "$@"'
        command = ["unshare", "--mount", "sh", "-c", cover, "sh", str(self._settings), *words]
        return subprocess.run(command, check=True, text=True, capture_output=True, timeout=60).stdout


@contextmanager
def without_accepts(kind: str, table: str) -> Iterator[None]:
    """Take a node's accepts away for the length of the block; no node may be there that puts them back."""
    listing = iptables(kind, "-S").splitlines()
    ours = [line for line in listing if f" {table}:" in line or f'"{table}:' in line]
    assert ours, "there are no accepts"
    for line in ours:
        iptables(kind, *shlex.split(line.replace("-A", "-D", 1)))
    yield
