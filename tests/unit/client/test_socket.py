"""The socket of a client against a peer that reads what was written, and when."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from waiting import until
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol

from skerry.client.transports.socket import FrameSocket
from skerry.wire.frames import HEADER_SIZE, FrameType, Header, parse_header
from skerry.wire.native import TO_SERVER


class Nobody:
    """Owns streams of which nothing is expected."""

    def on_frame(self, header: Header, payload: memoryview) -> None:
        raise AssertionError(f"{header} came, {len(payload)} bytes")

    def on_writable(self) -> None:
        pass

    def on_lost(self, error: Exception) -> None:
        pass

    def on_fork(self) -> None:
        pass


class Peer:
    """What each read of the server's end brought: the types and streams of its frames."""

    def __init__(self) -> None:
        self.reads: list[list[tuple[FrameType, int]]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        protocol = ServerProtocol()
        while data := await reader.read(1 << 20):
            protocol.receive_data(data)
            frames = []
            for event in protocol.events_received():
                if isinstance(event, Frame):
                    assert event.opcode is Opcode.BINARY
                    frames.append(_frame(bytes(event.data)))
                else:
                    protocol.send_response(protocol.accept(event))  # type: ignore[arg-type]
            if frames:
                self.reads.append(frames)
            writer.writelines(protocol.data_to_send())
        writer.close()


def _frame(message: bytes) -> tuple[FrameType, int]:
    header = parse_header(message, 0, TO_SERVER)
    assert header.length == len(message) - HEADER_SIZE
    return FrameType(header.type), header.stream


@contextlib.asynccontextmanager
async def connected(folder: Path) -> AsyncIterator[tuple[FrameSocket, Peer]]:
    peer = Peer()
    server = await asyncio.start_unix_server(peer.serve, folder / "s")
    async with server:
        socket = await FrameSocket.connect(folder / "s")
        try:
            yield socket, peer
        finally:
            socket.abort()


async def test_a_close_goes_with_the_next_frame_in_one_write(tmp_path: Path) -> None:
    async with connected(tmp_path) as (socket, peer):
        socket.open(Nobody(), b"one")
        await until(lambda: peer.reads == [[(FrameType.OPEN, 1)]])
        socket.close_stream(1)
        socket.open(Nobody(), b"two")
        await until(lambda: len(peer.reads) == 2)
        assert peer.reads[1] == [(FrameType.CLOSE, 1), (FrameType.OPEN, 2)]


async def test_a_close_goes_alone_when_nothing_follows(tmp_path: Path) -> None:
    async with connected(tmp_path) as (socket, peer):
        socket.open(Nobody(), b"one")
        socket.close_stream(1)
        await until(lambda: peer.reads[-1:] == [[(FrameType.CLOSE, 1)]])
        socket.close_stream(1)
        socket.open(Nobody(), b"two")
        await until(lambda: peer.reads[-1] == [(FrameType.OPEN, 2)])
