"""Files of volumes over the socket. What can be repeated is repeated as a whole when the socket is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import BinaryIO

from skerry.client.client import Client
from skerry.client.files import PIECE_BYTES, FileCall, entries, repeat, single
from skerry.client.transports.http import ConnectionLost
from skerry.client.transports.socket import FrameSocket
from skerry.model.errors import ServerUnavailableError
from skerry.wire import native

__all__ = ["content", "entries", "single", "write"]


async def content(client: Client, opening: native.OpenVolumeRead | native.OpenRead) -> AsyncGenerator[bytes, None]:
    """Yield a file as it comes; raises ServerUnavailableError if the server goes away in its middle."""
    socket = await (await client.connection()).socket()
    try:
        async with FileCall(socket, opening) as call:
            await call.started(native.ReadStarted)
            async for chunk in call.chunks():
                yield chunk
            await call.result(native.Done)
    except ConnectionLost as exc:
        raise ServerUnavailableError("the server went away in the middle of a file; read it again") from exc


async def write(client: Client, opening: native.OpenVolumeWrite, data: bytes | BinaryIO) -> int:
    """Put a file in place and return its size; on any failure the old file is untouched."""
    start = 0 if isinstance(data, bytes) or not data.seekable() else data.tell()

    async def work(socket: FrameSocket) -> int:
        if not isinstance(data, bytes) and data.seekable():
            data.seek(start)
        async with FileCall(socket, opening) as call:
            await call.started(native.WriteStarted)
            if isinstance(data, bytes):
                await call.send(data)
            else:
                while piece := await asyncio.to_thread(data.read, PIECE_BYTES):
                    await call.send(piece)
            call.send_end()
            return (await call.result(native.Written)).size

    if isinstance(data, bytes) or data.seekable():
        return await repeat(client, work)
    try:
        return await work(await (await client.connection()).socket())
    except ConnectionLost as exc:
        raise ServerUnavailableError("the server went away, and the source cannot be read again") from exc
