"""Where the local server keeps its things, and how it behaves."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from skerry.engine.image_retention import ImageBounds
from skerry.engine.retention import Bounds
from skerry.model import places
from skerry.model.errors import InvalidError
from skerry.model.limits import GIB, MIB, VOLUME_DEFAULT_BYTES
from skerry.wire.native import SOCKET_NAME

IDLE_S: Final = 600.0
IMAGES_GIB: Final = "SKERRY_IMAGES_GIB"
IMAGES_DAYS: Final = "SKERRY_IMAGES_DAYS"
KEY_FILE: Final = "SKERRY_KEY_FILE"
ENDED_DAYS: Final = "SKERRY_ENDED_DAYS"
ENDED_MAX: Final = "SKERRY_ENDED_MAX"
VOLUME_GIB: Final = "SKERRY_VOLUME_GIB"
VOLUME_GIB_MIN: Final = 0.125  # of which ext4's journal takes 32 MiB
VOLUME_GIB_MAX: Final = 8192
_DAY_S: Final = 24 * 3600.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of one local server.

    In the foreground it tells on stderr what it logs, and stays; else it leaves after `idle_s` seconds without a
    client and without a live sandbox. `group` may use the socket, and with it everything.
    """

    runtime_dir: Path = Path(places.RUNTIME_DIR)
    data_dir: Path = Path(places.DATA_DIR)
    keys: Path | None = None
    group: str | None = None
    foreground: bool = False
    idle_s: float = IDLE_S
    images: ImageBounds = field(default_factory=ImageBounds)
    ended: Bounds = field(default_factory=Bounds)
    volume_bytes: int = VOLUME_DEFAULT_BYTES

    @property
    def socket(self) -> Path:
        return self.runtime_dir / SOCKET_NAME

    @property
    def key_file(self) -> Path:
        """The file of the keys that encrypt secrets."""
        return self.keys or self.data_dir / places.KEY_FILE

    @property
    def log(self) -> Path:
        return self.data_dir / places.SERVER_LOG


def from_environment(
    environ: Mapping[str, str] = os.environ, *, group: str | None = None, foreground: bool = False
) -> Settings:
    """Return the settings with the folders and bounds that the environment names, if it does; raises InvalidError."""
    return Settings(
        runtime_dir=places.runtime_dir(environ),
        data_dir=places.data_dir(environ),
        keys=_key_file(environ),
        group=group,
        foreground=foreground,
        images=_image_bounds(environ),
        ended=_ended_bounds(environ),
        volume_bytes=_volume_bytes(environ),
    )


def _volume_bytes(environ: Mapping[str, str]) -> int:
    gib = _number(environ, VOLUME_GIB, VOLUME_DEFAULT_BYTES / GIB)
    if not VOLUME_GIB_MIN <= gib <= VOLUME_GIB_MAX:
        raise InvalidError(f"{VOLUME_GIB}={gib:g} is not between {VOLUME_GIB_MIN:g} and {VOLUME_GIB_MAX:,}")
    return round(gib * GIB / MIB) * MIB


def _key_file(environ: Mapping[str, str]) -> Path | None:
    text = environ.get(KEY_FILE)
    if not text:
        return None
    if not text.startswith("/"):
        raise InvalidError(f"{KEY_FILE}={text!r} is relative; give an absolute path")
    return Path(text)


def _image_bounds(environ: Mapping[str, str]) -> ImageBounds:
    bounds = ImageBounds()
    return replace(
        bounds,
        total_bytes=round(_number(environ, IMAGES_GIB, bounds.total_bytes / GIB) * GIB),
        unused_s=_number(environ, IMAGES_DAYS, bounds.unused_s / _DAY_S) * _DAY_S,
    )


def _ended_bounds(environ: Mapping[str, str]) -> Bounds:
    bounds = Bounds()
    return replace(
        bounds,
        age_s=_number(environ, ENDED_DAYS, bounds.age_s / _DAY_S) * _DAY_S,
        rows=round(_number(environ, ENDED_MAX, bounds.rows)),
    )


def _number(environ: Mapping[str, str], name: str, default: float) -> float:
    text = environ.get(name)
    if not text:
        return default
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise InvalidError(f"{name}={text!r} is no number of 0 or more; unset it for {default:g}")
    return number
