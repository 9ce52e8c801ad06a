"""What lies in the data folder beside images, output and volumes. Matches the engine's `DataFolders`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from skerry.images import agents, trust
from skerry.model import limits
from skerry.model.storage import StoredKind, StoredThing

# What the folders that only hold something during a build are called, and what that is.
BUILDING: Final = {"bases": "a base", "builds": "a build", "images/drafts": "an image"}
NEEDED: Final = "the server needs it"


class DataFolder:
    """The small things of a server: each folder has a bound of its own, or is emptied when the server starts."""

    def __init__(self, data: Path) -> None:
        self._data = data

    async def look(self) -> list[StoredThing]:
        """Return what there is, without holding up the event loop while the disk works."""
        return await asyncio.to_thread(lambda: [*self._agents(), *self._trust(), *self._builds(), *self._own()])

    def _agents(self) -> Iterator[StoredThing]:
        folders = sorted(_entries(self._data / "agent"), key=_time, reverse=True)
        for place, folder in enumerate(folders):
            why = "new sandboxes use it" if not place else f"the newest {agents.KEPT} builds stay, to go back to"
            yield _thing(StoredKind.AGENT, folder, why)

    def _trust(self) -> Iterator[StoredThing]:
        for file in _entries(self._data / "trust"):
            yield _thing(StoredKind.TRUST, file, f"the newest {trust.KEPT} stay, for sandboxes that name them")

    def _builds(self) -> Iterator[StoredThing]:
        for name, what in BUILDING.items():
            for path in _entries(self._data / name):
                yield _thing(StoredKind.BUILD, path, f"{what} is being made; the next start removes what is left of it")

    def _own(self) -> Iterator[StoredThing]:
        for path in _entries(self._data):
            if path.is_file():
                yield _thing(StoredKind.SERVER, path, NEEDED)


def _thing(kind: StoredKind, path: Path, why: str) -> StoredThing:
    return StoredThing(kind=kind, id=path.name, bytes=disk_bytes(path), used_at=_time(path), why=why)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []


def _time(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0


def disk_bytes(path: Path) -> int:
    """Return what a file, or all that is in a folder, takes on the disk; links are not followed."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return 0
    size = found.st_blocks * limits.STAT_BLOCK
    for folder, _, files in os.walk(path):
        for name in files:
            try:
                size += os.lstat(Path(folder) / name).st_blocks * limits.STAT_BLOCK
            except OSError:
                continue  # gone meanwhile
    return size
