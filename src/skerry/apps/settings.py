"""Where the local server keeps its things, and how it behaves."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from skerry.model.errors import InvalidError
from skerry.wire.native import PROTOCOL

RUNTIME_DIR: Final = "/run/skerry"
DATA_DIR: Final = "/var/lib/skerry"
IDLE_S: Final = 600.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of one local server.

    In the foreground it tells on stderr what it logs, and stays; else it leaves after `idle_s` seconds without a
    client and without a live sandbox. `group` may use the socket, and with it everything.
    """

    runtime_dir: Path = Path(RUNTIME_DIR)
    data_dir: Path = Path(DATA_DIR)
    group: str | None = None
    foreground: bool = False
    idle_s: float = IDLE_S

    @property
    def socket(self) -> Path:
        """The socket's name carries the protocol's version, so that servers of two versions can stand side by side."""
        return self.runtime_dir / f"v{PROTOCOL}.sock"

    @property
    def log(self) -> Path:
        return self.data_dir / "server.log"


def from_environment(
    environ: Mapping[str, str] = os.environ, *, group: str | None = None, foreground: bool = False
) -> Settings:
    """Return the settings with the folders that SKERRY_RUNTIME_DIR and SKERRY_DATA_DIR name, if they do."""
    return Settings(
        runtime_dir=_folder(environ, "SKERRY_RUNTIME_DIR", RUNTIME_DIR),
        data_dir=_folder(environ, "SKERRY_DATA_DIR", DATA_DIR),
        group=group,
        foreground=foreground,
    )


def _folder(environ: Mapping[str, str], name: str, default: str) -> Path:
    path = Path(environ.get(name) or default)
    if not path.is_absolute():
        raise InvalidError(f"{name}={str(path)!r} is relative; give an absolute path, or unset it for {default}")
    return path
