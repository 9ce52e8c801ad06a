"""The files of one running sandbox, read and written by its agent. The host opens no path in a sandbox's tree."""

from __future__ import annotations

import posixpath
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from typing import Protocol

from skerry.model.errors import Error
from skerry.model.sandboxes import FileChange, FileEntry, Unpacked
from skerry.node.agent_events import Result
from skerry.node.agent_link import AgentLink
from skerry.node.agent_stream import AgentStream, LinkLost, StreamError
from skerry.node.failures import file_error
from skerry.node.sinks import ReaderSink
from skerry.wire import messages
from skerry.wire.frames import ProtocolViolation
from skerry.wire.messages import (
    Change,
    Entry,
    OpenInput,
    OpenList,
    OpenMkdir,
    OpenPack,
    OpenRead,
    OpenRemove,
    OpenRename,
    OpenStat,
    OpenUnpack,
    OpenWatch,
    OpenWrite,
    Written,
    decode,
)
from skerry.wire.records import RecordReader


class Session(Protocol):
    """The agent of one sandbox, as its files see it."""

    def link(self) -> AgentLink:
        """Return the link in use; raises SandboxEndedError if there is none any more."""

    def ended_error(self) -> Error:
        """Return why the link was lost."""

    def broken(self, violation: ProtocolViolation) -> None:
        """End the sandbox: its agent broke a rule."""


class SandboxFiles:
    """Matches the engine's `NodeFiles`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._link = session.link

    async def read(self, path: str, *, offset: int = 0, length: int | None = None) -> Reading:
        """Return the file once it is open. Its content is the caller's to read or to `close`."""
        sink = ReaderSink()
        stream = self._link().open(OpenRead(path=_raw(path), offset=offset, length=length), sink=sink)
        with self._errors(path, stream):
            started = await stream.started()
        rest = max(0, (started.size or 0) - offset)
        size = rest if length is None else min(rest, length)
        return Reading(size=size, path=path, stream=stream, sink=sink, files=self)

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
        done = await self._feed(path, OpenWrite(path=_raw(path), mode=mode, parents=parents, append=append), chunks)
        assert isinstance(done, Written)
        return done.size

    async def pack(self, path: str) -> Reading:
        """Return a tree as one stream, once it is open: the caller's to read or to `close`."""
        sink = ReaderSink()
        stream = self._link().open(OpenPack(path=_raw(path)), sink=sink)
        with self._errors(path, stream):
            started = await stream.started()
        return Reading(size=started.size or 0, path=path, stream=stream, sink=sink, files=self)

    async def unpack(
        self, path: str, chunks: AsyncIterator[bytes | memoryview], *, name: str | None = None, parents: bool = True
    ) -> Unpacked:
        """Return where the tree is once all of it is in place; on a failure what came before is there."""
        opening = OpenUnpack(path=_raw(path), name=None if name is None else _raw(name), parents=parents)
        done = await self._feed(path, opening, chunks)
        assert isinstance(done, messages.Unpacked)
        return Unpacked(path=_text(done.path), entries=done.entries, size=done.size)

    async def list(self, path: str) -> AsyncIterator[FileEntry]:
        """Yield the entries of a directory, in the agent's order."""
        sink, reader = ReaderSink(), RecordReader(lambda raw: decode(raw, Entry))
        stream = self._link().open(OpenList(path=_raw(path)), sink=sink)
        with self._errors(path, stream):
            await stream.started()
            async for content in sink:
                for entry in reader.feed(content):
                    yield file_entry(entry, posixpath.join(path, _text(entry.name)))
            reader.end()
            await stream.result()

    async def stat(self, path: str) -> FileEntry:
        stream = self._link().open(OpenStat(path=_raw(path)))
        with self._errors(path, stream):
            entry = await stream.result()
        assert isinstance(entry, Entry)
        return file_entry(entry, path)

    async def make_directory(self, path: str, *, mode: int = 0o755, parents: bool = True) -> None:
        stream = self._link().open(OpenMkdir(path=_raw(path), mode=mode, parents=parents))
        with self._errors(path, stream):
            await stream.result()

    async def remove(self, path: str, *, recursive: bool = False) -> None:
        stream = self._link().open(OpenRemove(path=_raw(path), recursive=recursive))
        with self._errors(path, stream):
            await stream.result()

    async def rename(self, path: str, target: str) -> None:
        stream = self._link().open(OpenRename(path=_raw(path), target=_raw(target)))
        with self._errors(path, stream):
            await stream.result()

    async def watch(
        self, path: str, *, recursive: bool = False, kinds: Collection[str], timeout_s: float | None = None
    ) -> Watching:
        """Return once changes are noticed. They are the caller's to read or to `close`."""
        sink = ReaderSink()
        timeout_ms = 0 if timeout_s is None else max(1, round(timeout_s * 1000))
        opening = OpenWatch(path=_raw(path), recursive=recursive, kinds=tuple(sorted(kinds)), timeout_ms=timeout_ms)
        stream = self._link().open(opening, sink=sink)
        with self._errors(path, stream):
            await stream.started()
        return Watching(path=path, stream=stream, sink=sink, files=self)

    async def _feed(self, path: str, opening: OpenInput, chunks: AsyncIterator[bytes | memoryview]) -> Result:
        """Open an operation that takes content, give it all there is, and return its result."""
        stream = self._link().open(opening)
        with self._errors(path, stream):
            await stream.started()
            try:
                async for chunk in chunks:
                    await stream.send_stdin(chunk)
            except BrokenPipeError:
                await stream.result()  # raises why the agent takes no more
            stream.end_stdin()
            return await stream.result()

    def _errors(self, path: str, stream: AgentStream) -> _Errors:
        return _Errors(path, stream, self._session)


