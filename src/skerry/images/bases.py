"""The images without steps, as the engine asks for them."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from skerry.images.debian import base_key, build_base
from skerry.images.erofs import pack
from skerry.model.errors import ImageBuildError
from skerry.model.specs import ImageConfig

CONFIG = ImageConfig(env={}, workdir="/", user="root")


class DebianBases:
    """The Debian base, built from the machine's own mirror. Matches the engine's `Bases`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

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

        work = asyncio.ensure_future(asyncio.to_thread(self._make, python_version, into, tell))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            # A thread cannot be cancelled. This one stops at its next line, and until then it writes to `into`.
            given_up.set()
            await asyncio.wait([work])
            raise
        return CONFIG

    def _make(self, python_version: str | None, into: Path, progress: Callable[[str], None]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(prefix="base-", dir=self._folder) as folder:
            base = build_base(python_version, Path(folder) / "root", progress=progress)
            pack(base.root, into, timestamp=base.timestamp, progress=progress)
