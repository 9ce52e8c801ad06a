"""Output as files: offsets, readers, bounds, a full disk, and what is found again after a kill."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.model.limits import OUTPUT_PROCESS_BYTES
from skerry.node.output import ProcessOutput
from skerry.node.output_log import BLOCK, CHUNK_BYTES, NEAR_BYTES, OutputLog
from skerry.node.output_quota import Ask, NodeQuota, Verdict, decide
from skerry.wire.frames import MAX_WINDOW

DEADLINE_S = 10.0
MANY = 1 << 40
LIMIT = 64 * BLOCK
WINDOW = 2 * BLOCK


def node_quota(*, total: int = MANY, reserve: int = 0, free: int = MANY, poll_s: float = 0.01) -> NodeQuota:
    return NodeQuota(lambda: free, total=total, reserve=reserve, poll_s=poll_s)


def output_in(folder: Path, name: str = "pr_a", *, quota: NodeQuota | None = None, limit: int = LIMIT) -> ProcessOutput:
    return ProcessOutput(folder, name, quota=(quota or node_quota()).sandbox(), limit=limit)


def write(output: ProcessOutput, content: bytes, channel: int = 1) -> None:
    output.store(channel, [memoryview(content)])


def pattern(size: int, start: int = 0) -> bytes:
    """Return bytes that tell their own offset."""
    return b"".join(index.to_bytes(4, "little") for index in range(start // 4, (start + size + 3) // 4))[:size]


def fill(output: ProcessOutput, size: int, window: int = WINDOW) -> int:
    """Write up to `size` bytes as far as there is room, like a sender with that window; return how many it was."""
    written = 0
    while written < size and (room := output.room(1, window)):
        count = min(room, size - written)
        write(output, pattern(count, output.log(1).end))
        written += count
    return written


# One log


async def test_bytes_are_read_at_their_offset(tmp_path: Path) -> None:
    log = OutputLog(tmp_path / "a")
    assert log.append([memoryview(b"hello "), memoryview(b"world")]) is None
    assert (log.base, log.end, log.ended) == (0, 11, False)
    assert log.read(6, 3) == (6, b"wor")
    assert log.read(11, 10) == (11, b"")
    assert (tmp_path / "a").read_bytes() == b"hello world"


async def test_a_channel_that_carried_nothing_has_no_file(tmp_path: Path) -> None:
    log = OutputLog(tmp_path / "a")
    reader = asyncio.create_task(read_all(log, 0))
    await asyncio.sleep(0)
    log.finish()
    assert log.ended
    async with asyncio.timeout(DEADLINE_S):
        assert await reader == b""
    assert not (tmp_path / "a").exists()


async def test_readers_follow_from_any_offset_to_the_end(tmp_path: Path) -> None:
    log = OutputLog(tmp_path / "a")
    log.append([memoryview(pattern(1000))])
    readers = [asyncio.create_task(read_all(log, offset)) for offset in (0, 999, 1000, 5000)]
    await asyncio.sleep(0)
    log.append([memoryview(pattern(9000, 1000))])
    log.finish()
    whole = pattern(10_000)
    async with asyncio.timeout(DEADLINE_S):
        assert await asyncio.gather(*readers) == [whole, whole[999:], whole[1000:], whole[5000:]]
        assert await read_all(log, 0) == whole
        assert await read_all(log, 20_000) == b""


async def read_all(log: OutputLog, offset: int) -> bytes:
    """Return everything from an offset, checking that nothing is missing in between."""
    content = b""
    async for start, chunk in log.follow(offset):
        assert start == offset + len(content)
        content += chunk
    return content


async def test_a_reader_gets_chunks_of_a_bounded_size_and_late_ones_come_whole(tmp_path: Path) -> None:
    log = OutputLog(tmp_path / "a")
    content = os.urandom(NEAR_BYTES + 3 * CHUNK_BYTES)
    log.append([memoryview(content)])
    log.finish()
    chunks = [chunk async for _, chunk in log.follow(0)]
    assert b"".join(chunks) == content
    assert max(map(len, chunks)) == CHUNK_BYTES


async def test_other_tasks_have_their_turn_while_a_log_is_read(tmp_path: Path) -> None:
    log = OutputLog(tmp_path / "a")
    log.append([memoryview(bytes(NEAR_BYTES))])
    log.finish()
    reading = asyncio.create_task(read_all(log, 0))
    turns = 0
    while not reading.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns >= 4


async def test_an_ended_log_takes_nothing_more(tmp_path: Path) -> None:
    log = OutputLog(tmp_path / "a")
    log.finish()
    log.finish()
    with pytest.raises(ValueError, match="has ended"):
        log.append([memoryview(b"x")])


async def test_no_descriptor_is_kept_for_ended_output_that_nobody_reads(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    log = OutputLog(tmp_path / "a")
    log.append([memoryview(b"abc")])
    reader = log.follow()
    log.finish()
    assert await anext(reader) == (0, b"abc")
    reader.close()
    log.read(0, 3)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("folder", ["/tmp", "/dev/shm"])
async def test_dropped_bytes_give_their_disk_space_back_and_offsets_stay(tmp_path: Path, folder: str) -> None:
    path = Path(folder) / f"skerry-test-{os.getpid()}"
    log = OutputLog(path)
    try:
        log.append([memoryview(pattern(64 * BLOCK))])
        used = path.stat().st_blocks
        assert log.drop(16 * BLOCK) == 16 * BLOCK
        assert path.stat().st_blocks <= used - 16 * BLOCK // 512
        assert (log.base, log.end, log.kept) == (16 * BLOCK, 64 * BLOCK, 48 * BLOCK)
        assert log.read(0, 8) == (16 * BLOCK, pattern(8, 16 * BLOCK))
        assert OutputLog(path).base == 16 * BLOCK
    finally:
        log.remove()


async def test_everything_may_be_dropped_and_a_successor_knows(tmp_path: Path) -> None:
    log = OutputLog(tmp_path / "a")
    log.append([memoryview(bytes(4 * BLOCK))])
    assert log.drop(MANY) == 4 * BLOCK
    again = OutputLog(tmp_path / "a")
    assert (again.base, again.end) == (4 * BLOCK, 4 * BLOCK)
    again.append([memoryview(b"more")])
    assert (again.base, again.end) == (4 * BLOCK, 4 * BLOCK + 4)


async def test_what_an_attached_reader_has_to_read_is_not_droppable(tmp_path: Path) -> None:
    log = OutputLog(tmp_path / "a")
    log.append([memoryview(bytes(10 * BLOCK))])
    assert log.droppable() == 10 * BLOCK
    with log.follow(3 * BLOCK + 1), log.follow(7 * BLOCK):
        assert log.attached
        assert log.droppable() == 3 * BLOCK
    assert not log.attached
    assert log.droppable() == 10 * BLOCK


async def test_bytes_count_as_read_when_the_next_are_asked_for(tmp_path: Path) -> None:
    told = []
    log = OutputLog(tmp_path / "a", on_read=lambda: told.append(log.droppable()))
    log.append([memoryview(bytes(2 * CHUNK_BYTES))])
    reader = log.follow()
    await anext(reader)
    assert (log.droppable(), told) == (0, [])
    await anext(reader)
    assert told == [CHUNK_BYTES]
    reader.close()
    reader.close()
    assert told == [CHUNK_BYTES, 2 * CHUNK_BYTES]


async def test_a_reader_of_a_removed_log_comes_to_the_end(tmp_path: Path) -> None:
    log = OutputLog(tmp_path / "a")
    log.append([memoryview(b"abc")])
    reading = asyncio.create_task(read_all(log, 0))
    await asyncio.sleep(0)
    log.remove()
    async with asyncio.timeout(DEADLINE_S):
        await reading
    assert not (tmp_path / "a").exists()


async def test_bytes_that_are_nowhere_any_more_are_skipped_and_count_as_dropped(tmp_path: Path) -> None:
    log = OutputLog(tmp_path / "a")
    log.skip_to(5 * BLOCK)
    log.append([memoryview(b"after")])
    assert (log.base, log.read(0, 10)) == (5 * BLOCK, (5 * BLOCK, b"after"))


def test_what_was_appended_survives_a_kill(tmp_path: Path) -> None:
    script = f"""
