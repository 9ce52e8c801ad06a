"""The HTTP half of the transport against a peer whose every byte the test chooses."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from skerry.client.connection import path
from skerry.client.transports import unix
from skerry.client.transports.http import ConnectionLost, HttpConnection, Request


@contextlib.asynccontextmanager
async def connected(folder: Path, *answers: bytes, close: bool = False) -> AsyncIterator[HttpConnection]:
    """Yield a connection whose peer answers each request with the next of `answers`."""

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.readuntil(b"\r\n\r\n")
            for start in range(0, len(answer), 7):  # in pieces, so that nothing depends on where they are cut
                writer.write(answer[start : start + 7])
                await writer.drain()
                await asyncio.sleep(0)
        if close:
            writer.close()

    server = await asyncio.start_unix_server(peer, folder / "s")
    async with server:
        http = await unix.connect(folder / "s", HttpConnection)
        try:
            yield http
        finally:
            http.close()


async def test_one_connection_serves_one_call_after_the_other(tmp_path: Path) -> None:
    answers = [f"HTTP/1.1 {code} X\r\nContent-Length: 3\r\n\r\nno{n}".encode() for n, code in enumerate((200, 404))]
    async with connected(tmp_path, *answers) as http:
        for number, code in enumerate((200, 404)):
            http.send(Request("GET", "/"))
            assert await http.answer() == code
            assert await http.body() == f"no{number}".encode()
            assert http.usable


async def test_lines_come_whole_from_a_chunked_answer(tmp_path: Path) -> None:
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (b"on", b"e\ntwo\n\nth", b"ree")) + b"0\r\n\r\n"
    async with connected(tmp_path, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body) as http:
        http.send(Request("GET", "/"))
        assert await http.answer() == 200
        assert [line async for line in http.lines()] == [b"one", b"two", b"three"]


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"]
)
async def test_an_answer_that_ends_early_is_a_lost_connection(tmp_path: Path, answer: bytes) -> None:
    async with connected(tmp_path, answer, close=True) as http:
        http.send(Request("GET", "/"))
        with pytest.raises(ConnectionLost):
            await http.body()
        assert not http.usable


async def test_what_is_no_http_is_a_lost_connection(tmp_path: Path) -> None:
    async with connected(tmp_path, b"SSH-2.0-nothing\r\n") as http:
        http.send(Request("GET", "/"))
        with pytest.raises(ConnectionLost):
            await http.answer()


async def test_a_body_larger_than_a_buffer_arrives_whole(tmp_path: Path) -> None:
    body = bytes(3_000_000)
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    async with await asyncio.start_unix_server(peer, tmp_path / "s"):
        http = await unix.connect(tmp_path / "s", HttpConnection)
        http.send(Request("GET", "/"))
        assert await http.body() == body
        http.close()


def test_what_a_caller_names_stays_one_part_of_the_path() -> None:
    assert path("sandboxes", "../../etc?x#y", "wait") == "/v1/sandboxes/..%2F..%2Fetc%3Fx%23y/wait"
