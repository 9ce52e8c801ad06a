"""Where a process's output goes, in Modal's words."""

from __future__ import annotations

import subprocess
from enum import Enum


class StreamType(Enum):
    """`PIPE`: to be read. `DEVNULL`: thrown away in the sandbox. `STDOUT`: printed to this program's stdout at once."""

    DEVNULL = subprocess.DEVNULL
    PIPE = subprocess.PIPE
    STDOUT = subprocess.STDOUT
