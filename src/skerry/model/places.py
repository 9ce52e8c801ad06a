"""Where a local server keeps its things: the folders, and the names in them that a client knows too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from skerry.model.errors import InvalidError

RUNTIME_DIR: Final = "/run/skerry"
DATA_DIR: Final = "/var/lib/skerry"

# In the runtime folder, beside the socket: who starts the server holds the lock, and the server's first words.
START_LOCK: Final = "start.lock"
START_LOG: Final = "start.log"
# In the data folder.
SERVER_LOG: Final = "server.log"
KEY_FILE: Final = "secrets.keys"


def runtime_dir(environ: Mapping[str, str]) -> Path:
    """Return the folder of the socket, which SKERRY_RUNTIME_DIR may name; raises InvalidError if it is relative."""
    return _folder(environ, "SKERRY_RUNTIME_DIR", RUNTIME_DIR)


def data_dir(environ: Mapping[str, str]) -> Path:
    """Return the folder of all that lasts, which SKERRY_DATA_DIR may name; raises InvalidError if it is relative."""
    return _folder(environ, "SKERRY_DATA_DIR", DATA_DIR)


def _folder(environ: Mapping[str, str], name: str, default: str) -> Path:
    path = Path(environ.get(name) or default)
    if not path.is_absolute():
        raise InvalidError(f"{name}={str(path)!r} is relative; give an absolute path, or unset it for {default}")
    return path
