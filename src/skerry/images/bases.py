"""The images without steps, as the engine asks for them."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from skerry.images.debian import base_key, build_base
from skerry.images.erofs import pack
from skerry.model.errors import ImageBuildError
from skerry.model.specs import ImageConfig

PREFIX = "base-"
CONFIG = ImageConfig(env={}, workdir="/", user="root")


class DebianBases:
    """The Debian base, built from the machine's own mirror. Matches the engine's `Bases`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def sweep(self) -> list[str]:
        """Remove what is left of bases whose build was cut off by the end of a server; return a line for each."""
        lines = []
        for left in sorted(self._folder.glob(f"{PREFIX}*")):
            mounted = [place for place in _mount_points() if place.is_relative_to(left)]
            if mounted:  # of mmdebstrap: below it may be folders of this machine
                lines.append(f"left {left}: something is mounted in it; run `umount -R {mounted[0]}`")
                continue
            shutil.rmtree(left, ignore_errors=True)
            lines.append(f"removed {left.name}: a base that was never finished")
        return lines

    def key(self, python_version: str | None) -> str:
        """Return what changes when the base would come out differently. Raises InvalidError for an unknown version."""
        return base_key(python_version)

    async def make(self, python_version: str | None, into: Path, progress: Callable[[str], None]) -> ImageConfig:
        """Write the base to the file `into`. Raises ImageBuildError, InvalidError."""
        given_up = threading.Event()

        def tell(line: str) -> None:
            if given_up.is_set():
                raise ImageBuildError("nobody waits for this base any more")
            progress(line)

        work = asyncio.ensure_future(asyncio.to_thread(self._make, python_version, into, tell, given_up))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            # A thread cannot be cancelled. This one stops at the next turn, and until then it writes to `into`.
            given_up.set()
            await asyncio.wait([work])
            raise
        return CONFIG

    def _make(
        self, python_version: str | None, into: Path, progress: Callable[[str], None], stop: threading.Event
    ) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(prefix=PREFIX, dir=self._folder) as folder:
            base = build_base(python_version, Path(folder) / "root", progress=progress, stop=stop)
            pack(base.root, into, timestamp=base.timestamp, progress=progress)


def _mount_points() -> list[Path]:
    """Return where something is mounted, as this process sees it."""
    places = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return [
        Path(re.sub(r"\\([0-7]{3})", lambda octal: os.fsdecode(bytes([int(octal[1], 8)])), place)) for place in places
    ]
