"""The files of a fake sandbox: a tree in memory."""

from __future__ import annotations

import asyncio
import posixpath
import stat
from collections.abc import AsyncIterator, Collection, Sequence

from skerry.engine.interfaces import Clock
from skerry.model.errors import (
    InvalidError,
    SandboxFilesystemDirectoryNotEmptyError,
    SandboxFilesystemIsADirectoryError,
    SandboxFilesystemNotADirectoryError,
    SandboxFilesystemNotFoundError,
    SandboxFilesystemPathAlreadyExistsError,
)
from skerry.model.sandboxes import FileEntry, Unpacked
from skerry.testing.trees import joined, packed, unpacked
from skerry.testing.watches import MemoryWatching
from skerry.wire.trees import Entry

_CHUNK = 256 << 10


class MemoryReading:
    """Matches the engine's `FileReading`."""

    def __init__(self, content: bytes) -> None:
        self._content = memoryview(content)

    @property
    def size(self) -> int:
        return len(self._content)

    async def chunks(self) -> AsyncIterator[bytes | memoryview]:
        for at in range(0, len(self._content), _CHUNK):
            yield self._content[at : at + _CHUNK]

    async def close(self) -> None:
        """Nothing is held."""


class MemoryFiles:
    """Matches the engine's `NodeFiles`; `contents` maps paths to bytes, `directories` holds the others."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.contents: dict[str, bytes] = {}
        self.modes: dict[str, int] = {}
        self.directories: set[str] = {"/", "/tmp", "/root"}
        self.watchings: list[MemoryWatching] = []

    async def read(self, path: str, *, offset: int = 0, length: int | None = None) -> MemoryReading:
        self._expect_file(path)
        content = self.contents[path]
        return MemoryReading(content[offset:] if length is None else content[offset : offset + length])

    async def write(
        self,
        path: str,
        chunks: AsyncIterator[bytes | memoryview],
        *,
        mode: int | None = None,
        parents: bool = True,
        append: bool = False,
    ) -> int:
        if path in self.directories:
            raise SandboxFilesystemIsADirectoryError(f"{path} is a directory; name a file in it")
        self._make_parents(path, parents)
        content = bytearray(self.contents.get(path, b"") if append else b"")
        async for chunk in chunks:
            content += chunk
        kind = "modify" if path in self.contents else "create"
        self.contents[path] = bytes(content)
        self.modes[path] = 0o644 if mode is None else mode
        self._tell(kind, path)
        return len(content)

    async def list(self, path: str) -> AsyncIterator[FileEntry]:
        if path in self.contents:
            raise SandboxFilesystemNotADirectoryError(f"{path} is no directory")
        if path not in self.directories:
            raise SandboxFilesystemNotFoundError(f"there is no {path}")
        for child in self._children(path):
            yield self._entry(child)

    async def stat(self, path: str) -> FileEntry:
        if path not in self.contents and path not in self.directories:
            raise SandboxFilesystemNotFoundError(f"there is no {path}")
        return self._entry(path)

    async def make_directory(self, path: str, *, mode: int = 0o755, parents: bool = True) -> None:
        if path in self.contents or (path in self.directories and not parents):
            raise SandboxFilesystemPathAlreadyExistsError(f"{path} exists")
        self._make_parents(path, parents)
        self.modes.setdefault(path, mode)
        if path not in self.directories:
            self.directories.add(path)
            self._tell("create", path)

    async def remove(self, path: str, *, recursive: bool = False) -> None:
        if path in self.contents:
            del self.contents[path]
        elif path not in self.directories:
            raise SandboxFilesystemNotFoundError(f"there is no {path}")
        elif self._children(path) and not recursive:
            raise SandboxFilesystemDirectoryNotEmptyError(f"{path} is not empty; remove it with recursive=True")
        else:
            self.directories = {one for one in self.directories if not _within(one, path)}
            self.contents = {one: data for one, data in self.contents.items() if not _within(one, path)}
        self._tell("remove", path)

    async def rename(self, path: str, target: str) -> None:
        if path not in self.contents and path not in self.directories:
            raise SandboxFilesystemNotFoundError(f"there is no {path}")
        if posixpath.dirname(target) not in self.directories:
            raise SandboxFilesystemNotFoundError(f"there is no {posixpath.dirname(target)}")
        if target != path and _within(target, path):
            raise InvalidError(f"{path} cannot be moved into itself")
        self._make_room(path, target)
        self.contents = {_moved(one, path, target): data for one, data in self.contents.items()}
        self.directories = {_moved(one, path, target) for one in self.directories}
        self.modes = {_moved(one, path, target): mode for one, mode in self.modes.items()}
        self._tell("move", path, target)

    async def pack(self, path: str) -> MemoryReading:
        if path not in self.contents and path not in self.directories:
            raise SandboxFilesystemNotFoundError(f"there is no {path}")
        below = [one for one in sorted([*self.contents, *self.directories]) if one != path and _within(one, path)]
        stream = b"".join(
            packed(one[len(path) :].strip("/"), self._entry(one), self.contents.get(one, b"")) for one in [path, *below]
        )
        return MemoryReading(stream)

    async def unpack(
        self, path: str, chunks: AsyncIterator[bytes | memoryview], *, name: str | None = None, parents: bool = True
    ) -> Unpacked:
        root = posixpath.join(path, name) if name is not None and path in self.directories else path
        self._make_parents(root, parents)
        found = unpacked(b"".join([bytes(chunk) async for chunk in chunks]))
        for below, (entry, content) in found.items():
            await self._put(joined(root, below), entry, content)
        return Unpacked(path=root, entries=len(found), size=sum(len(content) for _, content in found.values()))

    async def _put(self, path: str, entry: Entry, content: bytes) -> None:
        if entry.type == "directory":
            if path in self.contents:
                raise SandboxFilesystemNotADirectoryError(f"{path} is no directory")
            await self.make_directory(path, mode=entry.mode)
            return
        if path in self.directories:
            raise SandboxFilesystemIsADirectoryError(f"{path} is a directory; name a file in it")
        kind = "modify" if path in self.contents else "create"
        self.contents[path], self.modes[path] = content, entry.mode
        self._tell(kind, path)

    async def watch(
        self, path: str, *, recursive: bool = False, kinds: Collection[str], timeout_s: float | None = None
    ) -> MemoryWatching:
        if path not in self.contents and path not in self.directories:
            raise SandboxFilesystemNotFoundError(f"there is no {path}")
        watching = MemoryWatching(path, clock=self._clock, recursive=recursive, kinds=kinds, timeout_s=timeout_s)
        await asyncio.sleep(0)  # so that its time has begun
        self.watchings = [one for one in self.watchings if not one.over] + [watching]
        return watching

    def _tell(self, kind: str, *paths: str) -> None:
        for watching in self.watchings:
            watching.tell(kind, *paths)

    def _make_room(self, path: str, target: str) -> None:
        """Remove what a rename replaces, as rename(2) allows it."""
        if target in self.directories and path in self.contents:
            raise SandboxFilesystemIsADirectoryError(f"{target} is a directory")
        if target in self.contents and path in self.directories:
            raise SandboxFilesystemNotADirectoryError(f"{target} is no directory")
        if target in self.directories and self._children(target):
            raise SandboxFilesystemDirectoryNotEmptyError(f"{target} is not empty; remove it with recursive=True")

    def _expect_file(self, path: str) -> None:
        if path in self.directories:
            raise SandboxFilesystemIsADirectoryError(f"{path} is a directory; list it instead")
        if path not in self.contents:
            raise SandboxFilesystemNotFoundError(f"there is no {path}")

    def _make_parents(self, path: str, parents: bool) -> None:
        parent = posixpath.dirname(path)
        if parent in self.contents:
            raise SandboxFilesystemNotADirectoryError(f"{parent} is no directory")
        if parent in self.directories:
            return
        if not parents:
            raise SandboxFilesystemNotFoundError(f"there is no {parent}")
        self._make_parents(parent, parents)
        self.directories.add(parent)

    def _children(self, path: str) -> Sequence[str]:
        everything = [*self.contents, *(one for one in self.directories if one != "/")]
        return sorted(one for one in everything if posixpath.dirname(one) == path)

    def _entry(self, path: str) -> FileEntry:
        directory = path in self.directories
        kind = stat.S_IFDIR if directory else stat.S_IFREG
        return FileEntry(
            name=posixpath.basename(path) or "/",
            path=path,
            type="directory" if directory else "file",
            size=0 if directory else len(self.contents[path]),
            mode=kind | self.modes.get(path, 0o755 if directory else 0o644),
            owner="root",
            group="root",
            modified=self._clock.now(),
        )


def _moved(path: str, source: str, target: str) -> str:
    return target + path[len(source) :] if _within(path, source) else path


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
