"""What every backend promises to the node; the fake is trusted because it passes here beside the real one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from guest import NEXT_SECRET, SECRET, Guest, hello
from realbackend import new_sandbox, real_backend, small_claim

from skerry.model.errors import ConflictError, StartFailedError
from skerry.model.members import Claim, MemberSpec
from skerry.node.interfaces import Backend, Member
from skerry.testing.backend import FakeBackend

SECONDS = 20.0


@dataclass
class Subject:
    """A backend, a way to make the one of a successor, and a claim that it can start."""

    backend: Backend
    successor: Callable[[], Backend]
    claim: Claim

    async def boot(self) -> Member:
        return await self.backend.boot(MemberSpec(sandbox=new_sandbox()))


@pytest_asyncio.fixture(params=["fake", pytest.param("gvisor", marks=pytest.mark.root)])
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    if request.param == "fake":
        fake = FakeBackend()
        yield Subject(fake, lambda: FakeBackend(fake.machine), small_claim(Path("image.erofs")))
        await fake.sweep([])
        return
    async with real_backend(tmp_path) as real:
        # The agent brings all that it needs, so any image will do as the user's.
        yield Subject(real.backend, real.another, small_claim(real.agent_image))


async def test_the_probe_says_nothing_where_sandboxes_run(subject: Subject) -> None:
    await subject.backend.probe()
    assert await subject.backend.sweep([]) == []


async def test_a_booted_member_is_alive_until_it_is_destroyed(subject: Subject) -> None:
    member = await subject.boot()
    assert member.alive()
    await member.destroy()
    assert not member.alive()


async def test_destroying_twice_is_destroying_once(subject: Subject) -> None:
    member = await subject.boot()
    await member.destroy()
    await member.destroy()
    assert not member.alive()


async def test_a_sandbox_is_booted_only_once(subject: Subject) -> None:
    sandbox = new_sandbox()
    member = await subject.backend.boot(MemberSpec(sandbox=sandbox))
    with pytest.raises(StartFailedError):
        await subject.backend.boot(MemberSpec(sandbox=sandbox))
    assert member.alive(), "the sandbox that was there is another's"
    await member.set_lifetime(60)


async def test_everyone_who_waits_hears_of_the_end(subject: Subject) -> None:
    member = await subject.boot()
    waiting = [asyncio.create_task(member.wait_ended()) for _ in range(3)]
    await member.destroy()
    async with asyncio.timeout(SECONDS):
        await asyncio.gather(*waiting)
        await member.wait_ended()


async def test_the_lifetime_ends_the_sandbox_and_may_be_set_again(subject: Subject) -> None:
    member = await subject.boot()
    await member.set_lifetime(3600)
    await member.set_lifetime(0.05)
    async with asyncio.timeout(SECONDS):
        await member.wait_ended()
    assert not member.alive()


async def test_a_claim_leads_to_the_agent(subject: Subject) -> None:
    member = await subject.boot()
    pipes = await member.claim(subject.claim)
    assert not os.get_blocking(pipes.reader_fd)
    assert not os.get_blocking(pipes.writer_fd)
    async with Guest(pipes) as guest:
        ready = await guest.greet(hello(generation=3))
    assert ready.generation == 3


async def test_a_member_is_claimed_only_once(subject: Subject) -> None:
    member = await subject.boot()
    async with Guest(await member.claim(subject.claim)):
        with pytest.raises(ConflictError, match="claimed already"):
            await member.claim(subject.claim)


async def test_the_agent_hangs_up_when_the_sandbox_is_destroyed(subject: Subject) -> None:
    member = await subject.boot()
    async with Guest(await member.claim(subject.claim)) as guest:
        await guest.greet(hello())
        await member.destroy()
        guest.ready = None
        with pytest.raises(EOFError):
            await guest.greet(None)


async def test_attaching_leads_to_the_same_agent_over_new_pipes(subject: Subject) -> None:
    member = await subject.boot()
    async with Guest(await member.claim(subject.claim)) as guest:
        await guest.greet(hello())
    again = hello(generation=1, proof=SECRET, secret=NEXT_SECRET)
    async with Guest(await member.attach(again)) as guest:
        ready = await guest.greet(None)
    assert ready.generation == 1


async def test_attaching_to_what_was_never_claimed_fails(subject: Subject) -> None:
    member = await subject.boot()
    with pytest.raises(StartFailedError) as caught:
        await member.attach(hello())
    assert caught.value.details["stage"] == "attach"


async def test_the_upper_layer_of_a_claimed_member_is_saved_as_an_archive(subject: Subject, tmp_path: Path) -> None:
    member = await subject.boot()
    archive = tmp_path / "upper.tar"
    async with Guest(await member.claim(subject.claim)) as guest:
        await guest.greet(hello())
        with archive.open("wb") as file:
            await member.save_upper(file.fileno())
    assert archive.stat().st_size > 0


async def test_a_successor_adopts_what_runs(subject: Subject) -> None:
    member = await subject.boot()
    async with Guest(await member.claim(subject.claim)) as guest:
        await guest.greet(hello())
    adopted = await subject.successor().adopt(member.record)
    assert adopted is not None
    assert adopted.alive()
    assert adopted.record == member.record
    again = hello(generation=1, proof=SECRET, secret=NEXT_SECRET)
    async with Guest(await adopted.attach(again)) as guest:
        assert (await guest.greet(None)).generation == 1
    await adopted.set_lifetime(0.05)
    async with asyncio.timeout(SECONDS):
        await adopted.wait_ended()
        await member.wait_ended()
    await adopted.destroy()


async def test_a_successor_adopts_nothing_that_has_ended(subject: Subject) -> None:
    member = await subject.boot()
    record = member.record
    await member.set_lifetime(0.01)
    async with asyncio.timeout(SECONDS):
        await member.wait_ended()
    successor = subject.successor()
    assert await successor.adopt(record) is None
    assert await successor.sweep([]) == [], "adopting has removed what it left"


async def test_a_sweep_removes_all_but_what_is_kept_and_says_so(subject: Subject) -> None:
    kept, stray = await subject.boot(), await subject.boot()
    lines = await subject.successor().sweep([kept.record.sandbox])
    assert len(lines) == 1
    assert stray.record.sandbox in lines[0]
    assert kept.alive()
    async with asyncio.timeout(SECONDS):
        await stray.wait_ended()
    assert await subject.backend.sweep([kept.record.sandbox]) == []


async def test_a_call_to_an_ended_member_says_at_which_stage_it_failed(subject: Subject) -> None:
    member = await subject.boot()
    await member.set_lifetime(0.01)
    async with asyncio.timeout(SECONDS):
        await member.wait_ended()
    with pytest.raises(StartFailedError, match="sentry has ended") as caught:
        await member.claim(subject.claim)
    assert caught.value.details["stage"] == "claim"
