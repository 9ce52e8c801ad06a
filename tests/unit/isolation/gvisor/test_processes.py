"""Processes by pid and start time."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from skerry.isolation.gvisor.processes import Watch, all_arguments, key_of, reap


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_a_process_is_alive_and_another_with_its_pid_is_not(sleeper: subprocess.Popen[bytes]) -> None:
    key = key_of(sleeper.pid)
    assert key is not None
    assert key.alive()
    assert not replace(key, start=key.start + 1).alive()


def test_a_name_full_of_parentheses_and_spaces_is_no_trouble() -> None:
    script = "open('/proc/self/comm', 'w').write(') R 1 (x'); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        key = key_of(process.pid)
        assert key is not None
        assert key.start > 0
        process.kill()


def test_what_has_ended_is_not_alive_even_before_it_is_reaped(sleeper: subprocess.Popen[bytes]) -> None:
    key = key_of(sleeper.pid)
    assert key is not None
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert not key.alive()
    assert key_of(sleeper.pid) is None


async def test_a_watch_tells_everyone_when_the_process_ends(sleeper: subprocess.Popen[bytes]) -> None:
    key = key_of(sleeper.pid)
    assert key is not None
    watch = Watch(key)
    waiting = [asyncio.create_task(watch.ended()) for _ in range(3)]
    watch.kill()
    async with asyncio.timeout(10):
        await asyncio.gather(*waiting)
        await watch.ended()
    watch.close()
    watch.kill()


async def test_closing_a_watch_lets_go_of_who_waits_and_keeps_the_process(sleeper: subprocess.Popen[bytes]) -> None:
    key = key_of(sleeper.pid)
    assert key is not None
    watch = Watch(key)
    waiting = asyncio.create_task(watch.ended())
    await asyncio.sleep(0)
    watch.close()
    async with asyncio.timeout(10):
        await waiting
    assert key.alive()


def test_a_watch_refuses_another_process_with_the_same_pid(sleeper: subprocess.Popen[bytes]) -> None:
    key = key_of(sleeper.pid)
    assert key is not None
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ProcessLookupError):
        Watch(replace(key, start=key.start + 1))
    assert len(os.listdir("/proc/self/fd")) == before


def test_reaping_what_is_not_ours_says_nothing() -> None:
    reap(1)


def test_arguments_are_told_apart(sleeper: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    # Popen returns a moment before the kernel shows the arguments.
    while (found := dict(all_arguments()).get(sleeper.pid)) is None:
        assert time.monotonic() < deadline
    assert found == ["sleep", "60"]
