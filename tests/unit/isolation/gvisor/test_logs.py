"""Logs that a hostile writer cannot make grow, and what is read of them."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from skerry.isolation.gvisor.logs import AGENT, ATTACH, KEEPER, LOG_BYTES, SENTRY, Log, Logs


@pytest.fixture
def log() -> Iterator[Log]:
    made = Log.new(SENTRY)
    yield made
    made.close()


@pytest.fixture
def logs() -> Iterator[Logs]:
    made = Logs()
    yield made
    made.close()


def write_until_refused(fd: int) -> int:
    """Write as a hostile process does, and return the error that ends it."""
    for _ in range(4):
        try:
            while True:
                os.write(fd, b"x" * 4096)
        except OSError as exc:
            failure = exc.errno or 0
    return failure


def test_writing_without_end_is_refused_at_the_size(log: Log) -> None:
    assert write_until_refused(log.fd) == errno.EPERM
    assert os.fstat(log.fd).st_size == LOG_BYTES
    assert os.fstat(log.fd).st_blocks * 512 <= LOG_BYTES


@pytest.mark.parametrize(
    "act",
    [
        lambda fd: os.ftruncate(fd, 2 * LOG_BYTES),
        lambda fd: os.posix_fallocate(fd, 0, 2 * LOG_BYTES),
        lambda fd: os.pwrite(fd, b"x", LOG_BYTES),
        lambda fd: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 0),
    ],
    ids=["truncate", "fallocate", "write beyond", "other seals"],
)
def test_no_other_way_makes_it_larger(log: Log, act: object) -> None:
    with pytest.raises(PermissionError):
        act(log.fd)  # type: ignore[operator]


def test_another_descriptor_that_appends_is_refused_too(log: Log) -> None:
    other = os.open(f"/proc/self/fd/{log.fd}", os.O_WRONLY | os.O_APPEND)
    try:
        assert write_until_refused(other) == errno.EPERM
    finally:
        os.close(other)


def test_the_last_words_are_one_printable_line(logs: Logs) -> None:
    os.write(logs.new(SENTRY), b"a\0\x1b[31mb\n" * 1000 + b"\n last \n")
    os.write(logs.new(AGENT), b"\xff other\n other\n")
    said = logs.last_words()
    assert said.isprintable()
    assert said.endswith("last; � other; other")
    assert len(said) < 200


def test_who_is_nearest_to_the_guest_has_the_last_word(logs: Logs) -> None:
    for name in (ATTACH, AGENT, SENTRY, KEEPER):
        os.write(logs.new(name), name.encode())
    assert logs.last_words() == "sentry; keeper; agent; attach"


def test_nothing_said_is_nothing(logs: Logs) -> None:
    logs.new(SENTRY)
    assert logs.last_words() == ""


def test_a_log_of_the_same_name_takes_the_place_of_the_first(logs: Logs) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        os.write(logs.new(ATTACH), b"said")
    assert len(os.listdir("/proc/self/fd")) == before + 1
    assert logs.last_words() == "said"


def test_a_successor_finds_them_with_the_process_that_holds_them(logs: Logs) -> None:
    fd = logs.new(SENTRY)
    os.write(fd, b"from before")
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[fd]) as holder:
        found = Logs.of(holder.pid)
        assert holder.stdin is not None
        holder.stdin.close()
    assert found.last_words() == "from before"
    found.close()
    assert logs.last_words() == "from before"


def test_a_process_that_is_gone_has_none() -> None:
    assert Logs.of(2**22 + 1).last_words() == ""


def test_what_only_bears_the_name_is_left_alone(tmp_path: Path) -> None:
    imitation = tmp_path / "memfd:skerry-sentry (deleted)"
    imitation.write_text("false")
    with imitation.open() as held, subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[held.fileno()]) as holder:
        found = Logs.of(holder.pid)
        assert holder.stdin is not None
        holder.stdin.close()
    assert found.last_words() == ""


def test_a_successor_takes_over_no_log_of_another_name() -> None:
    invented = Log.new("invented")
    os.write(invented.fd, b"one of thousands")
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[invented.fd]) as holder:
        found = Logs.of(holder.pid)
        assert holder.stdin is not None
        holder.stdin.close()
    invented.close()
    assert found.last_words() == ""
