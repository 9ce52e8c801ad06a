"""Processes over the WebSocket of the real door."""

from __future__ import annotations

import asyncio

import pytest
from doorway import Door
from waiting import until

from skerry.model.ids import ProcessId, SandboxId
from skerry.testing.clock import settle
from skerry.wire.frames import SENT_DATA, STDERR, STDOUT, FrameType, encode_frame, encode_resize, encode_signal
from skerry.wire.native import STDIN_WINDOW, STREAMS, WINDOW

MIB = 1 << 20
PROCESS = "pr_" + "0" * 19 + "z"


async def test_exec_brings_output_exit_and_an_end_for_each_channel(door: Door) -> None:
    sandbox = await door.sandbox()
    async with door.connect() as client:
        end, out, err = await client.run(sandbox, "echo", "hello")
    assert end == {"code": 0, "signal": None, "reason": "exited", "evidence": ""}
    assert (out, err) == (b"hello\n", b"")


async def test_stderr_is_a_channel_of_its_own(door: Door) -> None:
    sandbox = await door.sandbox()
    async with door.connect() as client:
        _, out, err = await client.run(sandbox, "warn", "careful")
    assert (out, err) == (b"", b"careful\n")


async def test_a_command_that_is_not_found_exits_with_127(door: Door) -> None:
    sandbox = await door.sandbox()
    async with door.connect() as client:
        end, _, err = await client.run(sandbox, "no-such-command")
    assert end["code"] == 127
    assert b"no-such-command" in err


@pytest.mark.parametrize(
    ("asked", "channels"),
    [
        ({"stderr": "stdout"}, {STDOUT}),
        ({"stdout": "null"}, {STDERR}),
        ({"stdout": "null", "stderr": "null"}, set()),
        ({}, {STDOUT, STDERR}),
    ],
)
async def test_only_the_channels_that_were_asked_for_have_an_end(
    door: Door, asked: dict[str, str], channels: set[int]
) -> None:
    sandbox = await door.sandbox()
    async with door.connect() as client:
        stream = await client.exec(sandbox, "true", **asked)
        await client.expect(FrameType.STARTED, stream)
        frames = [await client.next() for _ in range(len(channels) + 1)]
        assert {frame.flags for frame in frames if frame.type is FrameType.END} == channels
        assert [frame.type for frame in frames].count(FrameType.EXIT) == 1
        await client.send(encode_frame(FrameType.PING, 0, b"after"))
        assert (await client.next()).type is FrameType.PONG


async def test_output_comes_in_frames_of_at_most_256_kib_and_only_within_credit(door: Door) -> None:
    sandbox = await door.sandbox()
    async with door.connect() as client:
        stream = await client.exec(sandbox, "spew", str(2 * MIB), limits=(MIB, 0), stderr="null")
        await client.expect(FrameType.STARTED, stream)
        received = 0
        while received < MIB:
            frame = await client.next()
            if frame.type is FrameType.DATA:
                assert len(frame.content) <= SENT_DATA
                received += len(frame.content)
        assert received == MIB
        await client.send(encode_frame(FrameType.PING, 0, b"no more data before this"))
        types = []
        while (frame := await client.next()).type is not FrameType.PONG:
            types.append(frame.type)
        assert FrameType.DATA not in types
        await client.credit(stream, STDOUT, MIB, 2 * MIB)
        while received < 2 * MIB:
            received += len((await client.expect(FrameType.DATA)).content)
        assert (await client.expect(FrameType.END)).offset == 2 * MIB


async def test_a_gigabyte_that_nobody_reads_lets_the_exit_come(door: Door) -> None:
    """`p.wait()` without a read: no credit, so the log drops its oldest bytes and the process goes on."""
    sandbox = await door.sandbox()
    async with door.connect() as client:
        stream = await client.exec(sandbox, "spew", str(200 * MIB), limits=(0, 0))
        await client.expect(FrameType.STARTED, stream)
        exit_frame = await client.expect(FrameType.EXIT, stream)
        assert exit_frame.map["code"] == 0
        await client.credit(stream, STDOUT, 0, MIB)
        first = await client.expect(FrameType.DATA, stream)
        assert first.offset == 136 * MIB  # the fake keeps 64 MiB


