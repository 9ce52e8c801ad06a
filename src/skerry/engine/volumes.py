"""Volumes: found by their names, made, committed, removed; and the files in them, from outside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence

from skerry.engine.admission import check_name
from skerry.engine.interfaces import Clock, FileReading, Store, VolumeDisk
from skerry.model import ids as prefixes
from skerry.model import limits
from skerry.model.errors import ConflictError, NotFoundError, ResourceExhaustedError
from skerry.model.events import Events
from skerry.model.ids import CommitId, Ids, SandboxId, VolumeId
from skerry.model.sandboxes import FileEntry
from skerry.model.text import escaped
from skerry.model.volumes import CommitView, VolumeView

log = Events("skerry.engine")


class Volumes:
    """Every volume of this server."""

    def __init__(
        self,
        *,
        store: Store,
        disk: VolumeDisk,
        clock: Clock,
        ids: Ids,
        users: Callable[[VolumeId], Collection[SandboxId]],
        size_bytes: int = limits.VOLUME_DEFAULT_BYTES,
    ) -> None:
        """`users` returns the sandboxes that live and mount a volume; new volumes get `size_bytes`."""
        self._store = store
        self._disk = disk
        self._clock = clock
        self._ids = ids
        self._users = users
        self._size_bytes = size_bytes
        self._making = asyncio.Lock()
        self._going: set[VolumeId] = set()
        self._turns: dict[VolumeId, asyncio.Lock] = {}

    # Volumes

    async def find(self, name: str, *, create: bool) -> VolumeView:
        """Return the volume of this name; without `create` one that does not exist raises NotFoundError."""
        check_name(name, what="volume")
        async with self._making:
            found = self._store.volume_by_name(name)
            if found is not None and found.id not in self._going:
                return found
            if not create:
                raise NotFoundError(
                    f"there is no volume {name!r}; create it with `skerry volume create {name}`, or "
                    f"`Volume.from_name({name!r}, create_if_missing=True)`"
                )
            return await self._make(name)

    def get(self, volume: VolumeId) -> VolumeView:
        """Raises NotFoundError."""
        found = self._store.volume(volume)
        if found is None or volume in self._going:
            raise NotFoundError(f"there is no volume {escaped(volume, limit=64)!r}; `skerry volume ls` shows them")
        return found

    def list(self) -> Sequence[VolumeView]:
        """Return every volume, by name."""
        return [volume for volume in self._store.volumes() if volume.id not in self._going]

    def disk_bytes(self, volume: VolumeId) -> int:
        """How much of the machine's disk a volume takes, without its commits."""
        return self._disk.disk_bytes(volume)

    async def delete(self, volume: VolumeId) -> None:
        """Delete a volume with its commits; one that is gone already is no error. ConflictError while it is in use."""
        found = self._store.volume(volume)
        if found is None or volume in self._going:
            return
        users = sorted(self._users(volume))
        if users:
            more = f" and {len(users) - 1} more" if len(users) > 1 else ""
            raise ConflictError(
                f"volume {found.name!r} is mounted in sandbox {users[0]}{more}; terminate that first", sandboxes=users
            )
        self._going.add(volume)
        try:
            async with self._turn(volume), self._making:
                await self._disk.remove(volume)
                await self._store.delete_volume(volume)
        finally:
            self._going.discard(volume)
        self._turns.pop(volume, None)
        log.info("volume.deleted", volume=volume)

    async def _make(self, name: str) -> VolumeView:
        if len(self._store.volumes()) >= limits.VOLUMES_MAX:
            raise ResourceExhaustedError(f"there are {limits.VOLUMES_MAX:,} volumes already; delete some first")
        volume = VolumeView(
            id=VolumeId(self._ids.new(prefixes.VOLUME)),
            name=name,
            created_at=self._clock.now(),
            size_bytes=self._size_bytes,
            files_max=self._size_bytes // limits.VOLUME_BYTES_PER_FILE,
        )
        await self._disk.make(volume)  # before the row: a kill in between leaves a folder that nobody knows
        await self._store.put_volume(volume)
        log.info("volume.created", volume=volume.id)
        return volume

    # Commits

    async def commit(self, volume: VolumeId, *, idempotency_key: str | None = None) -> CommitView:
        """Return once the state of the volume is on the disk, to stay; a key that was used returns that commit."""
        self.get(volume)
        async with self._turn(volume):
            view = self.get(volume)  # it may have been deleted meanwhile
            commits = self._store.commits(volume)
            known = None if idempotency_key is None else self._store.commit_by_key(idempotency_key)
            if known is not None:
                return known
            if len(commits) >= limits.VOLUME_COMMITS_MAX:
                raise ResourceExhaustedError(
                    f"volume {view.name!r} has {limits.VOLUME_COMMITS_MAX} commits, and keeps no more; remove some: "
                    f"`skerry volume commits {view.name}`, then `skerry volume rm {view.name} --commit ID`"
                )
            commit = CommitId(self._ids.new(prefixes.COMMIT))
            size = await self._disk.commit(view, commit, previous=commits[0].id if commits else None)
            made = CommitView(id=commit, volume=volume, created_at=self._clock.now(), files=size.files, size=size.size)
            await self._store.put_commit(made, idempotency_key=idempotency_key)
            log.info("volume.committed", volume=volume, commit=commit, files=size.files, bytes=size.size)
            return made

    def commits(self, volume: VolumeId) -> Sequence[CommitView]:
        """Return the commits of a volume, the newest first."""
        return self._store.commits(self.get(volume).id)

    async def delete_commit(self, volume: VolumeId, commit: CommitId) -> None:
        """Delete a commit; one that is gone already is no error."""
        self.get(volume)
        async with self._turn(volume):
            if any(one.id == commit for one in self.commits(volume)):
                await self._store.delete_commit(commit)
                await self._disk.remove_commit(volume, commit)

    # Files, of the volume as it is now, or of a commit

    def files(
        self, volume: VolumeId, path: str | bytes, *, recursive: bool = False, commit: str | None = None
    ) -> AsyncIterator[FileEntry]:
        """Return what is in a folder, in no order."""
        return self._disk.list(
            self.get(volume).id, _text(path), recursive=recursive, commit=self._known(volume, commit)
        )

    async def stat(self, volume: VolumeId, path: str | bytes, *, commit: str | None = None) -> FileEntry:
        return await self._disk.stat(self.get(volume).id, _text(path), commit=self._known(volume, commit))

    async def read(self, volume: VolumeId, path: str | bytes, *, commit: str | None = None) -> FileReading:
        """Return a reading of at most 5 GiB, which the caller closes."""
        return await self._disk.read(self.get(volume).id, _text(path), commit=self._known(volume, commit))

    async def write(
        self,
        volume: VolumeId,
        path: str | bytes,
        chunks: AsyncIterator[bytes | memoryview],
        *,
        mode: int | None = None,
    ) -> int:
        """Return the size once the file is in place; on any failure the old file is untouched."""
        return await self._disk.write(self.get(volume).id, _text(path), chunks, mode=mode)

    async def remove_file(self, volume: VolumeId, path: str | bytes, *, recursive: bool = False) -> None:
        await self._disk.remove_file(self.get(volume).id, _text(path), recursive=recursive)

    def _known(self, volume: VolumeId, commit: str | None) -> CommitId | None:
        if commit is None:
            return None
        for one in self._store.commits(volume):
            if one.id == commit:
                return one.id
        raise NotFoundError(
            f"volume {self.get(volume).name!r} has no commit {escaped(commit, limit=64)!r}; "
            "`skerry volume commits NAME` shows them"
        )

    def _turn(self, volume: VolumeId) -> asyncio.Lock:
        """One commit, or deletion, of a volume at a time."""
        return self._turns.setdefault(volume, asyncio.Lock())


def _text(path: str | bytes) -> str:
    return path if isinstance(path, str) else path.decode("utf-8", "surrogateescape")