import os
from pathlib import Path
from skerry.node.output_log import OutputLog
log = OutputLog(Path({str(tmp_path / "a")!r}))
log.append([memoryview(b"x" * {3 * BLOCK})])
log.drop({2 * BLOCK})
ended = OutputLog(Path({str(tmp_path / "b")!r}))
ended.append([memoryview(b"all")])
ended.finish()
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", script], timeout=DEADLINE_S)
    assert done.returncode == -signal.SIGKILL
    live, ended = OutputLog(tmp_path / "a"), OutputLog(tmp_path / "b")
    assert (live.base, live.end, live.ended) == (2 * BLOCK, 3 * BLOCK, False)
    assert (ended.base, ended.end, ended.ended) == (0, 3, True)
    assert live.append([memoryview(b"on")]) is None
    assert live.read(3 * BLOCK, 9) == (3 * BLOCK, b"on")


# The decision


@given(
    st.builds(
        Ask,
        window=st.integers(1, 1 << 20),
        node_left=st.integers(-MANY, MANY),
        process_left=st.integers(-(1 << 31), 1 << 31),
        process_droppable=st.integers(0, 1 << 31),
        sandbox_left=st.integers(-(1 << 31), 1 << 31),
        sandbox_droppable=st.integers(0, 1 << 33),
        batch=st.integers(0, 1 << 26),
    )
)
def test_room_is_never_more_than_the_bounds_leave_after_dropping(ask: Ask) -> None:
    verdict = decide(ask)
    dropped = verdict.drop_process + verdict.drop_sandbox
    assert 0 <= verdict.room <= ask.window
    assert 0 <= verdict.drop_process <= ask.process_droppable
    assert verdict.drop_sandbox >= 0
    if verdict.room:
        assert ask.node_left >= ask.window
        assert verdict.room <= ask.process_left + verdict.drop_process
        assert verdict.room <= ask.sandbox_left + dropped
    else:
        assert dropped == 0, "what gives no room is not dropped"


