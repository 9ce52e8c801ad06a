from __future__ import annotations

from dataclasses import replace

import pytest

from skerry.model.exits import ProcessExit, ProcessReason, SandboxReason
from skerry.node.ends import MemoryKills, Seen, ended_with_sandbox, process_exit, sandbox_exit

ALIVE = Seen(now=100.0, deadline=400.0)
EXITED = ProcessExit(reason=ProcessReason.EXITED, code=3)


def test_what_was_asked_for_comes_before_what_it_caused() -> None:
    seen = replace(ALIVE, asked=SandboxReason.TERMINATED, sentry_alive=False, oom_kills=4, entrypoint=EXITED)
    assert sandbox_exit(seen).reason is SandboxReason.TERMINATED


def test_the_entrypoint_gives_its_code_or_its_signal() -> None:
    assert sandbox_exit(replace(ALIVE, entrypoint=EXITED)).code == 3
    killed = ProcessExit(reason=ProcessReason.SIGNALED, signal=15)
    end = sandbox_exit(replace(ALIVE, entrypoint=killed))
    assert (end.reason, end.signal, end.returncode) == (SandboxReason.SIGNALED, 15, 143)


def test_a_sentry_that_is_gone_at_the_deadline_reached_its_lifetime() -> None:
    end = sandbox_exit(replace(ALIVE, now=400.0, sentry_alive=False))
    assert (end.reason, end.returncode) == (SandboxReason.LIFETIME, 124)


def test_a_sentry_that_is_gone_before_was_broken() -> None:
    assert sandbox_exit(replace(ALIVE, sentry_alive=False)).reason is SandboxReason.GUEST_BROKEN


def test_out_of_memory_is_told_by_the_kernels_counter() -> None:
    end = sandbox_exit(replace(ALIVE, sentry_alive=False, oom_kills=1))
    assert (end.reason, end.returncode) == (SandboxReason.OUT_OF_MEMORY, 137)


def test_a_broken_rule_is_named() -> None:
    end = sandbox_exit(replace(ALIVE, violation="over_credit: 5 bytes too many"))
    assert end.reason is SandboxReason.GUEST_BROKEN
    assert "over_credit" in end.evidence


def test_a_kill_for_memory_is_told_as_one() -> None:
    end = process_exit(code=None, signal=9, reason="signaled", evidence="", out_of_memory=True)
    assert (end.reason, end.signal) == (ProcessReason.OUT_OF_MEMORY, 9)


@pytest.mark.parametrize("reason", ["killed", "timeout", "signaled"])
def test_other_ends_keep_their_reason(reason: str) -> None:
    end = process_exit(code=None, signal=9, reason=reason, evidence="why", out_of_memory=False)
    assert (end.reason, end.evidence) == (ProcessReason(reason), "why")


def test_each_kill_for_memory_is_told_once() -> None:
    counted = 0
    kills = MemoryKills(lambda: counted)
    assert not kills.take()
    counted = 2
    assert [kills.take(), kills.take(), kills.take()] == [True, True, False]
    counted = 3
    assert kills.untold() == 1


def test_a_process_that_outlives_nothing_says_how_its_sandbox_ended() -> None:
    end = ended_with_sandbox(sandbox_exit(replace(ALIVE, asked=SandboxReason.TERMINATED)))
    assert end.reason is ProcessReason.SANDBOX_ENDED
    assert "terminated" in end.evidence
