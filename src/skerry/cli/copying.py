"""One copy of `skerry cp`: which of its four ways it goes, and what is said of it."""

from __future__ import annotations

import asyncio
import os
import posixpath
import sys
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

from skerry import aio
from skerry.cli.naming import find
from skerry.cli.output import print_json, tell
from skerry.cli.passing import write_all
from skerry.cli.places import STREAM, Place
from skerry.cli.progress import Progress, amount
from skerry.client import volume_files
from skerry.client.client import resolve
from skerry.client.copies import way
from skerry.client.copies.report import Report
from skerry.model.errors import InvalidError
from skerry.model.guestpath import parse_guest_path
from skerry.wire import native

LEFT_OUT: Final = 1
_PIECE: Final = 256 << 10


async def copy(source: Place, target: Place, *, quiet: bool, as_json: bool) -> int:
    """Copy, say what came of it, and return the exit code."""
    if source.sandbox is None and source.path == STREAM:
        where, report = await _from_stdin(target)
    elif target.sandbox is None and target.path == STREAM:
        await _to_stdout(source)
        return 0
    else:
        with Progress(_label(source), quiet=quiet) as progress:
            where, report = await (_upload if source.sandbox is None else _download)(source, target, progress)
    for line in report.lines():
        tell(line)
    if as_json:
        print_json(_as_json(where, report))
    elif not quiet:
        tell(f"{where}: {report.entries:,} {'entry' if report.entries == 1 else 'entries'}, {amount(report.size)}")
    return LEFT_OUT if report.left_out else 0


async def _upload(source: Place, target: Place, progress: Progress) -> tuple[str, Report]:
    box = await _sandbox(target)
    name = os.path.basename(os.path.abspath(source.path))
    path, into = parse_guest_path(target.path), name or None
    if target.path.endswith("/") and name:
        path, into = posixpath.join(path, name), None
    where, report = await way.upload(
        resolve(None), box.object_id, way.given(source.path), path, into=into, progress=progress.show
    )
    return f"{target.sandbox}:{where}", report


async def _download(source: Place, target: Place, progress: Progress) -> tuple[str, Report]:
    box = await _sandbox(source)
    path = parse_guest_path(source.path)
    name = posixpath.basename(path)
    local = way.absolute(target.path)
    if target.path.endswith("/"):
        os.makedirs(local, exist_ok=True)
    if not name and local.is_dir():
        raise InvalidError("the root of a sandbox has no name to be copied under; name a target that is not there")
    place, report = await way.download(
        resolve(None), box.object_id, path, local, into=name or None, progress=progress.show
    )
    return str(place), report


async def _from_stdin(target: Place) -> tuple[str, Report]:
    box = await _sandbox(target)
    size = await way.pour(resolve(None), box.object_id, _stdin(), parse_guest_path(target.path))
    return f"{target.sandbox}:{target.path}", Report(entries=1, size=size)


async def _to_stdout(source: Place) -> None:
    box = await _sandbox(source)
    opening = native.OpenRead(sandbox=box.object_id, path=native.encode_name(parse_guest_path(source.path)))
    async with aclosing(volume_files.content(resolve(None), opening)) as chunks:
        async for chunk in chunks:
            await asyncio.to_thread(write_all, sys.stdout.fileno(), chunk)


async def _stdin() -> AsyncGenerator[bytes, None]:
    """Yield what comes on stdin. It is read by a thread that nobody waits for: a terminal may say nothing for ever."""
    pieces: asyncio.Queue[bytes | OSError] = asyncio.Queue(maxsize=4)
    loop = asyncio.get_running_loop()

    def read() -> None:
        try:
            piece: bytes | OSError = b"-"
            while piece:
                try:
                    piece = os.read(0, _PIECE)
                except OSError as exc:
                    piece = exc
                asyncio.run_coroutine_threadsafe(pieces.put(piece), loop).result()
                if isinstance(piece, OSError):
                    return
        except (RuntimeError, asyncio.CancelledError):
            return  # the loop is over, and with it whoever wanted this

    threading.Thread(target=read, daemon=True).start()
    while piece := await pieces.get():
        if isinstance(piece, OSError):
            raise piece
        yield piece


async def _sandbox(place: Place) -> aio.Sandbox:
    assert place.sandbox is not None
    return await find(place.sandbox)


def _label(source: Place) -> str:
    return posixpath.basename(source.path.rstrip("/")) or "/"


def _as_json(where: str, report: Report) -> dict[str, Any]:
    return {
        "target": where,
        "entries": report.entries,
        "size": report.size,
        "left_out": report.left_out,
        "named": [{"path": path, "reason": reason} for path, reason in report.named],
    }
