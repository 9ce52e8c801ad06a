"""The keeper: obeys lines, keeps the lifetime, and is stopped by nothing else."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest
from agent_places import AGENT


@pytest.fixture
def keeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([AGENT, "keep"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        process.wait()


def ask(keeper: subprocess.Popen[bytes], line: bytes) -> bytes:
    os.write(keeper.stdin.fileno(), line)
    return keeper.stdout.readline()


def test_it_answers_each_line(keeper: subprocess.Popen[bytes]) -> None:
    assert ask(keeper, b"ping\n") == b"ok\n"
    assert ask(keeper, b"lifetime 60000\n") == b"ok\n"
    assert ask(keeper, b"dance\n") == b"error\n"
    assert ask(keeper, b"x" * 1000 + b"\n") == b"error\n"
    assert ask(keeper, b"ping\n") == b"ok\n"


def test_it_exits_124_when_the_lifetime_is_over(keeper: subprocess.Popen[bytes]) -> None:
    assert ask(keeper, b"lifetime 100\n") == b"ok\n"
    assert keeper.wait(timeout=20) == 124


def test_a_later_lifetime_replaces_the_earlier_one(keeper: subprocess.Popen[bytes]) -> None:
    assert ask(keeper, b"lifetime 3600000\n") == b"ok\n"
    assert ask(keeper, b"lifetime 0\n") == b"ok\n"
    assert keeper.wait(timeout=20) == 124


def test_the_end_of_its_input_changes_nothing(keeper: subprocess.Popen[bytes]) -> None:
    assert ask(keeper, b"lifetime 300\n") == b"ok\n"
    keeper.stdin.close()
    assert keeper.wait(timeout=20) == 124


def test_nobody_who_reads_no_answers_stops_it(keeper: subprocess.Popen[bytes]) -> None:
    assert ask(keeper, b"lifetime 1000\n") == b"ok\n"
    os.set_blocking(keeper.stdin.fileno(), False)
    try:
        for _ in range(100_000):
            os.write(keeper.stdin.fileno(), b"ping\n")
    except BlockingIOError:
        pass
    assert keeper.wait(timeout=20) == 124


def test_stop_ends_it_with_0(keeper: subprocess.Popen[bytes]) -> None:
    os.write(keeper.stdin.fileno(), b"stop\n")
    assert keeper.wait(timeout=20) == 0