def test_nothing_is_dropped_for_the_sake_of_the_node() -> None:
    ask = Ask(
        window=100,
        node_left=99,
        process_left=0,
        process_droppable=1000,
        sandbox_left=1000,
        sandbox_droppable=1000,
        batch=10,
    )
    assert decide(ask) == Verdict(0)


def test_at_the_bound_a_batch_goes_at_once() -> None:
    ask = Ask(
        window=100,
        node_left=MANY,
        process_left=40,
        process_droppable=1000,
        sandbox_left=MANY,
        sandbox_droppable=0,
        batch=250,
    )
    assert decide(ask) == Verdict(100, 250, 0)


# The output of a process


async def test_without_a_reader_the_oldest_bytes_go_at_the_bound_and_are_counted(tmp_path: Path) -> None:
    output = output_in(tmp_path)
    assert fill(output, 10 * LIMIT) == 10 * LIMIT
    log = output.log(1)
    assert log.end == 10 * LIMIT
    assert log.base >= 9 * LIMIT
    assert output.kept <= LIMIT
    start, content = log.read(0, MANY)
    assert (start, content) == (log.base, pattern(log.kept, log.base))
    assert (tmp_path / "pr_a.1").stat().st_blocks * 512 <= LIMIT


async def test_with_a_reader_the_process_waits_at_the_bound_until_it_has_read_on(tmp_path: Path) -> None:
    output = output_in(tmp_path)
    woken: list[int] = []
    output.on_room(woken.append)
    log = output.log(1)
    with log.follow() as reader:
        assert LIMIT - WINDOW <= fill(output, 10 * LIMIT) <= LIMIT
        assert (log.base, output.room(1, WINDOW)) == (0, 0)
        start, content = await anext(reader)
        assert content == pattern(len(content), start)
        assert woken == []
        asking = asyncio.create_task(anext(reader))
        await asyncio.sleep(0)
        assert woken
        room = output.room(1, WINDOW)
        assert room > 0
        assert log.base <= len(content)
        write(output, pattern(room, log.end))
        assert (await asking)[0] == len(content)


