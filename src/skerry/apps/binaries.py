"""The programs that come with the package: the gVisor runtime, the agent, the image helper."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from skerry.model.errors import IsolationUnavailableError


def binary(name: str) -> Path:
    """Return the path of a program; raises IsolationUnavailableError if it was never built."""
    path = Path(str(files("skerry") / "_bin" / name))
    if not os.access(path, os.X_OK):
        raise IsolationUnavailableError(f"{name} is not built here ({path} is missing); in a checkout, run: make setup")
    return path


RUNSC = "runsc"
AGENT = "skerry-agent"
IMAGE_HELPER = "skerry-image"
