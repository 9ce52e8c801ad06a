"""The client's half of a WebSocket against the library `websockets` as the server's half."""

from __future__ import annotations

import os

import pytest
from websockets.frames import Frame
from websockets.http11 import Request
from websockets.server import ServerProtocol

from skerry.client._core import websocket
from skerry.client._core.websocket import Handshake, SocketProtocolError

SIZES = (0, 1, 125, 126, 127, 65_535, 65_536, 1_048_596)


def upgraded() -> tuple[ServerProtocol, bytes]:
    """Return a server that accepted our handshake, and the head of its answer."""
    server = ServerProtocol(max_size=None)
    handshake = Handshake.new("/v1/stream", "skerry")
    server.receive_data(handshake.request())
    (request,) = server.events_received()
    assert isinstance(request, Request)
    assert request.path == "/v1/stream"
    server.send_response(server.accept(request))
    head = b"".join(server.data_to_send()).partition(b"\r\n\r\n")[0]
    handshake.check(head)
    return server, head


@pytest.mark.parametrize("size", SIZES)
def test_a_server_reads_what_we_send(size: int) -> None:
    server, _ = upgraded()
    payload = os.urandom(size)
    half = size // 2
    server.receive_data(b"".join(websocket.encode(websocket.BINARY, payload[:half], payload[half:])))
    (frame,) = server.events_received()
    assert isinstance(frame, Frame)
    assert bytes(frame.data) == payload


@pytest.mark.parametrize("size", SIZES)
def test_we_read_what_a_server_sends(size: int) -> None:
    server, _ = upgraded()
    payload = os.urandom(size)
    server.send_binary(payload)
    data = bytearray(b"before" + b"".join(server.data_to_send()))
    header = websocket.parse_header(data, 6, len(data), limit=size)
    assert header is not None
    assert header.opcode == websocket.BINARY
    assert data[header.start : header.start + header.size] == payload
    for end in range(6, min(header.start, 6 + 9)):
        assert websocket.parse_header(data, 6, end, limit=size) is None


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x02\x01x", "a message that goes on in another"),
        (b"\xc2\x01x", "a reserved bit"),
        (b"\x82\x81abcdx", "a masked message"),
        (b"\x82\x7f" + (1 << 40).to_bytes(8, "big"), "a message beyond the limit"),
    ],
)
def test_what_the_door_never_sends_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(SocketProtocolError):
        websocket.parse_header(bytearray(data), 0, len(data), limit=1 << 20)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0",
        b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: AAAA",
        b"HTTP/1.1 101 Switching Protocols",
        b"",
    ],
)
def test_an_answer_that_is_no_acceptance_is_refused(head: bytes) -> None:
    with pytest.raises(SocketProtocolError):
        Handshake.new("/", "skerry").check(head)
