"""The command line as a program of its own, against a test's server."""

from __future__ import annotations

import os
import subprocess
import sys

from realserver import PATIENCE_S, Server

PROGRAM = (sys.executable, "-c", "from skerry.cli import main; main()")


def start(server: Server, *argv: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*PROGRAM, *argv],
        env=os.environ | server.environ | {"COLUMNS": "200"},
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def skerry(server: Server, *argv: str, stdin: bytes | None = None) -> tuple[bytes, str, int]:
    process = start(server, *argv, stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE)
    out, err = process.communicate(stdin, timeout=PATIENCE_S)
    return out, err.decode(), process.returncode
