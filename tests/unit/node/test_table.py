"""What a successor makes of the processes that a journal tells, and of their output."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from agent_end import DEADLINE_S, EXITED, AgentEnd, control, linked
from waiting import until

from skerry.model.exits import ProcessExit, ProcessReason, SandboxExit, SandboxReason
from skerry.model.ids import PROCESS, SANDBOX, ProcessId, RandomIds, SandboxId
from skerry.model.sandboxes import ProcessView
from skerry.node import table as tables
from skerry.node.agent_link import AgentLink
from skerry.node.output_quota import NodeQuota
from skerry.node.records import Entry, Journal, ProcessEnded, ProcessStarted, SandboxEnd
from skerry.node.table import ProcessTable
from skerry.wire.frames import FrameType, encode_data_header, encode_end
from skerry.wire.messages import OpenExec, Started

IDS = RandomIds()
ONE = ProcessId(IDS.new(PROCESS))
GONE = SandboxExit(reason=SandboxReason.TERMINATED)


def started(*channels: int) -> ProcessStarted:
    return ProcessStarted(process=ONE, stream=1, argv=("true",), at=1.0, channels=channels, stdin=False)


def successor(folder: Path, *entries: Entry) -> ProcessTable:
    """Return the table of a node that finds these entries in the journal of its predecessor."""
    folder.mkdir(exist_ok=True)
    journal = Journal(folder / "journal")
    for entry in entries:
        journal.add(entry)
    journal.close()
    table = ProcessTable(SandboxId(IDS.new(SANDBOX)), folder, NodeQuota(lambda: 1 << 40))
    table.read()
    return table


def ended(table: ProcessTable) -> tuple[bool, bool]:
    process = table.get(ONE)
    assert process is not None
    return process.log.log(1).ended, process.log.log(2).ended


@pytest.mark.parametrize(("channels", "ends"), [((), (True, True)), ((1,), (False, True)), ((1, 2), (False, False))])
async def test_a_channel_that_a_process_does_not_have_has_ended(
    tmp_path: Path, channels: tuple[int, ...], ends: tuple[bool, bool]
) -> None:
    assert ended(successor(tmp_path, started(*channels))) == ends


async def test_the_end_of_the_sandbox_is_the_end_of_channels_that_left_no_file(tmp_path: Path) -> None:
    exited = ProcessEnded(process=ONE, exit=ProcessExit(reason=ProcessReason.EXITED, code=0))
    table = successor(tmp_path, started(1, 2), exited, SandboxEnd(exit=GONE, at=2.0))
    assert ended(table) == (True, True)
    assert [path.name for path in tmp_path.iterdir()] == ["journal"]


async def test_what_a_process_wrote_is_found_beside_a_channel_without_a_file(tmp_path: Path) -> None:
    (tmp_path / f"{ONE}.1").write_bytes(b"written")
    table = successor(tmp_path, started(1, 2), SandboxEnd(exit=GONE, at=2.0))
    process = table.get(ONE)
    assert process is not None
    assert process.log.log(1).read(0, 99) == (0, b"written")
    assert ended(table) == (True, True)


async def test_an_end_that_was_decided_before_a_kill_is_the_end(tmp_path: Path) -> None:
    table = successor(tmp_path, started(1, 2), SandboxEnd(exit=GONE, at=2.0))
    table.decide(SandboxExit(reason=SandboxReason.GUEST_BROKEN), 3.0)
    table.settle_all(GONE, 3.0)
    assert table.end == SandboxEnd(exit=GONE, at=2.0)
    process = table.get(ONE)
    assert process is not None
    assert (await process.wait()).reason is ProcessReason.SANDBOX_ENDED


# How many are kept


async def start(table: ProcessTable, link: AgentLink, agent: AgentEnd, *, ends: bool) -> ProcessId:
    view = ProcessView(id=ProcessId(IDS.new(PROCESS)), sandbox=table.sandbox, argv=("true",), started_at=1.0)
    starting = asyncio.ensure_future(table.start(link, view, OpenExec(argv=(b"true",), stderr="null")))
    header, _ = await next_open(agent)
    await agent.send(control(FrameType.STARTED, header, Started(7)))
    process = await starting
    if ends:
        await agent.send(encode_end(header, 1, 0), control(FrameType.EXIT, header, EXITED))
        await process.wait()
    return view.id


async def next_open(agent: AgentEnd) -> tuple[int, bytes]:
    """Return the number of the stream that is opened next, after any CLOSE of one before."""
    while True:
        header, payload = await agent.next()
        if header.type == FrameType.OPEN:
            return header.stream, payload


async def test_the_oldest_ended_processes_go_and_those_that_run_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "ENDED_KEPT", 3)
    table = ProcessTable(SandboxId(IDS.new(SANDBOX)), tmp_path, NodeQuota(lambda: 1 << 40))
    async with linked() as (link, agent):
        started = [await start(table, link, agent, ends=number != 1) for number in range(6)]
        await until(lambda: len(table.all()) == 3)
        assert [process.view.id for process in table.all()] == [started[1], started[4], started[5]]
    found = ProcessTable(table.sandbox, tmp_path, NodeQuota(lambda: 1 << 40))
    found.read()
    assert [process.view.id for process in found.all()] == [started[1], started[4], started[5]]


# What comes behind an end


async def test_output_that_comes_behind_the_end_of_its_process_is_waited_for(tmp_path: Path) -> None:
    table = ProcessTable(SandboxId(IDS.new(SANDBOX)), tmp_path, NodeQuota(lambda: 1 << 40))
    async with linked() as (link, agent):
        process = table.get(await start(table, link, agent, ends=False))
        assert process is not None
        await agent.send(control(FrameType.EXIT, 1, EXITED))
        await process.wait()
        draining = asyncio.ensure_future(process.drain(DEADLINE_S))
        await agent.send(encode_data_header(1, 1, 0, 4) + b"late")
        await until(lambda: process.output(1).end == 4)
        assert not draining.done()
        await agent.send(encode_end(1, 1, 4))
        await draining
        assert process.output(1).read(0, 99) == (0, b"late")


async def test_output_that_stands_still_behind_an_end_is_waited_for_no_longer(tmp_path: Path) -> None:
    table = ProcessTable(SandboxId(IDS.new(SANDBOX)), tmp_path, NodeQuota(lambda: 1 << 40))
    async with linked() as (link, agent):
        process = table.get(await start(table, link, agent, ends=False))
        assert process is not None
        await agent.send(control(FrameType.EXIT, 1, EXITED))
        await process.wait()
        await process.drain(0.01)
        assert not process.output(1).ended
