"""The way of a copy over the socket. One whose connection is lost begins again, and replaces what is there already."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from skerry.client.client import Client
from skerry.client.copies.reading import LocalTree
from skerry.client.copies.report import Report
from skerry.client.copies.writing import LocalPlace
from skerry.client.files import FileCall, repeat
from skerry.client.transports.http import ConnectionLost
from skerry.client.transports.socket import FrameSocket
from skerry.model.errors import SandboxFilesystemError, ServerUnavailableError
from skerry.wire import native
from skerry.wire.frames import ProtocolViolation
from skerry.wire.trees import TreeReader

P = ParamSpec("P")
T = TypeVar("T")

Progress = Callable[[Report], None]
"""Told now and then how far a copy is, on the loop that carries it."""


def silent(_report: Report) -> None:
    """Tell nobody."""


async def upload(
    client: Client,
    sandbox: str,
    source: Path,
    path: str,
    *,
    into: str | None = None,
    progress: Progress = silent,
) -> tuple[str, Report]:
    """Copy what `source` leads to into a sandbox; return where it is, and what was copied.

    `path` becomes it; with `into`, a folder that is at `path` gets it under that name.
    """
    name = None if into is None else native.encode_name(into)
    opening = native.OpenUnpack(sandbox=sandbox, path=native.encode_name(path), name=name)

    async def work(socket: FrameSocket) -> tuple[str, Report]:
        report = Report()
        tree = await in_thread(LocalTree, source, report)
        batches = tree.batches()
        try:
            async with FileCall(socket, opening) as call:
                await call.started(native.WriteStarted)
                while (batch := await in_thread(next, batches, None)) is not None:
                    await call.send(memoryview(batch))
                    progress(report)
                call.send_end()
                done = await call.result(native.Unpacked)
        finally:
            batches.close()
        return native.decode_name(done.path), report

    return await repeat(client, work)


async def download(
    client: Client,
    sandbox: str,
    path: str,
    target: Path,
    *,
    into: str | None = None,
    progress: Progress = silent,
) -> tuple[Path, Report]:
    """Copy a file or a tree of a sandbox to this machine; return where it is, and what was copied.

    `target` becomes it; with `into`, a folder that is at `target` gets it under that name. Raises OSError where this
    machine cannot take it; what it cannot take of a tree is left out and reported.
    """
    opening = native.OpenPack(sandbox=sandbox, path=native.encode_name(path))

    async def work(socket: FrameSocket) -> tuple[Path, Report]:
        report = Report()
        place = target / into if into is not None and target.is_dir() else target
        async with FileCall(socket, opening) as call:
            started = await call.started(native.ReadStarted)
            report.total = started.size or None
            await _write(call, place, report, progress)
        return place, report

    return await repeat(client, work)


async def _write(call: FileCall, target: Path, report: Report, progress: Progress) -> None:
    place, reader = await in_thread(LocalPlace, target, report), TreeReader()
    try:
        async for content in _joined(call):
            await in_thread(_take, place, reader, content)
            if report.entries > 1:
                report.total = None
            progress(report)
        await call.result(native.Done)
        reader.end()
        await in_thread(place.finish)
    except ProtocolViolation as exc:
        raise SandboxFilesystemError(f"the sandbox sent what is no tree: {exc.detail}") from exc
    finally:
        place.close()


async def _joined(call: FileCall) -> AsyncIterator[bytes]:
    """Yield what has come since the last time in one piece: each is a trip to a thread."""
    async for chunks in call.batches():
        yield chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _take(place: LocalPlace, reader: TreeReader, content: bytes) -> None:
    for record in reader.feed(content):
        place.take(record)


async def pour(client: Client, sandbox: str, source: AsyncIterator[bytes], path: str) -> int:
    """Make a file of what comes, and return its size; it appears whole or not at all."""
    opening = native.OpenWrite(sandbox=sandbox, path=native.encode_name(path))
    size = 0
    try:
        async with FileCall(await (await client.connection()).socket(), opening) as call:
            await call.started(native.WriteStarted)
            async for piece in source:
                size += len(piece)
                await call.send(piece)
            call.send_end()
            await call.result(native.Written)
    except ConnectionLost as exc:
        raise ServerUnavailableError("the server went away, and the source cannot be read again") from exc
    return size


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what a function that blocks returns. It has ended when this ends, also by a cancellation."""
    task = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def given(path: str | os.PathLike[str]) -> Path:
    """Return a path of this machine as it was given."""
    return Path(os.fspath(path))


def absolute(path: str | os.PathLike[str]) -> Path:
    """Return a path of this machine with a name at its end."""
    return Path(os.path.abspath(path))