async def test_dropped_bytes_need_no_credit(door: Door) -> None:
    sandbox = await door.sandbox("spew", str(100 * MIB))
    await door.engine.sandboxes.wait(sandbox)
    async with door.connect() as client:
        stream = await client.open("process", sandbox=sandbox, process="entrypoint", limits=(MIB, 0))
        await client.expect(FrameType.STARTED, stream)
        kept, at = 0, 0
        while kept < 64 * MIB:
            frame = await client.next()
            if frame.type is FrameType.DATA:
                assert frame.offset == at or not kept
                kept += len(frame.content)
                at = frame.offset + len(frame.content)
                await client.credit(stream, STDOUT, at, at + MIB)
        assert at == 100 * MIB


async def test_a_process_can_be_followed_again_from_an_offset(door: Door) -> None:
    sandbox = await door.sandbox()
    async with door.connect() as client:
        stream = await client.exec(sandbox, "echo", "0123456789", process=PROCESS)
        await client.expect(FrameType.STARTED, stream)
        await client.outcome(stream)
    async with door.connect() as client:
        stream = await client.open("process", sandbox=sandbox, process=PROCESS, offsets=(4, 0), limits=(100, 0))
        started = await client.expect(FrameType.STARTED, stream)
        assert started.map == {"process": PROCESS, "stdin": 0, "stdin_limit": 0}
        frames = {(frame := await client.next()).type: frame for _ in range(4)}
        assert (frames[FrameType.DATA].offset, frames[FrameType.DATA].content) == (4, b"456789\n")
        assert frames[FrameType.EXIT].map["code"] == 0


async def test_an_exec_repeated_after_a_lost_connection_finds_its_process_and_stdin(door: Door) -> None:
    sandbox = await door.sandbox()
    async with door.connect() as client:
        stream = await client.exec(sandbox, "cat", process=PROCESS, stdin="pipe")
        await client.expect(FrameType.STARTED, stream)
        await client.data(stream, 0, b"first ")
        assert (await client.next_until(FrameType.DATA))[-1].content == b"first "
    async with door.connect() as client:
        stream = await client.exec(sandbox, "cat", process=PROCESS, stdin="pipe")
        started = (await client.expect(FrameType.STARTED, stream)).map
        assert started["stdin"] == 6
        await client.data(stream, 6, b"second")
        await client.end(stream, 12)
        await client.next_until(FrameType.END)
    async with door.connect() as client:
        _, out, _ = await client.run(sandbox, "cat", process=PROCESS)
    assert out == b"first second"


async def test_stdin_flows_with_credit_and_its_end_is_the_end_of_the_process(door: Door) -> None:
    sandbox = await door.sandbox()
    size = 4 * STDIN_WINDOW
    async with door.connect() as client:
        stream = await client.exec(sandbox, "cat", stdin="pipe", stderr="null")
        limit = (await client.expect(FrameType.STARTED, stream)).map["stdin_limit"]
        assert limit == STDIN_WINDOW
        sent = echoed = acknowledged = 0
        while echoed < size:
            while sent < min(limit, size):
                part = min(limit - sent, size - sent, SENT_DATA)
                await client.data(stream, sent, b"x" * part)
                sent += part
            frame = await client.next()
            if frame.type is FrameType.CREDIT:
                acknowledged, limit = frame.credit
                assert acknowledged <= sent
                assert limit <= acknowledged + STDIN_WINDOW
            else:
                echoed += len(frame.content)
                await client.credit(stream, STDOUT, echoed, echoed + MIB)
        await client.end(stream, sent)
        end, _, _ = await client.outcome(stream, ends=1, received=echoed)
    assert end["code"] == 0


async def test_what_a_process_cannot_take_any_more_is_acknowledged_and_dropped(door: Door) -> None:
    sandbox = await door.sandbox()
    async with door.connect() as client:
        stream = await client.exec(sandbox, "sleep", "1000", stdin="pipe", process=PROCESS)
        await client.expect(FrameType.STARTED, stream)
        await door.node.process(sandbox, PROCESS).end_stdin()
        await client.data(stream, 0, b"too late")
        assert (await client.expect(FrameType.CREDIT, stream)).credit[0] == 8


TERMINAL = {"rows": 33, "columns": 111, "term": "vt220"}


async def test_a_process_at_a_terminal_has_one_channel_of_the_terminals_size(door: Door) -> None:
    sandbox = await door.sandbox()
    async with door.connect() as client:
        how = {"stdin": "pipe", "stderr": "stdout", "terminal": TERMINAL}
        stream = await client.exec(sandbox, "stty", "size", **how)
        await client.expect(FrameType.STARTED, stream)
        end, shown, errors = await client.outcome(stream, ends=1)
    assert (end["code"], shown, errors) == (0, b"33 111\r\n", b"")


