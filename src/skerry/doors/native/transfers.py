"""Contents and lists on a stream: what operations on files say, wherever the files are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from skerry.doors.native.streams import Stream, ended
from skerry.doors.native.windows import ReceiveWindow
from skerry.engine.interfaces import FileReading
from skerry.model.sandboxes import FileEntry
from skerry.wire import native
from skerry.wire.frames import STDOUT, FrameType

_LIST_BYTES: Final = 32 << 10  # of entries in one RESULT, so that with one more it stays below the frame's 64 KiB


async def send_content(reading: FileReading, stream: Stream) -> None:
    """Carry a file to its end, and close it."""
    try:
        await stream.say(FrameType.STARTED, native.ReadStarted(size=reading.size))
        async with ended(reading.chunks()) as chunks:
            async for content in chunks:
                await stream.send(STDOUT, content)
    finally:
        await reading.close()
    await stream.send_end(STDOUT)
    await stream.say(FrameType.RESULT, native.Done())


async def incoming(stream: Stream) -> AsyncIterator[bytes | memoryview]:
    """Yield what the client sends. The first time that it is asked for, the file is open: STARTED."""
    window = stream.input = ReceiveWindow()
    await stream.say(FrameType.STARTED, native.WriteStarted(stdin_limit=window.limit))
    while (chunk := await window.take()) is not None:
        yield memoryview(chunk)
        await stream.acknowledge(window.taken)


async def send_entries(entries: AsyncIterator[FileEntry], stream: Stream) -> None:
    """Tell a directory in as many RESULTs as it takes; the last has `more` false."""
    batch: list[native.Entry] = []
    size = 0
    async with ended(entries) as found:
        async for one in found:
            told = entry(one)
            batch.append(told)
            size += len(native.encode(told))
            if size >= _LIST_BYTES:
                await stream.say_in_turn(FrameType.RESULT, native.Listed(entries=tuple(batch), more=True))
                batch, size = [], 0
    await stream.say_in_turn(FrameType.RESULT, native.Listed(entries=tuple(batch), more=False))


def entry(told: FileEntry) -> native.Entry:
    return native.Entry(
        name=native.encode_name(told.name),
        path=native.encode_name(told.path),
        type=told.type,
        size=told.size,
        mode=told.mode,
        owner=told.owner,
        group=told.group,
        modified=told.modified,
        target=None if told.target is None else native.encode_name(told.target),
    )
