"""The files of a sandbox."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Collection
from pathlib import Path

from skerry.client import files, watches
from skerry.client.client import Client
from skerry.client.copies import way
from skerry.client.fileinfo import FileInfo, from_entry
from skerry.client.filewatch import FileWatchEvent, FileWatchEventType, from_change, kinds_of
from skerry.model.errors import (
    InvalidError,
    SandboxFilesystemNotADirectoryError,
    SandboxFilesystemNotFoundError,
)
from skerry.model.guestpath import parse_guest_path
from skerry.wire import native


class SandboxFilesystem:
    """Reads and writes files of a running sandbox. Paths are absolute."""

    def __init__(self, client: Client, sandbox: str) -> None:
        self._client = client
        self._sandbox = sandbox

    async def read_bytes(self, remote_path: str) -> bytes:
        """Return the content of a file."""
        return b"".join(await files.read(self._client, self._sandbox, _path(remote_path)))

    async def read_text(self, remote_path: str) -> str:
        """Return the content of a UTF-8 file."""
        data = await self.read_bytes(remote_path)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as exc:
            raise InvalidError(
                f"{remote_path} is not UTF-8 text (byte {data[exc.start]:#04x} at {exc.start}); use read_bytes"
            ) from exc

    async def write_bytes(self, data: bytes | bytearray | memoryview, remote_path: str) -> None:
        """Put a file in place, with the folders above it; an existing one keeps its mode and is never half written."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"write_bytes takes bytes first and the path second, not {type(data).__name__}")
        await files.write(self._client, self._sandbox, _path(remote_path), memoryview(data).cast("B"))

    async def write_text(self, data: str, remote_path: str) -> None:
        """Put a UTF-8 file in place, with the folders above it."""
        if not isinstance(data, str):
            raise TypeError(f"write_text takes text first and the path second, not {type(data).__name__}")
        await files.write(self._client, self._sandbox, _path(remote_path), data.encode("utf-8"))

    async def list_files(self, remote_path: str) -> list[FileInfo]:
        """Return the entries of a folder, sorted by name."""
        opening = native.OpenList(sandbox=self._sandbox, path=native.encode_name(_path(remote_path)))
        found = await files.entries(self._client, opening)
        return [from_entry(entry) for entry in sorted(found, key=lambda entry: entry.name)]

    async def stat(self, remote_path: str) -> FileInfo:
        """Return what is known of a file; a symbolic link is not followed."""
        opening = native.OpenStat(sandbox=self._sandbox, path=native.encode_name(_path(remote_path)))
        return from_entry(await files.single(self._client, opening, native.Entry))

    async def make_directory(self, remote_path: str, *, create_parents: bool = True) -> None:
        """Make a folder; with `create_parents` one that exists is fine."""
        name = native.encode_name(_path(remote_path))
        opening = native.OpenMkdir(sandbox=self._sandbox, path=name, parents=create_parents)
        await files.single(self._client, opening, native.Done)

    async def remove(self, remote_path: str, *, recursive: bool = False) -> None:
        """Remove a file, a link (never its target) or an empty folder; with `recursive` a whole tree."""
        name = native.encode_name(_path(remote_path))
        opening = native.OpenRemove(sandbox=self._sandbox, path=name, recursive=recursive)
        await files.single(self._client, opening, native.Done)

    async def exists(self, remote_path: str) -> bool:
        """Tell whether there is anything at this path; a symbolic link counts, wherever it leads."""
        try:
            await self.stat(remote_path)
        except (SandboxFilesystemNotFoundError, SandboxFilesystemNotADirectoryError):
            return False
        return True

    async def rename(self, remote_path: str, new_path: str) -> None:
        """Move a file or folder within one file system; a file or an empty folder at the new path is replaced."""
        old, new = native.encode_name(_path(remote_path)), native.encode_name(_path(new_path))
        await files.single(self._client, native.OpenRename(sandbox=self._sandbox, path=old, target=new), native.Done)

    async def watch(
        self,
        remote_path: str,
        *,
        filter: Collection[FileWatchEventType] | None = None,
        recursive: bool = False,
        timeout: float | None = None,
    ) -> AsyncIterator[FileWatchEvent]:
        """Yield what changes at a file, or in a folder, from the first step of the iteration on.

        It ends after `timeout` seconds, with the sandbox, or when the iteration is left. A link is followed. With
        `recursive` folders below count, also those made later. Who does not keep up, misses changes, and gets an
        event of type `Overflow` in their place, whatever the filter.
        """
        if timeout is not None and timeout <= 0:
            raise InvalidError(f"timeout is {timeout} s; it must be more than 0")
        changes = watches.watch(
            self._client,
            self._sandbox,
            _path(remote_path),
            recursive=recursive,
            kinds=kinds_of(filter),
            timeout=timeout,
        )
        async with contextlib.aclosing(changes):
            async for change in changes:
                yield from_change(change)

    async def copy_from_local(self, local_path: str | os.PathLike[str], remote_path: str) -> None:
        """Copy a file of this machine into the sandbox, or a folder with all that is in it.

        `remote_path` becomes it: a file that is there is replaced, a folder gets what is new. Modes and links are kept.
        Raises OSError where this machine does not let it be read.
        """
        source, path = Path(os.fspath(local_path)), _path(remote_path)
        _, report = await way.upload(self._client, self._sandbox, source, path)
        report.check()

    async def copy_to_local(self, remote_path: str, local_path: str | os.PathLike[str]) -> None:
        """Copy a file of the sandbox to this machine, or a folder with all that is in it.

        `local_path` becomes it, with the folders above it. Modes are kept, and links that lead nowhere out of the tree.
        What cannot be copied is left out, and named by the SandboxFilesystemError that is raised at the end.
        """
        target, path = way.absolute(local_path), _path(remote_path)
        await asyncio.to_thread(target.parent.mkdir, parents=True, exist_ok=True)
        _, report = await way.download(self._client, self._sandbox, path, target)
        report.check()


def _path(remote_path: str) -> str:
    return parse_guest_path(os.fspath(remote_path))
