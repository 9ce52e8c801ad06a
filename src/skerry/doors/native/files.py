"""The operations on files: each says STARTED where it has content, what it has to say, and a last word."""

from __future__ import annotations

from skerry.doors.native import transfers
from skerry.doors.native.streams import Stream, ended
from skerry.engine.files import Files
from skerry.model.ids import SandboxId
from skerry.model.sandboxes import FileChange
from skerry.wire import native
from skerry.wire.frames import STDOUT, FrameType
from skerry.wire.records import encode_record


async def run(opened: native.OpenOfFiles, stream: Stream, files: Files) -> None:
    """Do what was asked for, up to the last word; raises what the client is to be told as ERROR."""
    sandbox = SandboxId(opened.sandbox)
    if isinstance(opened, native.OpenRead):
        await _read(opened, stream, files)
    elif isinstance(opened, native.OpenWrite):
        await _write(opened, stream, files)
    elif isinstance(opened, native.OpenList):
        await transfers.send_entries(await files.list(sandbox, opened.path), stream)
    elif isinstance(opened, native.OpenWatch):
        await _watch(opened, stream, files)
    elif isinstance(opened, native.OpenPack):
        await transfers.send_content(await files.pack(sandbox, opened.path), stream)
    elif isinstance(opened, native.OpenUnpack):
        await _unpack(opened, stream, files)
    elif isinstance(opened, native.OpenStat):
        await stream.say(FrameType.RESULT, transfers.entry(await files.stat(sandbox, opened.path)))
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
    sandbox = SandboxId(opened.sandbox)
    await transfers.send_content(
        await files.read(sandbox, opened.path, offset=opened.offset, length=opened.length), stream
    )


async def _write(opened: native.OpenWrite, stream: Stream, files: Files) -> None:
    size = await files.write(
        SandboxId(opened.sandbox),
        opened.path,
        transfers.incoming(stream),
        mode=opened.mode,
        parents=opened.parents,
        append=opened.append,
    )
    await stream.say(FrameType.RESULT, native.Written(size=size))


async def _unpack(opened: native.OpenUnpack, stream: Stream, files: Files) -> None:
    done = await files.unpack(
        SandboxId(opened.sandbox),
        opened.path,
        transfers.incoming(stream),
        name=None if opened.name is None else native.decode_name(opened.name),
        parents=opened.parents,
    )
    told = native.Unpacked(path=native.encode_name(done.path), entries=done.entries, size=done.size)
    await stream.say(FrameType.RESULT, told)


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
