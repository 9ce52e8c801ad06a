"""The filter tables that iptables keeps, in either of its kinds, through its own programs. Blocking.

Rules of iptables are changed by iptables only: it refuses to work with a table in which nftables wrote what it cannot
show, and the older kind (`legacy`) is not part of nftables at all.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from skerry.model.errors import InternalError
from skerry.node.network.accepts import FilterTable

KINDS = ("nft", "legacy")
_LEGACY_TABLES = Path("/proc/thread-self/net/ip_tables_names")
_PATH = "/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin:/usr/local/bin"
_DEADLINE_S = 10.0


class Iptables:
    """One kind of iptables in the network namespace of the calling thread."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.name = f"iptables-{kind}"

    def filter(self) -> FilterTable:
        """Return the filter table; raises InternalError if the program is missing or does not understand it."""
        return FilterTable(self._run([self.name, "--wait=1", "-S"]))

    def change(self, lines: Sequence[str]) -> None:
        """Carry out all of `lines`, or none of them."""
        text = "\n".join(("*filter", *lines, "COMMIT", ""))
        self._run([f"{self.name}-restore", "--noflush", "--wait=1"], text)

    def _run(self, command: Sequence[str], text: str = "") -> str:
        program = shutil.which(command[0], path=_PATH)
        if program is None:
            raise InternalError(f"{command[0]} is not installed; install it with: apt install iptables")
        try:
            done = subprocess.run(
                [program, *command[1:]],
                input=text, capture_output=True, text=True, timeout=_DEADLINE_S, env={**os.environ, "LC_ALL": "C"},
            )  # fmt: skip
        except subprocess.TimeoutExpired as exc:
            raise InternalError(f"{command[0]} gave no answer within {_DEADLINE_S:.0f} s") from exc
        if done.returncode:
            raise InternalError(f"{command[0]} refused: {done.stderr.strip()[:500]}")
        return done.stdout


def has_legacy_filter() -> bool:
    """Tell whether the older kind has a filter table here; asking its program would make one."""
    try:
        return "filter" in _LEGACY_TABLES.read_text().split()
    except OSError:  # a kernel without it
        return False
