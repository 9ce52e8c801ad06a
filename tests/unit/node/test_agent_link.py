"""The link to an agent over two pipes, with the agent's end played by hand."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from agent_end import ATTACH, CLAIM, DEADLINE_S, EXITED, PIPE_BYTES, READY, AgentEnd, control, greet, joined, linked

from skerry.node.agent_link import FRAMES_A_TURN, PINGS, AgentLink
from skerry.node.agent_stream import AgentStream, LinkLost, StreamError
from skerry.node.pipes import BULK_BYTES, CONTROL_BYTES
from skerry.node.sinks import ReaderSink
from skerry.node.streams import WINDOW
from skerry.wire.frames import (
    CREDIT,
    MAX_DATA,
    MAX_WINDOW,
    OFFSET,
    FrameType,
    encode_credit,
    encode_data_header,
    encode_end,
    encode_frame,
)
from skerry.wire.messages import Entry, OpenExec, OpenRead, OpenStat, OpenWrite, Started, Written

CAT = OpenExec(argv=(b"cat",), stdin="pipe")


class Memory:
    """A sink that keeps everything, and stores late if it is told to."""

    def __init__(self, *, window: int = MAX_WINDOW) -> None:
        self.content = {1: b"", 2: b""}
        self.ended: list[int] = []
        self.error: Exception | None = None
        self.held_back = 0
        self.window = window
        self.wake: Callable[[int], None] = lambda _channel: None

    def store(self, channel: int, parts: Sequence[memoryview]) -> None:
        self.content[channel] += b"".join(parts)

    def end(self, channel: int) -> None:
        self.ended.append(channel)

    def fail(self, error: Exception) -> None:
        self.error = error

    def stored(self, channel: int) -> int:
        return len(self.content[channel]) - self.held_back

    def room(self, _channel: int, window: int) -> int:
        return min(window, self.window)

    def on_room(self, wake: Callable[[int], None]) -> None:
        self.wake = wake


def data(channel: int, offset: int, content: bytes, stream: int = 1) -> bytes:
    return encode_data_header(stream, channel, offset, len(content)) + content


def started(stream: int = 1) -> bytes:
    return control(FrameType.STARTED, stream, {"pid": 7})


def exited(stream: int = 1) -> bytes:
    return control(FrameType.EXIT, stream, EXITED)


async def opened(link: AgentLink, agent: AgentEnd, op: Any = CAT, sink: Any = None) -> AgentStream:
    """Return a stream whose OPEN has reached the agent."""
    stream = link.open(op, sink=sink)
    await agent.expect(FrameType.OPEN)
    return stream


async def test_a_greeting_returns_what_the_agent_says_of_itself() -> None:
    async with asyncio.timeout(DEADLINE_S):
        link, agent = joined()
        ready = await greet(link, agent, last_stream=4)
        assert (ready.agent, ready.last_stream) == ("test", 4)
        link.open(CAT)
        header, _ = await agent.expect(FrameType.OPEN)
        assert header.stream == 5
        link.close()
        agent.close()


async def test_a_greeting_that_the_attach_carried_in_is_not_sent_again() -> None:
    async with asyncio.timeout(DEADLINE_S):
        link, agent = joined()
        await agent.send(control(FrameType.READY, 0, READY | {"generation": ATTACH.generation}))
        deadline = asyncio.get_running_loop().time() + DEADLINE_S
        assert (await link.hello(ATTACH, deadline=deadline, sent=True)).generation == ATTACH.generation
        link.open(CAT)
        await agent.expect(FrameType.OPEN)
        link.close()
        agent.close()


async def test_an_agent_that_does_not_answer_the_greeting_is_waited_for_until_the_deadline() -> None:
    link, agent = joined()
    with pytest.raises(TimeoutError):
        await link.hello(CLAIM, deadline=asyncio.get_running_loop().time())
    link.close()
    agent.close()


async def test_a_ping_returns_when_it_is_answered() -> None:
    async with linked() as (link, agent):
        pings = [asyncio.create_task(link.ping()) for _ in range(2 * PINGS)]
        for _ in pings:
            _, payload = await agent.expect(FrameType.PING)
            await agent.send(encode_frame(FrameType.PONG, 0, payload))
        await asyncio.gather(*pings)


async def test_no_more_pings_than_the_bound_are_on_their_way_even_when_they_are_given_up() -> None:
    async with linked() as (link, agent):
        pings = [asyncio.create_task(link.ping()) for _ in range(3 * PINGS)]
        answers = [(await agent.expect(FrameType.PING))[1] for _ in range(PINGS)]
        for ping in pings[:PINGS]:
            ping.cancel()
        await agent.send(encode_frame(FrameType.PONG, 0, answers[0]))
        answers.append((await agent.expect(FrameType.PING))[1])
        agent_has_more = asyncio.create_task(agent.next())
        await agent.send(encode_frame(FrameType.PONG, 0, answers[1]))
        await agent_has_more
        link.close()
        results = await asyncio.gather(*pings, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError | LinkLost) for result in results)


async def test_output_reaches_the_sink_in_order_and_the_exit_does_not_wait_for_it() -> None:
    async with linked() as (link, agent):
        sink = Memory()
        stream = await opened(link, agent, sink=sink)
        await agent.send(started(), data(1, 0, b"one "), data(2, 0, b"err"), exited())
        assert await stream.started() == Started(7)
        assert (await stream.exit).code == 0
        await agent.send(data(1, 4, b"two"), encode_end(1, 2, 3), encode_end(1, 1, 7))
        assert await stream.ended(1) == 7
        assert await stream.ended(2) == 3
        assert sink.content == {1: b"one two", 2: b"err"}
        assert sink.ended == [2, 1]


async def test_a_stream_is_closed_at_its_last_word() -> None:
    async with linked() as (link, agent):
        await opened(link, agent)
        await agent.send(started(), exited(), encode_end(1, 1, 0), encode_end(1, 2, 0))
        header, _ = await agent.expect(FrameType.CLOSE)
        assert header.stream == 1
        assert len(link.streams) == 0


async def test_a_stream_is_closed_only_once_its_output_is_stored() -> None:
    async with linked() as (link, agent):
        sink = Memory()
        sink.held_back = 4
        stream = await opened(link, agent, sink=sink, op=OpenExec(argv=(b"a",), stderr="null"))
        await agent.send(started(), data(1, 0, b"full"), encode_end(1, 1, 4), exited())
        await stream.exit
        ping = asyncio.create_task(link.ping())
        _, payload = await agent.expect(FrameType.PING)  # and no CLOSE before it
        await agent.send(encode_frame(FrameType.PONG, 0, payload))
        await ping
        sink.held_back = 0
        sink.wake(1)
        await agent.expect(FrameType.CLOSE)


async def test_a_refused_stream_ends_every_wait_with_the_reason() -> None:
    async with linked() as (link, agent):
        sink = Memory()
        stream = await opened(link, agent, sink=sink)
        await agent.send(control(FrameType.ERROR, 1, {"code": "failed_precondition", "message": "no such user"}))
        for wait in (stream.started(), stream.exit, stream.ended(1)):
            with pytest.raises(StreamError) as caught:
                await wait
            assert (caught.value.code, caught.value.message) == ("failed_precondition", "no such user")
        assert isinstance(sink.error, StreamError)


async def test_a_file_operation_returns_its_result() -> None:
    async with linked() as (link, agent):
        stream = await opened(link, agent, OpenStat(path=b"/a"))
        entry = {"name": b"a", "type": "fifo", "size": 0, "mode": 1, "uid": 0, "gid": 0, "owner": "r", "group": "r"}
        await agent.send(control(FrameType.RESULT, 1, entry | {"modified": 0.5, "target": None}))
        result = await stream.result()
        assert isinstance(result, Entry)
        assert result.type == "fifo"
        await agent.expect(FrameType.CLOSE)


async def test_bytes_may_arrive_in_any_pieces() -> None:
    async with linked() as (link, agent):
        sink = Memory()
        stream = await opened(link, agent, sink=sink)
        for byte in started() + data(1, 0, b"abc") + data(1, 3, b"def") + encode_end(1, 1, 6):
            await agent.send(bytes((byte,)))
            await asyncio.sleep(0)
        assert await stream.ended(1) == 6
        assert sink.content[1] == b"abcdef"


async def test_the_largest_frames_arrive_whole() -> None:
    async with linked() as (link, agent):
        sink = Memory()
        stream = await opened(link, agent, OpenRead(path=b"/a"), sink)
        await agent.send(started())
        sent, limit, content = 0, WINDOW, b""
        while len(content) < MAX_DATA:
            content = os.urandom(limit - sent)
            await agent.send(data(1, sent, content))
            sent = limit
            _, payload = await agent.expect(FrameType.CREDIT)
            _, limit = CREDIT.unpack(payload)
        await agent.send(encode_end(1, 1, sent))
        await stream.ended(1)
        assert sink.content[1][-MAX_DATA:] == content


async def test_credit_follows_what_the_sink_has_room_for() -> None:
    async with linked() as (link, agent):
        sink = Memory(window=0)
        stream = link.open(CAT, sink=sink)
        assert (await agent.message(FrameType.OPEN))["limits"] == [0, 0]
        await agent.send(started())
        await stream.started()
        sink.window = 100
        sink.wake(1)
        header, payload = await agent.expect(FrameType.CREDIT)
        assert (header.flags, CREDIT.unpack(payload)) == (1, (0, 100))
        await agent.send(data(1, 0, bytes(100)))
        header, payload = await agent.expect(FrameType.CREDIT)
        assert CREDIT.unpack(payload) == (100, 200)


async def test_a_reader_that_stops_holds_the_sender_back() -> None:
    async with linked() as (link, agent):
        sink = ReaderSink()
        stream = await opened(link, agent, OpenRead(path=b"/a"), sink)
        await agent.send(control(FrameType.STARTED, 1, {"pid": None, "size": 2 * WINDOW}), data(1, 0, bytes(WINDOW)))
        await stream.started()
        assert await sink.next() == bytes(WINDOW)
        _, payload = await agent.expect(FrameType.CREDIT)
        assert CREDIT.unpack(payload) == (WINDOW, 2 * WINDOW)
        await agent.send(data(1, WINDOW, b"x"), encode_end(1, 1, WINDOW + 1), control(FrameType.RESULT, 1, {}))
        assert [chunk async for chunk in sink] == [b"x"]


async def test_a_reader_learns_why_a_file_ended_early() -> None:
    async with linked() as (link, agent):
        sink = ReaderSink()
        await opened(link, agent, OpenRead(path=b"/a"), sink)
        error = {"code": "io", "message": "disk"}
        await agent.send(started(), data(1, 0, b"some"), control(FrameType.ERROR, 1, error))
        assert await sink.next() == b"some"
        with pytest.raises(StreamError):
            await sink.next()


async def test_stdin_waits_for_credit_and_arrives_whole() -> None:
    async with linked() as (link, agent):
        stream = await opened(link, agent)
        await agent.send(started())
        await stream.started()
        content = os.urandom(300_000)
        sending = asyncio.create_task(stream.send_stdin(content))
        received, granted = b"", 0
        while len(received) < len(content):
            granted = min(granted + 70_000, len(content))
            await agent.send(encode_credit(1, 0, len(received), granted))
            while len(received) < granted:
                _, payload = await agent.expect(FrameType.DATA)
                assert OFFSET.unpack_from(payload) == (len(received),)
                received += payload[OFFSET.size :]
        await sending
        assert received == content
        assert stream.stdin_sent == len(content)
        stream.end_stdin()
        _, payload = await agent.expect(FrameType.END)
        assert OFFSET.unpack(payload) == (len(content),)


async def test_stdin_that_was_sent_before_is_skipped_and_a_gap_is_refused() -> None:
    async with linked() as (link, agent):
        stream = await opened(link, agent)
        await agent.send(started(), encode_credit(1, 0, 0, 1000))
        await stream.send_stdin(b"hello ", 0)
        await stream.send_stdin(b"hello world", 0)
        await stream.send_stdin(b"hello", 0)
        with pytest.raises(ValueError, match="gap"):
            await stream.send_stdin(b"!", 12)
        sent = [await agent.expect(FrameType.DATA) for _ in range(2)]
        assert [payload[OFFSET.size :] for _, payload in sent] == [b"hello ", b"world"]


async def test_stdin_of_a_process_that_is_over_is_a_broken_pipe() -> None:
    async with linked() as (link, agent):
        stream = await opened(link, agent)
        await agent.send(started())
        sending = asyncio.create_task(stream.send_stdin(b"x"))
        await agent.send(exited(), encode_end(1, 1, 0), encode_end(1, 2, 0))
        with pytest.raises(BrokenPipeError):
            await sending


async def test_a_signal_overtakes_stdin_that_waits_for_the_pipe() -> None:
    async with linked() as (link, agent):
        stream = await opened(link, agent)
        await agent.send(started(), encode_credit(1, 0, 0, BULK_BYTES))
        await stream.started()
        await stream.send_stdin(bytes(BULK_BYTES))  # more than the pipe holds, so that some of it waits
        stream.signal(9)
        before = 0
        while (frame := await agent.next())[0].type != FrameType.SIGNAL:
            before += len(frame[1]) - OFFSET.size
        after = 0
        while before + after < BULK_BYTES:
            _, payload = await agent.expect(FrameType.DATA)
            after += len(payload) - OFFSET.size
        assert after > 0


async def test_an_agent_that_stops_reading_is_given_up_at_the_bound_of_the_queue() -> None:
    async with linked() as (link, _):
        big = OpenExec(argv=(bytes(60_000),))
        asked = 0
        while not link.lost.done():
            link.open(big)
            asked += 1
        assert asked <= 2 + (CONTROL_BYTES + PIPE_BYTES) // 60_000
        lost = await link.lost
        assert lost.reason == "gone"
        assert "does not read" in lost.detail


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        (encode_frame(FrameType.OPEN, 1), "unknown_type"),
        (data(1, 5, b"x"), "offset_jumped"),
        (data(1, 0, bytes(WINDOW + 1)), "over_credit"),
        (exited(3), "unknown_stream"),
        (exited() + exited(), "second_exit"),
        (control(FrameType.EXIT, 1, {"code": 0}), "malformed_payload"),
    ],
)
async def test_an_agent_that_breaks_a_rule_loses_its_link_and_every_wait_says_why(wrong: bytes, rule: str) -> None:
    async with linked() as (link, agent):
        sink = Memory(window=WINDOW)
        stream = await opened(link, agent, sink=sink)
        ping = asyncio.create_task(link.ping())
        await agent.expect(FrameType.PING)
        await agent.send(started(), wrong)
        lost = await link.lost
        assert (lost.reason, lost.rule) == ("violation", rule)
        waits: list[Any] = [stream.ended(1), stream.result(), ping, stream.send_stdin(b"x"), link.ping()]
        for wait in waits:
            with pytest.raises(LinkLost) as caught:
                await wait
            assert caught.value.lost == lost
        with pytest.raises(LinkLost):
            link.open(CAT)
        assert isinstance(sink.error, LinkLost)
        assert await agent.is_closed()


async def test_what_came_before_the_wrong_frame_is_not_lost() -> None:
    async with linked() as (link, agent):
        sink = Memory()
        stream = await opened(link, agent, sink=sink)
        await agent.send(started() + data(1, 0, b"last words") + exited() + encode_frame(FrameType.PONG))
        await link.lost
        assert (await stream.exit).code == 0
        assert sink.content[1] == b"last words"


async def test_an_agent_that_goes_away_is_told_as_gone() -> None:
    async with linked() as (link, agent):
        stream = await opened(link, agent)
        agent.close()
        assert (await link.lost).reason == "gone"
        with pytest.raises(LinkLost):
            await stream.started()


async def test_a_sink_that_fails_costs_its_own_link_only() -> None:
    class Broken(Memory):
        def store(self, channel: int, parts: Sequence[memoryview]) -> None:
            raise RuntimeError("a bug of ours")

    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
    async with linked() as (link, agent), linked() as (other, other_agent):
        await opened(link, agent, sink=Broken())
        await agent.send(started(), data(1, 0, b"x"))
        assert (await link.lost).reason == "fault"
        assert "a bug of ours" in str(complaints[0]["exception"])
        ping = asyncio.create_task(other.ping())
        _, payload = await other_agent.expect(FrameType.PING)
        await other_agent.send(encode_frame(FrameType.PONG, 0, payload))
        await ping


async def test_a_flood_of_small_frames_leaves_turns_for_others() -> None:
    async with linked() as (link, agent):
        sink = Memory()
        stream = await opened(link, agent, sink=sink)
        frames = 20 * FRAMES_A_TURN
        flood = started() + b"".join(data(1, offset, b"x") for offset in range(frames))
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while len(sink.content[1]) < frames:
                turns += 1
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(count_turns())
            tasks.create_task(agent.send(flood))
        assert turns >= frames // FRAMES_A_TURN
        assert len(link.streams) == 1
        assert not stream.exit.done()


async def test_a_closed_stream_is_dropped_and_the_agent_told_once() -> None:
    async with linked() as (link, agent):
        sink = Memory()
        stream = await opened(link, agent, sink=sink)
        await agent.send(started())
        await stream.started()
        stream.close()
        stream.close()
        await agent.expect(FrameType.CLOSE)
        with pytest.raises(StreamError):
            await stream.exit
        await agent.send(data(1, 0, b"late"), encode_end(1, 1, 4), encode_end(1, 2, 0), exited())
        ping = asyncio.create_task(link.ping())
        _, payload = await agent.expect(FrameType.PING)
        await agent.send(encode_frame(FrameType.PONG, 0, payload))
        await ping
        assert sink.content[1] == b""
        assert len(link.streams) == 0


async def test_closing_the_link_closes_both_pipes_and_may_be_repeated() -> None:
    async with linked() as (link, agent):
        link.close()
        link.close()
        assert (await link.lost).reason == "closed"
        assert await agent.is_closed()
        link.shutdown(1000)


def told(stream: int, **fields: Any) -> dict[str, Any]:
    """Return a stream as READY tells it."""
    channels = [{"channel": 1, "acknowledged": 100, "end": 150, "ended": False}]
    return {"stream": stream, "op": "exec", "pid": 7, "exit": None, "stdin": None, "channels": channels} | fields


async def test_after_an_attach_streams_go_on_where_the_host_has_stored() -> None:
    async with asyncio.timeout(DEADLINE_S):
        link, agent = joined()
        stdin = {"acknowledged": 10, "limit": 1000, "ended": False}
        ready = await greet(link, agent, ATTACH, last_stream=9, streams=[told(4, stdin=stdin), told(5, channels=[])])
        assert [each.stream for each in ready.streams] == [4, 5]
        sink = Memory(window=1000)
        sink.content[1] = bytes(120)
        stream = link.resume({4: sink})[4]
        header, payload = await agent.expect(FrameType.CREDIT)
        assert (header.stream, CREDIT.unpack(payload)) == (4, (120, 1120))
        header, _ = await agent.expect(FrameType.CLOSE)
        assert header.stream == 5
        assert await stream.started() == Started(7)
        await stream.send_stdin(b"more", 10)
        _, payload = await agent.expect(FrameType.DATA)
        assert payload == OFFSET.pack(10) + b"more"
        await agent.send(data(1, 120, b"y" * 30, stream=4), encode_end(4, 1, 150), exited(4))
        assert await stream.ended(1) == 150
        assert sink.content[1] == bytes(120) + b"y" * 30
        assert link.open(CAT).number == 10
        link.close()
        agent.close()


async def test_nothing_is_read_after_ready_until_the_streams_are_taken_up() -> None:
    async with asyncio.timeout(DEADLINE_S):
        link, agent = joined()
        await greet(link, agent, ATTACH, last_stream=4, streams=[told(4, channels=[])])
        await agent.send(exited(4))
        for _ in range(10):  # turns in which a link that reads would have read
            await asyncio.sleep(0)
        assert not link.lost.done()
        sink = Memory()
        stream = link.resume({4: sink})[4]
        assert (await stream.exit).code == 0
        await agent.expect(FrameType.CLOSE)
        link.close()
        agent.close()


async def test_a_process_that_was_over_before_the_attach_is_taken_up_and_closed() -> None:
    async with asyncio.timeout(DEADLINE_S):
        link, agent = joined()
        await greet(link, agent, ATTACH, last_stream=4, streams=[told(4, channels=[], exit=EXITED)])
        stream = link.resume({4: Memory()})[4]
        assert (await stream.exit).reason == "exited"
        await agent.expect(FrameType.CLOSE)
        assert len(link.streams) == 0
        link.close()
        agent.close()


async def test_a_stored_offset_that_the_agent_cannot_match_ends_the_link() -> None:
    async with asyncio.timeout(DEADLINE_S):
        link, agent = joined()
        await greet(link, agent, ATTACH, last_stream=4, streams=[told(4)])
        sink = Memory()
        sink.content[1] = bytes(151)
        link.resume({4: sink})
        assert (await link.lost).rule == "offset_jumped"
        agent.close()


async def test_a_write_sends_its_content_and_returns_the_size() -> None:
    async with linked() as (link, agent):
        stream = await opened(link, agent, OpenWrite(path=b"/a"))
        await agent.send(started(), encode_credit(1, 0, 0, 100))
        await stream.send_stdin(b"content")
        stream.end_stdin()
        assert (await agent.expect(FrameType.DATA))[1][OFFSET.size :] == b"content"
        await agent.expect(FrameType.END)
        await agent.send(control(FrameType.RESULT, 1, {"size": 7}))
        assert await stream.result() == Written(7)
