"""The programs that come with the package: the gVisor runtime, the agent, the image helper."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from skerry.model.errors import IsolationUnavailableError

RUNSC = "runsc"
AGENT = "skerry-agent"
LAUNCHER = "skerry-launch"
IMAGE_HELPER = "skerry-image"


def place(name: str) -> Path:
    """Return where a program is, if it was built."""
    return Path(str(files("skerry") / "_bin" / name))


def binary(name: str) -> Path:
    """Return the path of a program; raises IsolationUnavailableError if it was never built."""
    path = place(name)
    if not os.access(path, os.X_OK):
        raise IsolationUnavailableError(f"{name} is not built here ({path} is missing); in a checkout, run: make setup")
    return path
