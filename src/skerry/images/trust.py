"""Images that hold a CA bundle, mounted in sandboxes so that it never becomes part of their files."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from pathlib import Path
from typing import Final

from skerry.images.erofs import File, pack_tree

FILE: Final = "ca-certificates.crt"
KEPT: Final = 16  # beyond it the image that was made first goes; sandboxes that have it mounted keep their own


class TrustFolder:
    """One small EROFS file for each bundle, named by its digest. Matches the node's `TrustImages`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = asyncio.Lock()

    def open(self) -> None:
        """Remove what a packing has left that a kill cut off, and what is there beyond the bound."""
        for left in self._folder.glob(".*"):
            shutil.rmtree(left, ignore_errors=True)
        self._shrink(KEPT)

    async def image(self, bundle: bytes) -> Path:
        """Return the EROFS file with this bundle, made now if there is none."""
        path = self._folder / f"{hashlib.sha256(bundle).hexdigest()}.erofs"
        if not path.exists():
            async with self._lock:
                await asyncio.to_thread(self._make, path, bundle)
        return path

    def _make(self, path: Path, bundle: bytes) -> None:
        if path.exists():
            return
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._shrink(KEPT - 1)
        pack_tree({FILE: File(content=bundle)}, path)

    def _shrink(self, most: int) -> None:
        old = sorted(self._folder.glob("*.erofs"), key=lambda each: each.stat().st_mtime)
        for each in old[: max(0, len(old) - most)]:
            each.unlink()
