"""Each broken rule closes the connection, with the rule as reason, and nothing else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
import pytest
from door_client import Socket
from doorway import Door
from websockets.asyncio.client import unix_connect
from websockets.exceptions import InvalidStatus

from skerry.wire.frames import (
    HEADER,
    MAX_DATA,
    FrameType,
    encode_credit,
    encode_data_header,
    encode_end,
    encode_frame,
    encode_resize,
    encode_signal,
)
from skerry.wire.native import STDIN_WINDOW, WINDOW

Act = Callable[[Socket, str], Awaitable[object]]


def says(*frames: bytes) -> Act:
    async def act(client: Socket, sandbox: str) -> None:
        for frame in frames:
            await client.send(frame)

    return act


def after_exec(*frames: bytes, **fields: object) -> Act:
    """Start a `cat` on stream 1, then say these frames."""

    async def act(client: Socket, sandbox: str) -> None:
        await client.exec(sandbox, "cat", **{"stdin": "pipe", "limits": (100, 100), **fields})
        await client.expect(FrameType.STARTED)
        await says(*frames)(client, sandbox)

    return act


def opens(op: str, *frames: bytes, **fields: object) -> Act:
    async def act(client: Socket, sandbox: str) -> None:
        await client.open(op, **{"sandbox": sandbox, **fields})
        await says(*frames)(client, sandbox)

    return act


def data(offset: int, content: bytes, stream: int = 1) -> bytes:
    return encode_data_header(stream, 0, offset, len(content)) + content


def open_frame(payload: bytes, stream: int = 1) -> bytes:
    return encode_frame(FrameType.OPEN, stream, payload)


STAT = msgspec.msgpack.encode({"op": "stat", "sandbox": "sb_none", "path": b"/"})

TERMINAL = {"stderr": "stdout", "terminal": {"rows": 24, "columns": 80, "term": "xterm"}}

BREACHES: dict[str, tuple[str, Act]] = {
    "a type that only the server says": ("unknown_type", says(encode_frame(FrameType.STARTED, 1))),
    "a type that only the agent knows": ("unknown_type", says(encode_frame(FrameType.HELLO))),
    "no such type": ("unknown_type", says(HEADER.pack(0, 1, 99, 0, 0))),
    "a message shorter than a header": ("malformed_frame", says(b"\0" * 11)),
    "an empty message": ("malformed_frame", says(b"")),
    "a length that is not the message's": ("malformed_frame", says(HEADER.pack(5, 0, FrameType.PING, 0, 0) + b"1234")),
    "two frames in one message": ("malformed_frame", says(encode_frame(FrameType.PING) * 2)),
    "reserved bits": ("malformed_frame", says(HEADER.pack(0, 0, FrameType.PING, 0, 1))),
    "PING on a stream": ("malformed_frame", says(encode_frame(FrameType.PING, 3))),
    "a PING that is too long": ("frame_too_large", says(encode_frame(FrameType.PING, 0, b"x" * 65))),
    "DATA of more than 1 MiB": ("frame_too_large", after_exec(data(0, b"x" * (MAX_DATA + 1)))),
    "DATA without a byte": ("malformed_frame", after_exec(data(0, b""))),
    "stream 0": ("stream_reused", says(open_frame(STAT, 0))),
    "a stream twice": ("stream_reused", says(open_frame(STAT), open_frame(STAT))),
    "a stream that goes back": ("stream_reused", says(open_frame(STAT, 7), open_frame(STAT, 6))),
    "a frame for a stream that never was": ("unknown_stream", says(encode_signal(5, 9))),
    "a frame for stream 0": ("unknown_stream", says(encode_signal(0, 9))),
    "OPEN that is no msgpack": ("malformed_payload", says(open_frame(b"\xc1"))),
    "OPEN without op": ("malformed_payload", says(open_frame(msgspec.msgpack.encode({"sandbox": "x"})))),
    "OPEN of an unknown op": ("malformed_payload", says(open_frame(msgspec.msgpack.encode({"op": "fly"})))),
    "OPEN with something behind it": ("malformed_payload", says(open_frame(STAT + b"\0"))),
    "OPEN with a field of another type": ("malformed_payload", opens("stat", path="/text")),
    "SIGNAL to a file operation": ("unexpected_frame", opens("write", encode_signal(1, 9), path=b"/x")),
    "RESIZE to a file operation": (
        "unexpected_frame",
        opens("write", encode_frame(FrameType.RESIZE, 1, b"\0" * 4), path=b"/x"),
    ),
    "RESIZE to no rows": ("malformed_payload", after_exec(encode_resize(1, 0, 80), **TERMINAL)),
    "RESIZE to no columns": ("malformed_payload", after_exec(encode_resize(1, 24, 0))),
    "RESIZE that is cut off": ("malformed_frame", after_exec(encode_frame(FrameType.RESIZE, 1, b"\1" * 3))),
    "OPEN with a terminal without rows": (
        "malformed_payload",
        opens("exec", process="pr_00000000000000000008", argv=["cat"], terminal={"rows": 0, "columns": 1, "term": ""}),
    ),
    "CREDIT for channel 2 of a terminal": ("unexpected_frame", after_exec(encode_credit(1, 2, 0, 10), **TERMINAL)),
    "CREDIT for a channel that is not there": (
        "unexpected_frame",
        after_exec(encode_credit(1, 2, 0, 10), stderr="stdout"),
    ),
    "DATA without a stdin": ("unexpected_frame", after_exec(data(0, b"x"), stdin="null")),
    "END without a stdin": ("unexpected_frame", after_exec(encode_end(1, 0, 0), stdin="null")),
    "DATA before STARTED": ("over_credit", opens("write", data(0, b"x"), path=b"/x")),
    "DATA that leaves a gap": ("offset_jumped", after_exec(data(1, b"x"))),
    "DATA that goes back": ("offset_jumped", after_exec(data(0, b"xy"), data(1, b"z"))),
    "END at another offset": ("offset_jumped", after_exec(data(0, b"xy"), encode_end(1, 0, 1))),
    "DATA after END": ("channel_ended", after_exec(encode_end(1, 0, 0), data(0, b"x"))),
    "a second END": ("channel_ended", after_exec(encode_end(1, 0, 0), encode_end(1, 0, 0))),
    "DATA beyond credit": (
        "over_credit",
        opens(
            "exec",
            process="pr_00000000000000000009",
            argv=["sleep", "1000"],
            stdin="pipe",
        ),
    ),
    "credit that goes back": ("bad_credit", after_exec(encode_credit(1, 1, 0, 99))),
    "credit for bytes that were not sent": ("bad_credit", after_exec(encode_credit(1, 1, 1, 200))),
    "credit beyond the window": ("bad_credit", after_exec(encode_credit(1, 1, 0, WINDOW + 1))),
    "a first limit beyond the window": ("bad_credit", opens("read", path=b"/x", limit=WINDOW + 1)),
}


async def beyond_credit(client: Socket, sandbox: str) -> None:
    await client.exec(sandbox, "sleep", "1000", stdin="pipe", stdout="null", stderr="null")
    await client.expect(FrameType.STARTED)
    part = 256 << 10
    for offset in range(0, STDIN_WINDOW, part):
        await client.data(1, offset, b"x" * part)
    await client.data(1, STDIN_WINDOW, b"x" * part)


BREACHES["DATA beyond credit"] = ("over_credit", beyond_credit)


@pytest.mark.parametrize("breach", BREACHES)
async def test_a_broken_rule_closes_the_connection_with_its_name(door: Door, breach: str) -> None:
    rule, act = BREACHES[breach]
    sandbox = await door.sandbox()
    async with door.connect() as client:
        await act(client, sandbox)
        code, reason = await client.closed()
    assert (code, reason.split(":")[0]) == (1002, rule)
    async with door.connect() as client:  # nobody else notices
        assert (await client.run(sandbox, "echo", "x"))[1] == b"x\n"


async def test_a_text_message_closes_the_connection(door: Door) -> None:
    async with door.connect() as client:
        await client.connection.send("text")
        assert (await client.closed())[0] == 1002


async def test_ping_is_answered_with_its_bytes(door: Door) -> None:
    async with door.connect() as client:
        for content in (b"", b"x" * 64):
            await client.send(encode_frame(FrameType.PING, 0, content))
            assert (await client.expect(FrameType.PONG)).payload == content


async def test_resize_of_a_process_without_a_terminal_changes_nothing(door: Door) -> None:
    sandbox = await door.sandbox()
    async with door.connect() as client:
        await after_exec(encode_resize(1, 24, 80))(client, sandbox)
        await client.send(encode_frame(FrameType.PING))
        await client.expect(FrameType.PONG)


async def test_frames_for_a_stream_that_has_ended_are_dropped(door: Door) -> None:
    sandbox = await door.sandbox()
    async with door.connect() as client:
        await client.run(sandbox, "echo", "x")
        await says(encode_signal(1, 9), encode_credit(1, 1, 2, 2 + (1 << 20)), encode_frame(FrameType.CLOSE, 1))(
            client, sandbox
        )
        await client.send(encode_frame(FrameType.PING))
        await client.expect(FrameType.PONG)


async def test_another_path_is_no_socket(door: Door) -> None:
    with pytest.raises(InvalidStatus) as caught:
        async with unix_connect(str(door.path), "ws://localhost/v1/other"):
            pass
    assert caught.value.response.status_code == 403
