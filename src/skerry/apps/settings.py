"""Where the local server keeps its things, and how it behaves."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from skerry.model import places
from skerry.wire.native import SOCKET_NAME

IDLE_S: Final = 600.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of one local server.

    In the foreground it tells on stderr what it logs, and stays; else it leaves after `idle_s` seconds without a
    client and without a live sandbox. `group` may use the socket, and with it everything.
    """

    runtime_dir: Path = Path(places.RUNTIME_DIR)
    data_dir: Path = Path(places.DATA_DIR)
    group: str | None = None
    foreground: bool = False
    idle_s: float = IDLE_S

    @property
    def socket(self) -> Path:
        return self.runtime_dir / SOCKET_NAME

    @property
    def log(self) -> Path:
        return self.data_dir / places.SERVER_LOG


def from_environment(
    environ: Mapping[str, str] = os.environ, *, group: str | None = None, foreground: bool = False
) -> Settings:
    """Return the settings with the folders that SKERRY_RUNTIME_DIR and SKERRY_DATA_DIR name, if they do."""
    return Settings(
        runtime_dir=places.runtime_dir(environ),
        data_dir=places.data_dir(environ),
        group=group,
        foreground=foreground,
    )
