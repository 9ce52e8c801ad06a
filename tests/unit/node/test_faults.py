"""Each step of a sandbox's life fails once: the caller is told, the reason is right, and nothing is left."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from faulty_node import FAULTS, NO_FAULT, Fault, World
from waiting import until

from skerry.model.errors import Error, SandboxEndedError, StartFailedError
from skerry.model.exits import SandboxReason
from skerry.model.ids import PROCESS, ProcessId, RandomIds
from skerry.model.specs import ExecSpec
from skerry.node import adoption, holdings, supervisor

AGENT_S = 0.1
DEADLINE_S = 20.0

START = (
    "FakeCgroups.make",
    "FakeCgroup.limit",
    "FakeBackend.boot",
    "FakeNetwork.slot",
    "FakeSlot.nic",
    "FakeMember.plug",
    "FakeMember.claim",
    "FakeMember.set_lifetime",
    "FakeSlot.open",
    "agent.HELLO",
    "Records.put",
    "agent.OPEN",
)
AT_ONCE = ("FakeCgroups.make", "FakeCgroup.limit", "FakeSlot.nic", "Records.put")
"""Steps that wait for nothing, and so cannot hang."""
BEFORE_THE_SENTRY = ("FakeCgroups.make", "FakeCgroup.limit", "FakeBackend.boot", "FakeNetwork.slot")


@pytest_asyncio.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    for module in (holdings, supervisor, adoption):
        if hasattr(module, "AGENT_S"):
            monkeypatch.setattr(module, "AGENT_S", AGENT_S)
    monkeypatch.setattr(supervisor, "BEGIN_S", AGENT_S)
    monkeypatch.setattr(supervisor, "SENTRY_S", AGENT_S)
    made = World(tmp_path)
    yield made
    await made.close()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def starts() -> list[tuple[str, str]]:
    return [
        (step, kind)
        for step in START
        for kind in FAULTS
        if not (kind == "hangs" and step in AT_ONCE) and not (kind == "dies" and step in BEFORE_THE_SENTRY)
    ]


@pytest.mark.parametrize(("step", "kind"), starts())
async def test_a_start_that_fails_at_any_step_is_told_and_leaves_nothing(world: World, step: str, kind: str) -> None:
    node = await world.node()
    empty, open_before = node.view(), descriptors()
    world.fault = Fault(step, kind)
    starting = asyncio.ensure_future(node.start(world.launch()))
    await asyncio.wait_for(world.fault.met.wait(), DEADLINE_S)
    if kind == "hangs" and not step.startswith("agent."):
        starting.cancel()  # the backend bounds its own calls; here whoever asked gives up first
    with pytest.raises((Error, asyncio.CancelledError)):
        await asyncio.wait_for(starting, DEADLINE_S)
    assert world.left() == {}
    assert world.outputs() == []
    assert node.view() == empty
    assert not node.running()
    assert world.quota.used == 0
    await until(lambda: descriptors() <= open_before)


BROKEN = [
    ("hangs", "its agent started no process within 30 s"),
    ("raises", "its agent broke the protocol: "),
    ("breaks", "its agent ended unexpectedly"),
    ("dies", "its gVisor kernel ended unexpectedly"),
]


@pytest.mark.parametrize(("kind", "evidence"), BROKEN)
async def test_a_start_whose_command_the_agent_fails_says_why_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch, kind: str, evidence: str
) -> None:
    monkeypatch.setattr(supervisor, "AGENT_S", 10 * DEADLINE_S)  # nobody would tell of the end, so nothing waits for it
    node = await world.node()
    world.fault = Fault("agent.OPEN", kind)
    with pytest.raises(StartFailedError, match=f"ended before its command had started: {evidence}"):
        await asyncio.wait_for(node.start(world.launch()), DEADLINE_S)
    assert world.left() == {}


@pytest.mark.parametrize(("kind", "evidence"), BROKEN)
async def test_a_command_that_a_successor_starts_and_the_agent_fails_ends_the_sandbox_with_the_cause(
    world: World, monkeypatch: pytest.MonkeyPatch, kind: str, evidence: str
) -> None:
    monkeypatch.setattr(supervisor, "AGENT_S", 10 * DEADLINE_S)
    first = await world.node()
    launch = world.launch()
    await first.start(launch)
    await first.close()
    (world.folder / "output" / launch.sandbox / "journal").unlink()  # as if the kill had come before the command
    world.fault = Fault("agent.OPEN", kind)
    successor = await asyncio.wait_for(world.node(), DEADLINE_S)
    end = (await asyncio.wait_for(successor.wait_ended(launch.sandbox), DEADLINE_S)).exit
    assert end.reason is SandboxReason.GUEST_BROKEN
    assert end.evidence.startswith(evidence)
    assert world.left() == {}


async def test_the_same_start_succeeds_where_nothing_fails(world: World) -> None:
    node = await world.node()
    launch = world.launch()
    await node.start(launch)
    assert set(world.left()) == {"sentries", "control groups", "slots", "records"}
    assert (await node.terminate(launch.sandbox)).reason is SandboxReason.TERMINATED
    assert world.left() == {}


@pytest.mark.parametrize(
    ("kind", "evidence"),
    [
        ("hangs", "started no process within"),
        ("raises", "broke the protocol"),
        ("breaks", "agent ended unexpectedly"),
        ("dies", "gVisor kernel ended unexpectedly"),
    ],
)
async def test_an_exec_that_the_agent_fails_ends_the_sandbox_with_the_cause(
    world: World, kind: str, evidence: str
) -> None:
    node = await world.node()
    launch = world.launch()
    await node.start(launch)
    world.fault = Fault("agent.OPEN", kind)
    with pytest.raises(SandboxEndedError):
        await node.exec(launch.sandbox, ProcessId(RandomIds().new(PROCESS)), ExecSpec(argv=("run",)))
    end = (await asyncio.wait_for(node.wait_ended(launch.sandbox), DEADLINE_S)).exit
    assert end.reason is SandboxReason.GUEST_BROKEN
    assert evidence in end.evidence
    assert world.left() == {}


ENDS = ("FakeMember.destroy", "FakeSlot.release", "FakeCgroup.remove", "Records.remove")


@pytest.mark.parametrize("step", ENDS)
async def test_an_end_is_told_with_its_reason_whatever_fails_and_the_sweep_removes_the_rest(
    world: World, step: str
) -> None:
    node = await world.node()
    launch = world.launch()
    await node.start(launch)
    world.fault = Fault(step, "breaks")
    end = await asyncio.wait_for(node.terminate(launch.sandbox), DEADLINE_S)
    assert world.fault.met.is_set()
    assert end.reason is SandboxReason.TERMINATED
    assert [each.sandbox for each in [await anext(node.ended_since_start())]] == [launch.sandbox]
    assert not node.running()
    await node.close()
    successor = await world.node()  # sweeps as every minute does
    assert world.left() == {}
    assert (await successor.wait_ended(launch.sandbox)).exit == end


ADOPTIONS = [
    ("FakeNetwork.adopt", "breaks", SandboxReason.NODE_LOST),
    ("FakeBackend.adopt", "breaks", SandboxReason.NODE_LOST),
    ("FakeSlot.open", "breaks", SandboxReason.NODE_LOST),
    ("Records.put", "breaks", SandboxReason.NODE_LOST),
    ("FakeMember.attach", "raises", SandboxReason.GUEST_BROKEN),
    ("FakeMember.attach", "dies", SandboxReason.GUEST_BROKEN),
    ("FakeBackend.adopt", "dies", SandboxReason.GUEST_BROKEN),
    ("agent.HELLO", "hangs", SandboxReason.GUEST_BROKEN),
    ("agent.HELLO", "raises", SandboxReason.GUEST_BROKEN),
    ("agent.HELLO", "breaks", SandboxReason.GUEST_BROKEN),
]


@pytest.mark.parametrize(("step", "kind", "reason"), ADOPTIONS)
async def test_an_adoption_that_fails_at_any_step_ends_that_sandbox_alone(
    world: World, step: str, kind: str, reason: SandboxReason
) -> None:
    first = await world.node()
    launch = world.launch()
    await first.start(launch)
    await first.close()
    world.fault = Fault(step, kind)
    successor = await asyncio.wait_for(world.node(), DEADLINE_S)
    assert world.fault.met.is_set()
    ended = await asyncio.wait_for(successor.wait_ended(launch.sandbox), DEADLINE_S)
    assert ended.exit.reason is reason, ended.exit
    assert world.left() == {}
    world.fault = NO_FAULT
    other = world.launch()
    await successor.start(other)
    assert set(successor.running()) == {other.sandbox}


async def test_an_adoption_where_nothing_fails_goes_on(world: World) -> None:
    first = await world.node()
    launch = world.launch()
    await first.start(launch)
    await first.close()
    successor = await world.node()
    assert set(successor.running()) == {launch.sandbox}


async def test_a_sandbox_that_ended_at_its_lifetime_meanwhile_is_told_so(world: World) -> None:
    first = await world.node()
    launch = world.launch(lifetime_s=0.2)
    await first.start(launch)
    await first.close()
    await until(lambda: all(sentry.ended.is_set() for sentry in world.machine.sandboxes.values()))
    successor = await world.node()
    assert (await successor.wait_ended(launch.sandbox)).exit.reason is SandboxReason.LIFETIME
    assert world.left() == {}
