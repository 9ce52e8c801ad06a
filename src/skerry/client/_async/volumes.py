"""Volumes: storage that outlives sandboxes, mounted in several of them at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import BinaryIO

from skerry.client import volume_files, words
from skerry.client._core import views
from skerry.client.client import Client, resolve
from skerry.client.connection import Connection, path
from skerry.client.fileinfo import FileInfo, from_entry
from skerry.model.errors import InvalidError, NotFoundError
from skerry.model.volumes import CommitView, VolumeView
from skerry.wire import native

COMMIT_S = 3600.0


class Volume:
    """A volume by its name. `Sandbox.create(volumes={"/data": volume})` mounts it.

    All sandboxes that mount it write to it at the same time, and each sees at once what the others wrote.
    """

    def __init__(
        self, name: str, *, create_if_missing: bool = False, read_only: bool = False, client: Client | None = None
    ) -> None:
        self._name = name
        self._create = create_if_missing
        self._read_only = read_only
        self._client = client
        self._view: VolumeView | None = None

    @staticmethod
    def from_name(
        name: str, *, create_if_missing: bool = False, client: Client | None = None, **idle: object
    ) -> Volume:
        """Return the volume of this name; the server is asked for it, or to make it, at its first use."""
        words.refuse_idle("Volume.from_name", idle, words.VOLUME_IDLE)
        if not isinstance(name, str) or not name:
            raise InvalidError(f"Volume.from_name: name={name!r}: give a string, such as 'my-data'")
        return Volume(name, create_if_missing=create_if_missing, client=client)

    @staticmethod
    async def list(*, client: Client | None = None) -> AsyncIterator[Volume]:
        """Yield every volume, by name."""
        chosen = resolve(client)
        connection = await chosen.connection()
        for one in (await connection.call("GET", path("volumes")))["volumes"]:
            made = Volume(str(one["name"]), client=client)
            made._view = views.volume(one)
            yield made

    @staticmethod
    async def delete(name: str, *, allow_missing: bool = False, client: Client | None = None) -> None:
        """Delete a volume with its commits; raises ConflictError while a sandbox mounts it."""
        volume = Volume(name, client=client)
        try:
            view = await volume._look()
        except NotFoundError:
            if allow_missing:
                return
            raise
        await (await volume._connection()).call("POST", path("volumes", view.id, "delete"), body={})

    @property
    def name(self) -> str:
        return self._name

    @property
    def object_id(self) -> str | None:
        """The volume's id, once it was used."""
        return None if self._view is None else self._view.id

    @property
    def view(self) -> VolumeView | None:
        """All that is known of the volume, in the model's words, once it was used."""
        return self._view

    async def hydrate(self) -> Volume:
        """Ask the server for the volume now, or to make it, and return it."""
        await self._look()
        return self

    def read_only(self) -> Volume:
        """Return the same volume for mounts in which nothing can be written."""
        made = Volume(self._name, create_if_missing=self._create, read_only=True, client=self._client)
        made._view = self._view
        return made

    async def commit(self) -> str:
        """Keep the state of the volume and return its id: it is on the disk, and stays as it is.

        `read_file`, `iterdir` and `listdir` take it as `commit=`.
        """
        view, connection = await self._look(), await self._connection()
        key = resolve(self._client).ids.new("ik")
        answer = await connection.call("POST", path("volumes", view.id, "commits"), body={}, key=key, timeout=COMMIT_S)
        return views.commit(answer).id

    async def reload(self) -> None:
        """Return once what others wrote can be seen, which is always: all mounts share the live volume."""
        await (await self._connection()).call("GET", path("volumes", (await self._look()).id))

    async def commits(self) -> Sequence[CommitView]:
        """Return the commits of the volume, the newest first."""
        view, connection = await self._look(), await self._connection()
        found = (await connection.call("GET", path("volumes", view.id, "commits")))["commits"]
        return [views.commit(one) for one in found]

    async def delete_commit(self, commit: str) -> None:
        """Delete a commit; one that is gone already is no error."""
        view, connection = await self._look(), await self._connection()
        await connection.call("POST", path("volumes", view.id, "commits", commit, "delete"), body={})

    async def iterdir(self, path: str, *, recursive: bool = True, commit: str | None = None) -> AsyncIterator[FileInfo]:
        """Yield what is in a folder of the volume, with all that is below it unless `recursive` is False."""
        opening = native.OpenVolumeList(
            volume=(await self._look()).id, path=native.encode_name(path), recursive=recursive, commit=commit
        )
        for entry in await volume_files.entries(resolve(self._client), opening):
            yield from_entry(entry)

    async def listdir(self, path: str, *, recursive: bool = False, commit: str | None = None) -> Sequence[FileInfo]:
        """Return what is in a folder of the volume, sorted by path."""
        found = [one async for one in self.iterdir(path, recursive=recursive, commit=commit)]
        return sorted(found, key=lambda one: one.path)

    async def stat(self, path: str, *, commit: str | None = None) -> FileInfo:
        """Return what is known of a file; a symbolic link is not followed."""
        opening = native.OpenVolumeStat(volume=(await self._look()).id, path=native.encode_name(path), commit=commit)
        return from_entry(await volume_files.single(resolve(self._client), opening, native.Entry))

    async def read_file(self, path: str, *, commit: str | None = None) -> AsyncIterator[bytes]:
        """Yield the content of a file in pieces. Links are not followed: they mean something in a sandbox alone."""
        opening = native.OpenVolumeRead(volume=(await self._look()).id, path=native.encode_name(path), commit=commit)
        async for chunk in volume_files.content(resolve(self._client), opening):
            yield chunk

    async def read_file_into_fileobj(self, path: str, fileobj: BinaryIO, *, commit: str | None = None) -> int:
        """Write the content of a file to an open file of this program, and return its size."""
        size = 0
        async for chunk in self.read_file(path, commit=commit):
            fileobj.write(chunk)
            size += len(chunk)
        return size

    async def write_file(self, path: str, data: bytes | BinaryIO, *, mode: int | None = None) -> int:
        """Put a file in place, with the folders above it, from bytes or an open file, and return its size."""
        opening = native.OpenVolumeWrite(volume=(await self._look()).id, path=native.encode_name(path), mode=mode)
        return await volume_files.write(resolve(self._client), opening, data)

    async def remove_file(self, path: str, *, recursive: bool = False) -> None:
        """Remove a file, a link (never its target) or an empty folder; with `recursive` a whole tree."""
        opening = native.OpenVolumeRemove(
            volume=(await self._look()).id, path=native.encode_name(path), recursive=recursive
        )
        await volume_files.single(resolve(self._client), opening, native.Done)

    def __repr__(self) -> str:
        return f"<Volume {self._name!r}{' read-only' if self._read_only else ''}>"

    async def _connection(self) -> Connection:
        return await resolve(self._client).connection()

    async def _look(self, *, again: bool = False) -> VolumeView:
        """Return what the server knows of the volume, asked once."""
        if self._view is None or again:
            body = {"name": self._name, "create": self._create}
            answer = await (await self._connection()).call("POST", path("volumes"), body=body)
            self._view = views.volume(answer)
        return self._view

    async def _mount(self, at: str, *, again: bool) -> dict[str, object]:
        """Return the field of a create that mounts the volume."""
        return {"volume": (await self._look(again=again)).id, "path": at, "read_only": self._read_only}