async def test_of_many_resizes_the_newest_reaches_the_terminal(door: Door) -> None:
    sandbox = await door.sandbox()
    async with door.connect() as client:
        how = {"stdin": "pipe", "stderr": "stdout", "terminal": TERMINAL}
        stream = await client.exec(sandbox, "cat", **how)
        started = await client.expect(FrameType.STARTED, stream)
        for rows in range(1, 1_001):
            await client.send(encode_resize(stream, rows, 65_535))
        process = door.node.process(SandboxId(sandbox), ProcessId(started.map["process"]))
        async with asyncio.timeout(10):
            while process.terminal is None or process.terminal.rows != 1_000:
                await client.send(encode_frame(FrameType.PING))
                await client.next_until(FrameType.PONG)
    assert process.terminal.columns == 65_535


@pytest.mark.parametrize(
    "fields",
    [
        {"stdin": "null", "stderr": "stdout", "terminal": TERMINAL},
        {"stdin": "pipe", "stderr": "pipe", "terminal": TERMINAL},
        {"stdin": "pipe", "stderr": "stdout", "terminal": {**TERMINAL, "term": "x" * 65}},
        {"stdin": "pipe", "stderr": "stdout", "terminal": {**TERMINAL, "term": "\x1b[2J"}},
    ],
)
async def test_a_terminal_that_cannot_be_is_refused(door: Door, fields: dict[str, object]) -> None:
    sandbox = await door.sandbox()
    async with door.connect() as client:
        await client.exec(sandbox, "cat", **fields)
        assert (await client.expect(FrameType.ERROR)).map["code"] == "invalid_argument"


async def test_a_signal_reaches_a_process_whose_stdin_is_blocked(door: Door) -> None:
    sandbox = await door.sandbox()
    async with door.connect() as client:
        stream = await client.exec(sandbox, "sleep", "1000", stdin="pipe")
        await client.expect(FrameType.STARTED, stream)
        await client.data(stream, 0, b"x" * SENT_DATA)
        await client.send(encode_signal(stream, 15))
        frames = await client.next_until(FrameType.EXIT)
    assert frames[-1].map["reason"] == "signaled"
    assert frames[-1].map["signal"] == 15


async def test_a_timeout_is_the_reason_of_its_end(door: Door) -> None:
    sandbox = await door.sandbox()
    async with door.connect() as client:
        stream = await client.exec(sandbox, "sleep", "1000", timeout_s=5.0)
        await client.expect(FrameType.STARTED, stream)
        await door.clock.advance(5.0)
        assert (await client.next_until(FrameType.EXIT))[-1].map["reason"] == "timeout"


async def test_close_lets_the_process_run_on_and_its_stream_is_silent(door: Door) -> None:
    sandbox = await door.sandbox()
    async with door.connect() as client:
        stream = await client.exec(sandbox, "cat", stdin="pipe", process=PROCESS)
        await client.expect(FrameType.STARTED, stream)
        await client.send(encode_frame(FrameType.CLOSE, stream))
        await client.data(stream, 0, b"late frames are dropped")
        await client.send(encode_frame(FrameType.PING, 0))
        await client.expect(FrameType.PONG)
        assert door.node.process(sandbox, PROCESS).view.exit is None
        await door.node.process(sandbox, PROCESS).signal(9)
        await client.send(encode_frame(FrameType.PING, 0))
        await client.expect(FrameType.PONG)


async def test_errors_come_as_the_last_word_of_their_stream(door: Door) -> None:
    sandbox = await door.sandbox()
    async with door.connect() as client:
        for fields, code, kind in (
            ({"argv": []}, "invalid_argument", "InvalidError"),
            ({"argv": ["x" * 70_000]}, "invalid_argument", "InvalidError"),
            ({"workdir": "relative"}, "invalid_argument", "InvalidError"),
            ({"env": {"A=B": "c"}}, "invalid_argument", "InvalidError"),
            ({"process": "nonsense"}, "invalid_argument", "InvalidError"),
            ({"sandbox": "sb_none"}, "not_found", "NotFoundError"),
        ):
            asked = {"sandbox": sandbox, "process": PROCESS, "argv": ["true"], **fields}
            stream = await client.open("exec", **asked)
            error = await client.expect(FrameType.ERROR, stream)
            assert (error.map["code"], error.map["kind"]) == (code, kind), fields
        await door.engine.sandboxes.terminate(sandbox)
        stream = await client.exec(sandbox, "true")
        ended = (await client.expect(FrameType.ERROR, stream)).map
    assert (ended["code"], ended["kind"]) == ("failed_precondition", "SandboxEndedError")
    assert ended["details"]["exit"]["reason"] == "terminated"


