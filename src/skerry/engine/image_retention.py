"""How long the files of images are kept that nobody uses, and which go when there are too many.

An image is built again from its definition, so what goes costs time and nothing else. Nothing goes that a sandbox or a
build uses, or that was used a short time ago: between the answer to a build and the sandbox that starts from it, only
the client knows of the image.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Set
from dataclasses import dataclass

from skerry.engine.interfaces import Clock, ImageFiles, Store
from skerry.engine.tasks import repeat
from skerry.model import limits
from skerry.model.events import Events
from skerry.model.ids import ImageId
from skerry.model.sandboxes import StoredImage
from skerry.model.text import span

log = Events("skerry.images")

InUse = Callable[[], Collection[ImageId]]


@dataclass(frozen=True, kw_only=True)
class ImageBounds:
    """What is kept of images that nobody uses: whichever bound is reached first."""

    unused_s: float = 30 * 24 * 3600.0
    total_bytes: int = 50 * limits.GIB
    free_bytes: int = 2 * limits.GIB
    grace_s: float = 3600.0
    every_s: float = 300.0


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What went, and how much space that gave."""

    images: tuple[ImageId, ...] = ()
    freed_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class File:
    """One file, with all the images that have it: its space comes back when the last of them goes."""

    images: tuple[ImageId, ...]
    size: int
    used_at: float


def files_of(stored: Iterable[StoredImage]) -> list[File]:
    """Return the files of images, the one that was used longest ago in front."""
    sharing: dict[int, list[StoredImage]] = defaultdict(list)
    for one in stored:
        sharing[one.inode].append(one)
    files = [
        File(images=tuple(one.id for one in some), size=some[0].size, used_at=max(one.used_at for one in some))
        for some in sharing.values()
    ]
    return sorted(files, key=lambda file: file.used_at)


def unneeded(
    stored: Iterable[StoredImage], *, in_use: Set[ImageId], free_bytes: int, now: float, bounds: ImageBounds
) -> list[File]:
    """Return the files to remove: unused for too long, or those used longest ago while there is too little room."""
    files = files_of(stored)
    total = sum(file.size for file in files)
    goes: list[File] = []
    for file in files:
        unused_s = now - file.used_at
        if unused_s < bounds.grace_s or not in_use.isdisjoint(file.images):
            continue
        if unused_s > bounds.unused_s or total > bounds.total_bytes or free_bytes < bounds.free_bytes:
            goes.append(file)
            total, free_bytes = total - file.size, free_bytes + file.size
    return goes


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One file, whether it goes, and why, or why it stays."""

    file: File
    goes: bool
    why: str


class ImageRetention:
    """Removes the images that are not needed: their files first, then their rows.

    A kill in between leaves rows without a file: built again when somebody asks, and removed by the next turn.
    """

    def __init__(
        self, *, store: Store, files: ImageFiles, in_use: InUse, clock: Clock, bounds: ImageBounds | None = None
    ) -> None:
        self._store = store
        self._files = files
        self._in_use = in_use
        self._clock = clock
        self._bounds = bounds or ImageBounds()
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Collect now, and every few minutes."""
        await repeat(
            self.collect, clock=self._clock, every_s=self._bounds.every_s, log=log, failed="images.not_collected"
        )

    @property
    def bounds(self) -> ImageBounds:
        """What is kept without anybody asking."""
        return self._bounds

    def look(self, bounds: ImageBounds | None = None) -> list[Judged]:
        """Return every file, and what `collect` would make of it."""
        chosen = bounds or self._bounds
        stored, in_use, now = self._known(), set(self._in_use()), self._clock.now()
        goes = unneeded(stored, in_use=in_use, free_bytes=self._files.free_bytes(), now=now, bounds=chosen)
        going = {file.images for file in goes}
        return [
            Judged(file=file, goes=file.images in going, why=_why(file, file.images in going, in_use, now, chosen))
            for file in files_of(stored)
        ]

    async def collect(self, bounds: ImageBounds | None = None) -> Collected:
        """Remove what is beyond the bounds, or beyond those given; return what went."""
        async with self._turn:
            await self._forget_rows_without_file()
            goes = self._remove_files(bounds or self._bounds)
            for image in (image for file in goes for image in file.images):
                await self._store.delete_image(image)
        collected = Collected(
            images=tuple(image for file in goes for image in file.images), freed_bytes=sum(file.size for file in goes)
        )
        if goes:
            log.info("images.collected", images=len(collected.images), bytes=collected.freed_bytes)
        return collected

    def _remove_files(self, bounds: ImageBounds) -> list[File]:
        """Decide and remove without waiting in between, so that nobody begins to use what is being removed."""
        goes = unneeded(
            self._known(),
            in_use=set(self._in_use()),
            free_bytes=self._files.free_bytes(),
            now=self._clock.now(),
            bounds=bounds,
        )
        for file in goes:
            for image in file.images:
                self._files.remove(image)
        return goes

    def _known(self) -> list[StoredImage]:
        """Return the images that have a row: one without is about to get it."""
        known = set(self._store.images())
        return [one for one in self._files.stored() if one.id in known]

    async def _forget_rows_without_file(self) -> None:
        there = {one.id for one in self._files.stored()}
        for image in self._store.images():
            if image not in there:
                await self._store.delete_image(image)


def _why(file: File, goes: bool, in_use: Set[ImageId], now: float, bounds: ImageBounds) -> str:
    if not in_use.isdisjoint(file.images):
        return "a sandbox or a build uses it"
    unused_s = now - file.used_at
    if unused_s < bounds.grace_s:
        return f"it was used within the last {span(bounds.grace_s)}"
    if not goes:
        return f"it was used within the last {span(bounds.unused_s)}, and there is room"
    if unused_s > bounds.unused_s:
        return "nobody has used it for long enough"
    return "there is too little room, and the others were used later"
