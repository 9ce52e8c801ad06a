"""Files in running sandboxes. Paths are parsed here, the work is the node's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection

from skerry.engine.interfaces import FileReading, FileWatching, NodeFiles
from skerry.engine.sandboxes import Sandboxes
from skerry.model import limits
from skerry.model.errors import InvalidError, SandboxFilesystemFileTooLargeError
from skerry.model.guestpath import parse_guest_path
from skerry.model.ids import SandboxId
from skerry.model.sandboxes import FILE_CHANGES, FileEntry, Unpacked
from skerry.model.text import escaped


class Files:
    """The files of all sandboxes. Every call raises SandboxEndedError once the sandbox has ended."""

    def __init__(self, *, sandboxes: Sandboxes) -> None:
        self._sandboxes = sandboxes

    async def read(
        self, sandbox: SandboxId, path: str | bytes, *, offset: int = 0, length: int | None = None
    ) -> FileReading:
        """Return a reading of at most 5 GiB, which the caller closes; a file that grows beyond it fails then."""
        files = await self._of(sandbox)
        # One byte more than may be read, which says that there is more.
        bound = limits.FILE_READ_BYTES + 1
        reading = await files.read(
            parse_guest_path(path), offset=offset, length=bound if length is None else min(length, bound)
        )
        if reading.size > limits.FILE_READ_BYTES:
            await reading.close()
            raise _too_large(path)
        return _BoundedReading(reading, path)

    async def write(
        self,
        sandbox: SandboxId,
        path: str | bytes,
        chunks: AsyncIterator[bytes | memoryview],
        *,
        mode: int | None = None,
        parents: bool = True,
        append: bool = False,
    ) -> int:
        """Return the size once the file is in place; on any failure the old file is untouched."""
        files = await self._of(sandbox)
        return await files.write(_file_path(path), chunks, mode=mode, parents=parents, append=append)

    async def pack(self, sandbox: SandboxId, path: str | bytes) -> FileReading:
        """Return a file or a tree as one stream, which the caller closes."""
        files = await self._of(sandbox)
        return await files.pack(parse_guest_path(path))

    async def unpack(
        self,
        sandbox: SandboxId,
        path: str | bytes,
        chunks: AsyncIterator[bytes | memoryview],
        *,
        name: str | None = None,
        parents: bool = True,
    ) -> Unpacked:
        """Return where a tree is once all of it is in place; each file of it appears whole."""
        if name is not None and (name in ("", ".", "..") or "/" in name or "\0" in name):
            raise InvalidError(f"{_shown(name)} is no name of a file")
        files = await self._of(sandbox)
        return await files.unpack(parse_guest_path(path), chunks, name=name, parents=parents)

    async def list(self, sandbox: SandboxId, path: str | bytes) -> AsyncIterator[FileEntry]:
        """Return the entries of a directory, in no order."""
        files = await self._of(sandbox)
        return files.list(parse_guest_path(path))

    async def stat(self, sandbox: SandboxId, path: str | bytes) -> FileEntry:
        files = await self._of(sandbox)
        return await files.stat(parse_guest_path(path))

    async def make_directory(self, sandbox: SandboxId, path: str | bytes, *, parents: bool = True) -> None:
        files = await self._of(sandbox)
        await files.make_directory(_file_path(path), parents=parents)

    async def remove(self, sandbox: SandboxId, path: str | bytes, *, recursive: bool = False) -> None:
        files = await self._of(sandbox)
        await files.remove(_file_path(path), recursive=recursive)

    async def rename(self, sandbox: SandboxId, path: str | bytes, target: str | bytes) -> None:
        files = await self._of(sandbox)
        await files.rename(_file_path(path), _file_path(target))

    async def watch(
        self,
        sandbox: SandboxId,
        path: str | bytes,
        *,
        recursive: bool = False,
        kinds: Collection[str] | None = None,
        timeout_s: float | None = None,
    ) -> FileWatching:
        """Return once changes are noticed; the caller closes it."""
        if timeout_s is not None and not 0 < timeout_s <= limits.LIFETIME_MAX_S:
            raise InvalidError(f"timeout is {timeout_s} s; it must be more than 0 and at most {limits.LIFETIME_MAX_S}")
        wanted = FILE_CHANGES if kinds is None else frozenset(kinds)
        if unknown := wanted - FILE_CHANGES:
            raise InvalidError(
                f"{sorted(unknown)[0]!r} is no kind of change; there are {', '.join(sorted(FILE_CHANGES))}"
            )
        files = await self._of(sandbox)
        return await files.watch(parse_guest_path(path), recursive=recursive, kinds=wanted, timeout_s=timeout_s)

    async def _of(self, sandbox: SandboxId) -> NodeFiles:
        node = await self._sandboxes.running_node(sandbox)
        return node.files(sandbox)


class _BoundedReading:
    """A reading that carries no more than one may, whatever its agent sends. Matches `FileReading`."""

    def __init__(self, reading: FileReading, path: str | bytes) -> None:
        self._reading = reading
        self._path = path

    @property
    def size(self) -> int:
        return self._reading.size

    async def chunks(self) -> AsyncIterator[bytes | memoryview]:
        left = limits.FILE_READ_BYTES
        async for chunk in self._reading.chunks():
            left -= len(chunk)
            if left < 0:
                raise _too_large(self._path)
            yield chunk

    async def close(self) -> None:
        await self._reading.close()


def _too_large(path: str | bytes) -> SandboxFilesystemFileTooLargeError:
    return SandboxFilesystemFileTooLargeError(
        f"{_shown(path)} has more than the {limits.FILE_READ_BYTES:,} bytes that one read carries; read it in parts, "
        "with offset and length"
    )


def _file_path(path: str | bytes) -> str:
    """Return the path of something that can be made or removed, which the root cannot."""
    parsed = parse_guest_path(path)
    if parsed == "/":
        raise InvalidError("`/` itself cannot be written, made or removed; name something in it")
    return parsed


def _shown(path: str | bytes) -> str:
    return escaped(path if isinstance(path, str) else path.decode("utf-8", "surrogateescape"), limit=256)
