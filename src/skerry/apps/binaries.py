"""The programs that come with the package: the gVisor runtime, the agent, the image helper."""

from __future__ import annotations

import os
import sys
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
    """Return the path of a program; raises IsolationUnavailableError if it is not there, or cannot be executed."""
    path = place(name)
    if not os.access(path, os.X_OK):
        raise IsolationUnavailableError(
            f"{path} is missing or cannot be executed; run `make setup` in a checkout, or install the wheel again"
        )
    return path


def restored_by(make: str) -> str:
    """Return the command that brings the programs back: in a checkout that build, elsewhere the wheel anew."""
    package = Path(str(files("skerry")))
    if (package.parents[1] / "tools" / "build_runtime.py").exists():
        return make
    return f"{sys.executable} -m pip install --force-reinstall --no-deps skerry-*.whl"
