"""What the engine asks of the files of a sandbox."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from typing import Protocol

from skerry.model.sandboxes import FileChange, FileEntry, Unpacked


class FileReading(Protocol):
    """A file being read."""

    @property
    def size(self) -> int:
        """How many bytes will come."""

    def chunks(self) -> AsyncIterator[bytes | memoryview]: ...

    async def close(self) -> None: ...


class FileWatching(Protocol):
    """A path being watched."""

    def changes(self) -> AsyncIterator[FileChange]:
        """Yield the changes from the time of the watch on, until its timeout."""

    async def close(self) -> None: ...


class NodeFiles(Protocol):
    """The files of one running sandbox. Errors are those of `SandboxFilesystemError`."""

    async def read(self, path: str, *, offset: int = 0, length: int | None = None) -> FileReading: ...

    async def write(
        self,
        path: str,
        chunks: AsyncIterator[bytes | memoryview],
        *,
        mode: int | None = None,
        parents: bool = True,
        append: bool = False,
    ) -> int:
        """Return the size once the file is in place; on any failure the old file is untouched."""

    async def pack(self, path: str) -> FileReading:
        """Return a file or a tree as one stream of records (wire/trees.py)."""

    async def unpack(
        self, path: str, chunks: AsyncIterator[bytes | memoryview], *, name: str | None = None, parents: bool = True
    ) -> Unpacked:
        """Make a file or a tree of such a stream: at `path`, or with `name` in the folder that is there."""

    def list(self, path: str) -> AsyncIterator[FileEntry]: ...

    async def stat(self, path: str) -> FileEntry: ...

    async def make_directory(self, path: str, *, mode: int = 0o755, parents: bool = True) -> None: ...

    async def remove(self, path: str, *, recursive: bool = False) -> None: ...

    async def rename(self, path: str, target: str) -> None:
        """Give a file or folder another name, in place of a file or an empty folder that has it."""

    async def watch(
        self, path: str, *, recursive: bool = False, kinds: Collection[str], timeout_s: float | None = None
    ) -> FileWatching:
        """Return once changes are noticed; those of these kinds, and what is lost."""
