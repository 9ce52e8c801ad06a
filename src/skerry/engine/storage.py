"""What is kept on the disk, what may go, and letting it go at once instead of in its time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from skerry.engine.image_retention import ImageBounds, ImageRetention
from skerry.engine.interfaces import Clock, DataFolders
from skerry.engine.retention import Bounds, Retention
from skerry.engine.sandboxes import Sandboxes
from skerry.engine.volumes import Volumes
from skerry.model.errors import InvalidError
from skerry.model.storage import StoredKind, StoredThing
from skerry.model.text import span

GRACE_S: Final = 60.0
"""What was used so short a time ago stays whatever is asked for: somebody may be about to use it, or to read it."""
OLDEST_S: Final = 10 * 365 * 86400.0


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    """What went, and what is kept."""

    went: Sequence[StoredThing]
    kept: Sequence[StoredThing]


class Storage:
    """Everything that the server keeps. It cleans up by itself; this tells what there is, and does it now."""

    def __init__(
        self,
        *,
        sandboxes: Sandboxes,
        volumes: Volumes,
        retention: Retention,
        image_retention: ImageRetention | None,
        folders: DataFolders | None,
        clock: Clock,
    ) -> None:
        self._sandboxes = sandboxes
        self._volumes = volumes
        self._retention = retention
        self._images = image_retention
        self._folders = folders
        self._clock = clock

    async def look(self, *, older_than_s: float | None = None) -> list[StoredThing]:
        """Return what is kept, and what `collect` would remove: what is beyond the bounds, or was not used for so long.

        Raises InvalidError.
        """
        _check(older_than_s)
        small = [] if self._folders is None else await self._folders.look()
        return [*self._image_files(older_than_s), *self._outputs(older_than_s), *self._volume_disks(), *small]

    async def collect(self, *, older_than_s: float | None = None) -> Cleaned:
        """Remove what may go; raises InvalidError."""
        before = await self.look(older_than_s=older_than_s)
        gone: set[str] = set()
        if self._images is not None:
            gone |= set((await self._images.collect(self._image_bounds(older_than_s))).images)
        gone |= set(await self._retention.sweep(self._ended_bounds(older_than_s)))
        return Cleaned(
            went=[thing for thing in before if thing.id in gone],
            kept=await self.look(older_than_s=older_than_s),
        )

    def _image_files(self, older_than_s: float | None) -> Iterator[StoredThing]:
        judged = [] if self._images is None else self._images.look(self._image_bounds(older_than_s))
        for one in judged:
            shared = len(one.file.images) - 1
            yield StoredThing(
                kind=StoredKind.IMAGE,
                id=one.file.images[0],
                bytes=one.file.size,
                used_at=one.file.used_at,
                goes=one.goes,
                why=one.why + (f" ({shared} more share its file)" if shared else ""),
            )

    def _outputs(self, older_than_s: float | None) -> Iterator[StoredThing]:
        bounds = self._ended_bounds(older_than_s) or self._retention.bounds
        ended, goes = self._retention.look(bounds)
        for one in ended:
            yield StoredThing(
                kind=StoredKind.OUTPUT,
                id=one.id,
                bytes=one.output_bytes,
                used_at=one.ended_at,
                goes=one.id in goes,
                why="it ended long enough ago, or there are too many"
                if one.id in goes
                else f"ended sandboxes are remembered for {span(bounds.age_s)}",
            )
        for sandbox, size in self._sandboxes.live_output():
            yield StoredThing(kind=StoredKind.OUTPUT, id=sandbox, bytes=size, why="its sandbox runs")

    def _volume_disks(self) -> Iterator[StoredThing]:
        for volume in self._volumes.list():
            yield StoredThing(
                kind=StoredKind.VOLUME,
                id=volume.name,
                bytes=self._volumes.disk_bytes(volume.id),
                used_at=None,
                why="volumes stay until `skerry volume rm`",
            )

    def _image_bounds(self, older_than_s: float | None) -> ImageBounds | None:
        if older_than_s is None or self._images is None:
            return None
        return replace(self._images.bounds, unused_s=max(older_than_s, GRACE_S), grace_s=GRACE_S)

    def _ended_bounds(self, older_than_s: float | None) -> Bounds | None:
        return None if older_than_s is None else replace(self._retention.bounds, age_s=max(older_than_s, GRACE_S))


def _check(older_than_s: float | None) -> None:
    if older_than_s is not None and not 0 <= older_than_s <= OLDEST_S:
        raise InvalidError(f"older_than_s is {older_than_s:g}; give a number of seconds from 0 to {OLDEST_S:g}")
