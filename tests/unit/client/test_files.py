from __future__ import annotations

from typing import Any, cast

from skerry.client.files import FileCall
from skerry.client.transports.socket import FrameSocket
from skerry.wire import native
from skerry.wire.frames import HEADER_SIZE, STDOUT, encode_data_header, encode_end, parse_header


class StandIn:
    """A socket that sends nothing anywhere; frames are put into the call by hand."""

    writable = True
    closed = False

    def open(self, _call: object, _opening: bytes) -> int:
        return 1

    def send_encoded(self, *_parts: object) -> None:
        pass

    def close_stream(self, _stream: int) -> None:
        pass


def put(call: FileCall, frame: bytes) -> None:
    call.on_frame(parse_header(frame, 0, native.TO_CLIENT), memoryview(frame)[HEADER_SIZE:])


def data(call: FileCall, offset: int, content: bytes) -> None:
    put(call, bytes(encode_data_header(1, STDOUT, offset, len(content))) + content)


async def test_a_reader_that_is_slow_gets_what_came_with_the_end_meanwhile() -> None:
    opening = native.OpenRead(sandbox="sb_1", path=b"/a", limit=1 << 20)
    async with FileCall(cast(FrameSocket, cast(Any, StandIn())), opening) as call:
        data(call, 0, b"one")
        chunks = call.chunks()
        got = [await anext(chunks)]
        data(call, 3, b"two")  # while the reader is busy with the first
        put(call, bytes(encode_end(1, STDOUT, 6)))
        got += [chunk async for chunk in chunks]
    assert got == [b"one", b"two"]
