"""The operations on files: each says STARTED where it has content, what it has to say, and a last word."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from skerry.doors.native.streams import Stream, ended
from skerry.doors.native.windows import ReceiveWindow
from skerry.engine.files import Files
from skerry.model.ids import SandboxId
from skerry.model.sandboxes import FileChange, FileEntry
from skerry.wire import native
from skerry.wire.frames import STDOUT, FrameType
from skerry.wire.records import encode_record

_LIST_BYTES: Final = 32 << 10  # of entries in one RESULT, so that with one more it stays below the frame's 64 KiB


async def run(opened: native.OpenOfFiles, stream: Stream, files: Files) -> None:
    """Do what was asked for, up to the last word; raises what the client is to be told as ERROR."""
    sandbox = SandboxId(opened.sandbox)
    if isinstance(opened, native.OpenRead):
        await _read(opened, stream, files)
    elif isinstance(opened, native.OpenWrite):
        await _write(opened, stream, files)
    elif isinstance(opened, native.OpenList):
        await _list(opened, stream, files)
    elif isinstance(opened, native.OpenWatch):
        await _watch(opened, stream, files)
    elif isinstance(opened, native.OpenStat):
        await stream.say(FrameType.RESULT, _entry(await files.stat(sandbox, opened.path)))
    elif isinstance(opened, native.OpenMkdir):
        await files.make_directory(sandbox, opened.path, parents=opened.parents)
        await stream.say(FrameType.RESULT, native.Done())
    elif isinstance(opened, native.OpenRename):
        await files.rename(sandbox, opened.path, opened.target)
        await stream.say(FrameType.RESULT, native.Done())
    else:
        await files.remove(sandbox, opened.path, recursive=opened.recursive)
        await stream.say(FrameType.RESULT, native.Done())


async def _read(opened: native.OpenRead, stream: Stream, files: Files) -> None:
    reading = await files.read(SandboxId(opened.sandbox), opened.path, offset=opened.offset, length=opened.length)
    try:
        await stream.say(FrameType.STARTED, native.ReadStarted(size=reading.size))
        async with ended(reading.chunks()) as chunks:
            async for content in chunks:
                await stream.send(STDOUT, content)
    finally:
        await reading.close()
    await stream.send_end(STDOUT)
    await stream.say(FrameType.RESULT, native.Done())


async def _write(opened: native.OpenWrite, stream: Stream, files: Files) -> None:
    size = await files.write(
        SandboxId(opened.sandbox),
        opened.path,
        _incoming(stream),
        mode=opened.mode,
        parents=opened.parents,
        append=opened.append,
    )
    await stream.say(FrameType.RESULT, native.Written(size=size))


async def _incoming(stream: Stream) -> AsyncIterator[bytes | memoryview]:
    """Yield what the client sends. The first time that it is asked for, the file is open: STARTED."""
    window = stream.input = ReceiveWindow()
    await stream.say(FrameType.STARTED, native.WriteStarted(stdin_limit=window.limit))
    while (chunk := await window.take()) is not None:
        yield memoryview(chunk)
        await stream.acknowledge(window.taken)


async def _list(opened: native.OpenList, stream: Stream, files: Files) -> None:
    """Tell a directory in as many RESULTs as it takes; the last has `more` false."""
    batch: list[native.Entry] = []
    size = 0
    async with ended(await files.list(SandboxId(opened.sandbox), opened.path)) as found:
        async for one in found:
            entry = _entry(one)
            batch.append(entry)
            size += len(native.encode(entry))
            if size >= _LIST_BYTES:
                await stream.say_in_turn(FrameType.RESULT, native.Listed(entries=tuple(batch), more=True))
                batch, size = [], 0
    await stream.say_in_turn(FrameType.RESULT, native.Listed(entries=tuple(batch), more=False))


async def _watch(opened: native.OpenWatch, stream: Stream, files: Files) -> None:
    """Carry changes as records. What the client does not read waits in the sandbox, which has a bound for it."""
    watching = await files.watch(
        SandboxId(opened.sandbox),
        opened.path,
        recursive=opened.recursive,
        kinds=opened.kinds,
        timeout_s=opened.timeout_s,
    )
    try:
        await stream.say(FrameType.STARTED, native.Done())
        async with ended(watching.changes()) as changes:
            async for change in changes:
                await stream.send(STDOUT, encode_record(native.encode(_change(change))))
    finally:
        await watching.close()
    await stream.send_end(STDOUT)
    await stream.say(FrameType.RESULT, native.Done())


def _change(change: FileChange) -> native.Change:
    return native.Change(kind=change.kind, paths=tuple(map(native.encode_name, change.paths)))


def _entry(entry: FileEntry) -> native.Entry:
    return native.Entry(
        name=native.encode_name(entry.name),
        path=native.encode_name(entry.path),
        type=entry.type,
        size=entry.size,
        mode=entry.mode,
        owner=entry.owner,
        group=entry.group,
        modified=entry.modified,
        target=None if entry.target is None else native.encode_name(entry.target),
    )
