from __future__ import annotations

import asyncio
from typing import Any

import pytest

from skerry.doors.native.outbox import ConnectionGone, Outbox
from skerry.testing.clock import settle
from skerry.wire.frames import FrameType, encode_end, encode_frame, parse_header
from skerry.wire.native import TO_CLIENT, Done


class Wire:
    """A socket that takes one message each time it is let."""

    def __init__(self) -> None:
        self.sent: list[tuple[FrameType, int]] = []
        self._permits = asyncio.Semaphore(0)

    async def send(self, message: dict[str, Any]) -> None:
        await self._permits.acquire()
        header = parse_header(message["bytes"], 0, TO_CLIENT)
        self.sent.append((FrameType(header.type), header.stream))

    async def let(self, count: int) -> None:
        for _ in range(count):
            self._permits.release()
        await settle()


async def chatter(outbox: Outbox, stream: int, count: int) -> None:
    for offset in range(count):
        await outbox.data(stream, 1, offset, b"x")


async def test_streams_take_turns() -> None:
    wire = Wire()
    outbox = Outbox(wire.send)
    async with asyncio.TaskGroup() as tasks:
        for stream in (1, 2, 3):
            tasks.create_task(chatter(outbox, stream, 3))
        await settle()
        await wire.let(9)
    assert [stream for _, stream in wire.sent] == [1, 2, 3] * 3


async def test_control_frames_go_before_data_that_waits() -> None:
    wire = Wire()
    outbox = Outbox(wire.send)
    async with asyncio.TaskGroup() as tasks:
        for stream in (1, 2):
            tasks.create_task(chatter(outbox, stream, 1))
        await settle()
        tasks.create_task(outbox.control(FrameType.PONG, 0, b"p"))
        tasks.create_task(outbox.frame(encode_end(4, 1, 0)))
        await settle()
        await wire.let(4)
    assert wire.sent == [(FrameType.DATA, 1), (FrameType.PONG, 0), (FrameType.END, 4), (FrameType.DATA, 2)]


async def test_a_result_with_content_waits_its_turn() -> None:
    wire = Wire()
    outbox = Outbox(wire.send)
    async with asyncio.TaskGroup() as tasks:
        for stream in (1, 2):
            tasks.create_task(chatter(outbox, stream, 1))
        await settle()
        tasks.create_task(outbox.in_turn(FrameType.RESULT, 3, Done()))
        await wire.let(3)
    assert [stream for _, stream in wire.sent] == [1, 2, 3]


async def test_who_gives_up_waiting_does_not_hold_up_the_others() -> None:
    wire = Wire()
    outbox = Outbox(wire.send)
    talks = [asyncio.ensure_future(chatter(outbox, stream, 1)) for stream in (1, 2, 3)]
    await settle()
    talks[1].cancel()
    await wire.let(2)
    await talks[2]
    assert [stream for _, stream in wire.sent] == [1, 3]


async def test_who_gives_up_at_the_moment_of_its_turn_passes_it_on() -> None:
    wire = Wire()
    outbox = Outbox(wire.send)
    talks = [asyncio.ensure_future(chatter(outbox, stream, 1)) for stream in (1, 2, 3)]
    await settle()
    outbox._pass_on()  # the turn of 2 has come, but it has not run yet
    talks[1].cancel()
    await wire.let(3)
    await asyncio.gather(*talks, return_exceptions=True)
    assert sorted(stream for _, stream in wire.sent) == [1, 3]


async def test_who_is_cancelled_while_sending_lets_the_next_one_send() -> None:
    wire = Wire()
    outbox = Outbox(wire.send)
    talks = [asyncio.ensure_future(chatter(outbox, stream, 1)) for stream in (1, 2)]
    await settle()
    talks[0].cancel()
    await wire.let(1)
    await talks[1]
    assert [stream for _, stream in wire.sent] == [2]


@pytest.mark.parametrize("failure", [OSError("gone"), RuntimeError("after close")])
async def test_a_socket_that_is_gone_is_told_apart_from_defects(failure: Exception) -> None:
    async def send(message: dict[str, Any]) -> None:
        raise failure

    with pytest.raises(ConnectionGone):
        await Outbox(send).frame(encode_frame(FrameType.PONG))