async def test_a_process_that_waited_goes_on_when_the_reader_leaves(tmp_path: Path) -> None:
    output = output_in(tmp_path)
    woken: list[int] = []
    output.on_room(woken.append)
    reader = output.log(1).follow()
    fill(output, 10 * LIMIT)
    assert output.room(1, WINDOW) == 0
    reader.close()
    assert woken == [1, 2]
    assert output.room(1, WINDOW) == WINDOW
    assert output.log(1).base > 0


async def test_a_slow_reader_gets_every_byte_however_much_more_than_the_bound_there_is(tmp_path: Path) -> None:
    output = output_in(tmp_path)
    log, total = output.log(1), 5 * LIMIT
    room = asyncio.Event()
    output.on_room(lambda _channel: room.set())

    async def produce() -> None:
        left = total
        while left:
            room.clear()
            left -= fill(output, left)
            if left:
                await room.wait()
        output.end(1)

    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(read_all(log, 0))
        await asyncio.sleep(0)
        tasks.create_task(produce())
    assert reading.result() == pattern(total)
    assert output.kept <= LIMIT


async def test_both_channels_share_the_bound(tmp_path: Path) -> None:
    output = output_in(tmp_path)
    write(output, bytes(WINDOW))  # so that both cannot have the last window
    with output.log(1).follow(), output.log(2).follow():
        while room := output.room(1, WINDOW) and output.room(2, WINDOW):
            write(output, bytes(room), 1)
            write(output, bytes(room), 2)
        assert LIMIT - 2 * WINDOW <= output.kept <= LIMIT


async def test_the_channel_that_keeps_the_most_loses_first(tmp_path: Path) -> None:
    output = output_in(tmp_path)
    write(output, b"an error", 2)
    fill(output, 5 * LIMIT)
    assert output.log(2).read(0, 99) == (0, b"an error")


async def test_output_is_found_again_and_counted(tmp_path: Path) -> None:
    quota = node_quota()
    first = output_in(tmp_path, quota=quota)
    write(first, pattern(9000))
    write(first, b"err", 2)
    first.end(2)
    first.close()
    successor = node_quota()
    again = output_in(tmp_path, quota=successor)
    assert (again.stored(1), again.stored(2)) == (9000, 3)
    assert (again.log(1).ended, again.log(2).ended) == (False, True)
    assert successor.used == 9003
    write(again, pattern(1000, 9000))
    again.end(1)
    assert await read_all(again.log(1), 0) == pattern(10_000)
    again.remove()
    assert successor.used == 0
    assert list(tmp_path.iterdir()) == []


# Sandbox and node


