"""The volumes of one machine, in one folder: what the engine asks of them, and what a node mounts.

VOLUMES/                       0700, the server's own
  vo_…/image.ext4              the volume: a file system in a sparse file
  vo_…/commits/vc_…            a list of all that was in it
  vo_…/blobs/xx/…              the contents of its files in commits
  mounted/vo_…/files/          the volume's root while anyone uses it

A volume is mounted while somebody holds it: a sandbox, or one operation from outside.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

from skerry.model.errors import ConflictError, Error
from skerry.model.events import Events
from skerry.model.ids import VOLUME, CommitId, VolumeId, is_id
from skerry.model.limits import STAT_BLOCK
from skerry.model.sandboxes import FileEntry
from skerry.model.volumes import VolumeView
from skerry.volumes import disks, trees
from skerry.volumes.beneath import failure, parse
from skerry.volumes.blobs import sync
from skerry.volumes.commits import Commits, CommitSize
from skerry.volumes.files import FileReading

log = Events("skerry.volumes")

T = TypeVar("T")

_IMAGE: Final = "image.ext4"
_MOUNTED: Final = "mounted"
_ROOT: Final = "files"
_ROOT_MODE: Final = 0o755
_LISTED_AT_ONCE: Final = 500


class VolumeFolder:
    """Matches the engine's `VolumeDisk` and the node's `VolumeMounts`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mounted = folder / _MOUNTED
        self._holders: dict[VolumeId, set[str]] = {}
        self._locks: dict[VolumeId, asyncio.Lock] = {}

    def open(self) -> None:
        """Make the folders."""
        for folder in (self._folder, self._mounted):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    # Held by sandboxes and operations

    async def hold(self, volume: VolumeId, holder: str) -> Path:
        """Return the root of a volume, mounted until `holder` lets go of it; raises ConflictError."""
        async with self._lock(volume):
            at = self._mounted / volume
            holders = self._holders.setdefault(volume, set())
            if not holders and at not in disks.mounted_below(self._mounted):
                await disks.mount(self._folder / volume / _IMAGE, at)
            holders.add(holder)
            root = at / _ROOT
            with contextlib.suppress(FileExistsError):
                root.mkdir()
                root.chmod(_ROOT_MODE)
            return root

    async def release(self, volume: VolumeId, holder: str) -> None:
        """Let go of it; it is unmounted with its last holder, or by the sweep where that fails now."""
        async with self._lock(volume):
            holders = self._holders.get(volume, set())
            holders.discard(holder)
            if not holders:
                self._holders.pop(volume, None)
                await self._unmount(volume)

    async def sweep(self) -> Sequence[str]:
        """Unmount what nobody holds; return a line for each."""
        lines = []
        for at in disks.mounted_below(self._mounted):
            volume = VolumeId(at.name)
            async with self._lock(volume):
                if not self._holders.get(volume) and await self._unmount(volume):
                    lines.append(f"volumes: unmounted {volume}, which nobody held")
        return lines

    async def clean(self, known: Callable[[VolumeId], Collection[CommitId] | None]) -> Sequence[str]:
        """Remove volumes and commits of which no row tells: a kill came in the middle. For a server's start.

        `known` returns the commits of a volume, or None for one that there is not.
        """
        lines = []
        for folder in sorted(self._folder.iterdir()):
            if not is_id(folder.name.partition(".")[0], VOLUME):
                continue
            commits = known(VolumeId(folder.name))
            if commits is None:
                await asyncio.to_thread(shutil.rmtree, folder)
                lines.append(f"volumes: removed {folder.name}: no volume of that id is known")
            elif await asyncio.to_thread(Commits(folder).sweep, set(commits)):
                lines.append(f"volumes: removed commits of {folder.name} that were never told")
        return lines

    # Volumes

    async def make(self, volume: VolumeView) -> None:
        """Make an empty volume, on disk when this returns."""
        folder = self._folder / volume.id
        folder.mkdir(mode=0o700)
        try:
            await disks.make(folder / _IMAGE, size_bytes=volume.size_bytes, files_max=volume.files_max)
            for one in (folder, self._folder):
                await asyncio.to_thread(sync, one)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    async def remove(self, volume: VolumeId) -> None:
        """Remove a volume with all its commits; raises ConflictError while anyone holds it."""
        async with self._lock(volume):
            if self._holders.get(volume):
                raise ConflictError(f"volume {volume} is in use; try again when that is over")
            await self._unmount(volume)
            await asyncio.to_thread(shutil.rmtree, self._folder / volume, ignore_errors=True)
        self._locks.pop(volume, None)

    def disk_bytes(self, volume: VolumeId) -> int:
        """How much of the machine's disk a volume takes, without its commits."""
        try:
            return os.stat(self._folder / volume / _IMAGE).st_blocks * STAT_BLOCK
        except FileNotFoundError:
            return 0

    # Commits

    async def commit(self, volume: VolumeView, commit: CommitId, *, previous: CommitId | None) -> CommitSize:
        """Return once the state of the volume is on disk as this commit."""
        async with self._root(volume.id) as root:
            make = self._commits(volume.id).make
            return await _blocking(b"", make, commit, root, previous=previous, size_bytes=volume.size_bytes)

    async def remove_commit(self, volume: VolumeId, commit: CommitId) -> None:
        await asyncio.to_thread(self._commits(volume).remove, commit)

    # Files, of the live volume or of a commit

    async def list(
        self, volume: VolumeId, path: str, *, recursive: bool = False, commit: CommitId | None = None
    ) -> AsyncIterator[FileEntry]:
        """Yield what is in a folder."""
        name = parse(path)
        if commit is not None:
            async for one in _in_portions(name, self._commits(volume).files(commit, name, recursive=recursive)):
                yield one
            return
        async with self._root(volume) as root:
            found = trees.walk(root, name, recursive=recursive)
            async for one in _in_portions(name, (each.entry() for each in found)):
                yield one

    async def stat(self, volume: VolumeId, path: str, *, commit: CommitId | None = None) -> FileEntry:
        name = parse(path)
        if commit is not None:
            return await _blocking(name, self._commits(volume).look, commit, name)
        async with self._root(volume) as root:
            return (await _blocking(name, trees.look, root, name)).entry()

    async def read(self, volume: VolumeId, path: str, *, commit: CommitId | None = None) -> FileReading:
        """Return a reading of a regular file, which the caller closes."""
        name = parse(path)
        if commit is not None:
            return FileReading(*await _blocking(name, self._commits(volume).open_file, commit, name))
        holding = contextlib.AsyncExitStack()
        try:
            root = await holding.enter_async_context(self._root(volume))
            opened = await _blocking(name, trees.open_file, root, name)
        except BaseException:
            await holding.aclose()
            raise
        return FileReading(*opened, held=holding)

    async def write(
        self, volume: VolumeId, path: str, chunks: AsyncIterator[bytes | memoryview], *, mode: int | None = None
    ) -> int:
        """Put a file in place, with the folders above it, and return its size; a failure leaves what was there."""
        name = parse(path)
        async with self._root(volume) as root:
            draft = await _blocking(name, trees.Draft, root, name, mode=mode)
            try:
                async for chunk in chunks:
                    await _blocking(name, draft.write, chunk)
                return await _blocking(name, draft.keep)
            finally:
                draft.close()

    async def remove_file(self, volume: VolumeId, path: str, *, recursive: bool = False) -> None:
        """Remove a file, a link or an empty folder; with `recursive` a whole tree."""
        name = parse(path)
        async with self._root(volume) as root:
            await _blocking(name, trees.remove, root, name, recursive=recursive)

    # The inside

    def _commits(self, volume: VolumeId) -> Commits:
        return Commits(self._folder / volume)

    @asynccontextmanager
    async def _root(self, volume: VolumeId) -> AsyncIterator[int]:
        """Yield the root of a volume as an open folder, held until the block ends."""
        holder = f"operation {secrets.token_hex(8)}"
        root = await self.hold(volume, holder)
        try:
            descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                yield descriptor
            finally:
                os.close(descriptor)
        finally:
            await asyncio.shield(self.release(volume, holder))

    async def _unmount(self, volume: VolumeId) -> bool:
        """Unmount it if it is mounted; tell whether it was. A failure is logged: the sweep tries again."""
        at = self._mounted / volume
        if at not in disks.mounted_below(self._mounted):
            with contextlib.suppress(FileNotFoundError):
                at.rmdir()
            return False
        try:
            await disks.unmount(at)
        except Error as exc:
            log.warning("volume.not_unmounted", volume=volume, cause=str(exc))
            return False
        return True

    def _lock(self, volume: VolumeId) -> asyncio.Lock:
        return self._locks.setdefault(volume, asyncio.Lock())


async def _blocking(path: bytes, work: Callable[..., T], *args: object, **options: object) -> T:
    """Return what blocking work returns, done in a thread; what the kernel says about `path` becomes an Error."""
    try:
        return await asyncio.to_thread(work, *args, **options)
    except OSError as exc:
        raise failure(path, exc) from exc


async def _in_portions(path: bytes, found: Iterator[FileEntry]) -> AsyncIterator[FileEntry]:
    while portion := await _blocking(path, lambda: list(islice(found, _LISTED_AT_ONCE))):
        for one in portion:
            yield one