@dataclass
class Reading:
    """A file being read. Matches the engine's `FileReading`."""

    size: int
    path: str
    stream: AgentStream
    sink: ReaderSink
    files: SandboxFiles

    async def chunks(self) -> AsyncIterator[bytes | memoryview]:
        with self.files._errors(self.path, self.stream):
            async for content in self.sink:
                yield content
            await self.stream.result()

    async def close(self) -> None:
        self.stream.close()


@dataclass
class Watching:
    """A path being watched. Matches the engine's `FileWatching`."""

    path: str
    stream: AgentStream
    sink: ReaderSink
    files: SandboxFiles

    async def changes(self) -> AsyncIterator[FileChange]:
        reader = RecordReader(lambda raw: decode(raw, Change))
        with self.files._errors(self.path, self.stream):
            async for content in self.sink:
                for change in reader.feed(content):
                    yield FileChange(kind=change.kind, paths=tuple(map(_text, change.paths)))
            reader.end()
            await self.stream.result()

    async def close(self) -> None:
        self.stream.close()


class _Errors:
    """Turns what agent and link report into errors of the vocabulary, and gives up the stream on any failure."""

    def __init__(self, path: str, stream: AgentStream, session: Session) -> None:
        self._path = path
        self._stream = stream
        self._session = session

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        if exc is None:
            return
        self._stream.close()
        if isinstance(exc, StreamError):
            raise file_error(self._path, exc) from exc
        if isinstance(exc, ProtocolViolation):
            self._session.broken(exc)
        if isinstance(exc, LinkLost | ProtocolViolation):
            raise self._session.ended_error() from exc


def file_entry(entry: Entry, path: str) -> FileEntry:
    """Return an entry as callers see it. Names that are not UTF-8 keep their bytes as surrogates."""
    return FileEntry(
        name=_text(entry.name),
        path=path,
        type=entry.type,
        size=entry.size,
        mode=entry.mode,
        owner=entry.owner,
        group=entry.group,
        modified=entry.modified,
        target=None if entry.target is None else _text(entry.target),
    )


def _raw(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