async def test_at_the_bound_of_a_sandbox_the_oldest_process_loses_first(tmp_path: Path) -> None:
    quota = node_quota().sandbox(limit=LIMIT)
    old, new = (ProcessOutput(tmp_path, name, quota=quota, limit=MANY) for name in ("pr_a", "pr_b"))
    fill(old, LIMIT // 2)
    fill(new, LIMIT)
    assert old.kept < LIMIT // 2
    assert new.log(1).base == 0
    assert quota.used == old.kept + new.kept <= LIMIT


async def test_removed_output_makes_room_for_whoever_waits(tmp_path: Path) -> None:
    quota = node_quota().sandbox(limit=LIMIT)
    old, new = (ProcessOutput(tmp_path, name, quota=quota, limit=MANY) for name in ("pr_a", "pr_b"))
    woken: list[int] = []
    new.on_room(woken.append)
    with old.log(1).follow():
        fill(old, LIMIT)
        assert new.room(1, WINDOW) == 0
        old.remove()
    assert woken
    assert new.room(1, WINDOW) == WINDOW


async def test_above_its_share_a_sandbox_waits_and_nobody_loses_a_byte(tmp_path: Path) -> None:
    node = node_quota(total=LIMIT)
    greedy, modest = (ProcessOutput(tmp_path, name, quota=node.sandbox(), limit=MANY) for name in ("pr_a", "pr_b"))
    fill(modest, LIMIT // 8)
    fill(greedy, 2 * LIMIT)
    assert greedy.room(1, WINDOW) == 0
    assert LIMIT // 2 <= greedy.kept <= LIMIT
    assert greedy.log(1).base == 0
    assert modest.room(1, WINDOW) == WINDOW
    assert fill(modest, LIMIT) >= LIMIT // 2 - LIMIT // 8 - 2 * WINDOW
    assert modest.log(1).base == greedy.log(1).base == 0
    node.close()


async def test_an_ended_sandbox_gives_its_share_to_the_others(tmp_path: Path) -> None:
    node = node_quota(total=LIMIT)
    first, second = node.sandbox(), node.sandbox()
    a, b = ProcessOutput(tmp_path, "pr_a", quota=first, limit=MANY), ProcessOutput(tmp_path, "pr_b", quota=second)
    fill(a, LIMIT)
    fill(b, LIMIT)
    assert a.room(1, WINDOW) == 0
    b.remove()
    second.close()
    assert (node.used, a.room(1, WINDOW)) == (a.kept, 0 if a.kept + WINDOW > LIMIT else WINDOW)
    node.close()


async def test_the_reserve_of_the_disk_is_kept_free_and_waiting_ends_when_there_is_space(tmp_path: Path) -> None:
    free = 10 * WINDOW
    node = NodeQuota(lambda: free, reserve=10 * WINDOW, poll_s=0.001)
    output = ProcessOutput(tmp_path, "pr_a", quota=node.sandbox())
    woken = asyncio.Event()
    output.on_room(lambda _channel: woken.set())
    assert output.room(1, WINDOW) == 0
    free += WINDOW
    async with asyncio.timeout(DEADLINE_S):
        await woken.wait()
    assert output.room(1, WINDOW) == WINDOW
    node.close()


async def test_a_full_disk_keeps_what_was_sent_in_memory_and_stores_it_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = node_quota(poll_s=0.001)
    output = ProcessOutput(tmp_path, "pr_a", quota=node.sandbox())
    woken = asyncio.Event()
    output.on_room(lambda _channel: woken.set())
    write(output, b"before ")
    real = os.pwritev

    def full(_fd: int, _parts: Sequence[memoryview], _offset: int) -> int:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "pwritev", full)
    write(output, b"during ")
    write(output, b"and after")
    output.end(1)
    log = output.log(1)
    assert (output.stored(1), log.pending, log.ended) == (7, 16, False)
    assert output.room(1, WINDOW) == 0
    woken.clear()
    monkeypatch.setattr(os, "pwritev", real)
    async with asyncio.timeout(DEADLINE_S):
        await woken.wait()
        assert await read_all(log, 0) == b"before during and after"
    assert node.used == 23
    node.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "skerry-test", tmp_path]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.strip()}")
    yield tmp_path
    # Lazily: after a failure the log under test still has its file open.
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


@pytest.mark.root
async def test_a_really_full_file_system_costs_no_byte_and_no_exception(small_disk: Path) -> None:
    node = node_quota(poll_s=0.001)
    output = ProcessOutput(small_disk, "pr_a", quota=node.sandbox())
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(128 << 10))
    content = pattern(200 << 10)
    write(output, content)
    assert 0 < output.stored(1) < len(content)
    output.end(1)
    ballast.unlink()
    async with asyncio.timeout(DEADLINE_S):
        assert await read_all(output.log(1), 0) == content
    output.remove()
    node.close()


async def test_a_process_that_writes_exactly_the_promised_bound_loses_nothing(tmp_path: Path) -> None:
    output = ProcessOutput(tmp_path, "pr_a", quota=node_quota().sandbox(limit=MANY))
    assert output.room(2, MAX_WINDOW) == MAX_WINDOW
    output.log(1).skip_to(OUTPUT_PROCESS_BYTES)  # sparse: as if so much had been stored
    output.log(1).base = 0
    output._settle()
    assert output.kept == OUTPUT_PROCESS_BYTES
    assert output.room(1, MAX_WINDOW) == MAX_WINDOW
    assert output.log(1).base == 0