async def test_the_end_of_the_sandbox_is_told_to_whoever_follows_a_process(door: Door) -> None:
    sandbox = await door.sandbox()
    async with door.connect() as client:
        stream = await client.exec(sandbox, "sleep", "1000")
        await client.expect(FrameType.STARTED, stream)
        await door.engine.sandboxes.terminate(sandbox)
        end, _, _ = await client.outcome(stream)
    assert end["reason"] == "sandbox_ended"


async def test_a_stream_without_credit_holds_up_no_other(door: Door) -> None:
    sandbox = await door.sandbox()
    async with door.connect() as client:
        slow = await client.exec(sandbox, "spew", str(8 * MIB), limits=(SENT_DATA, 0), stderr="null")
        await client.expect(FrameType.STARTED, slow)
        for _ in range(20):
            fast = await client.exec(sandbox, "echo", "x", stderr="null")
            frames = []
            while FrameType.EXIT not in [frame.type for frame in frames if frame.stream == fast]:
                frames.append(await client.next())
    assert sum(len(frame.content) for frame in frames if frame.stream == slow) <= SENT_DATA


async def test_a_client_that_does_not_read_costs_what_its_socket_holds(door: Door) -> None:
    sandbox = await door.sandbox()
    async with door.connect() as client, door.connect() as other:
        await client.exec(sandbox, "spew", str(60 * MIB), process=PROCESS, limits=(WINDOW, 0))
        output = None
        while output is None or not output._readers:
            await settle()
            processes = door.node.processes(sandbox)
            output = processes[0].output(STDOUT) if processes else None
        for _ in range(50):
            assert (await other.run(sandbox, "echo", "x"))[1] == b"x\n"
        (read,) = output._readers.values()
        # 16 messages in the client's queue, a socket's buffer on either side, one frame on its way.
        assert read < 10 * MIB


async def test_a_client_that_goes_away_in_mid_stream_leaves_nothing_behind(door: Door) -> None:
    sandbox = await door.sandbox()
    before = len(asyncio.all_tasks())
    for _ in range(5):
        async with door.connect() as client:
            reader = await client.exec(sandbox, "spew", str(32 * MIB), limits=(MIB, 0))
            await client.expect(FrameType.STARTED, reader)
            writer = await client.open("write", sandbox=sandbox, path=b"/tmp/half")
            await client.next_until(FrameType.STARTED)
            await client.data(writer, 0, b"half of it")
            client.connection.transport.abort()
    # The five processes run on, everything else is gone.
    await until(lambda: not door.listener.clients and len(asyncio.all_tasks()) <= before + 5)
    assert "/tmp/half" not in door.node.files(sandbox).contents


async def test_beyond_the_bound_of_streams_the_next_is_refused_and_the_others_live(door: Door) -> None:
    sandbox = await door.sandbox("cat")
    async with door.connect() as client:
        for _ in range(STREAMS):
            await client.open("process", sandbox=sandbox, process="entrypoint")
        refused = await client.open("process", sandbox=sandbox, process="entrypoint")
        error = (await client.next_until(FrameType.ERROR))[-1]
        assert (error.stream, error.map["code"]) == (refused, "resource_exhausted")
        await client.send(encode_frame(FrameType.CLOSE, 1))
        again = await client.open("process", sandbox=sandbox, process="entrypoint")
        while (frame := await client.next()).stream != again:
            pass
        assert frame.type is FrameType.STARTED


async def test_the_widest_window_is_16_mib_beyond_what_is_acknowledged(door: Door) -> None:
    sandbox = await door.sandbox()
    async with door.connect() as client:
        stream = await client.exec(sandbox, "spew", str(WINDOW), limits=(WINDOW, WINDOW))
        await client.expect(FrameType.STARTED, stream)
        received = 0
        while received < WINDOW:
            frame = await client.next()
            received += len(frame.content) if frame.type is FrameType.DATA else 0
        await settle()
        await client.credit(stream, STDOUT, received, received + WINDOW)
