"""`skerry top` and `sandbox.usage()`: what real sandboxes take, on a terminal, in a table and as JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest
from command_line import PROGRAM, skerry
from realserver import Server, wait_for
from terminal_user import Window

from skerry import Sandbox
from skerry.exception import NotFoundError, SandboxEndedError

HOSTILE = "\x1b[2J\x1b]0;owned\x07"


@pytest.fixture(scope="module", autouse=True)
def served(shared: Server) -> Server:
    return shared


@pytest.fixture(scope="module")
def busy(served: Server) -> Iterator[Sandbox]:
    with Sandbox.create("sh", "-c", "while :; do :; done", HOSTILE) as box:
        box.exec("sh", "-c", "head -c 30000000 /dev/zero > /root/file").wait()
        yield box


@pytest.fixture
def window(served: Server) -> Iterator[Window]:
    opened = Window([*PROGRAM, "top"], os.environ | served.environ | {"TERM": "xterm"}, rows=12, columns=110)
    yield opened
    opened.close()


def test_a_program_is_told_what_a_sandbox_takes(busy: Sandbox) -> None:
    first = busy.usage()
    assert first.file_bytes is not None
    assert 30_000_000 <= first.file_bytes < 60_000_000
    assert first.memory_bytes >= first.file_bytes
    assert first.processes == 1
    assert first.received_bytes is not None
    wait_for(lambda: busy.usage().cpu_seconds > first.cpu_seconds + 0.2, "a fifth of a second of CPU")
    with Sandbox.create(block_network=True) as other:
        assert other.usage().received_bytes is None
        assert other.usage().processes == 0
    with pytest.raises(SandboxEndedError, match="does not run"):
        other.usage()


def test_one_table_shows_all_and_one_alone(busy: Sandbox, served: Server) -> None:
    with Sandbox.create(block_network=True) as other:
        out, err, code = skerry(served, "top", "--once")
        assert (err, code) == ("", 0)
        head, first, second = out.decode().splitlines()
        assert head.split()[:3] == ["SANDBOX", "CPU", "MEMORY"]
        assert first.startswith(busy.object_id)  # it takes most of the CPU
        assert second.startswith(other.object_id)
        assert int(first.split()[1].removesuffix("%")) >= 20
        assert b"\x1b" not in out
        assert "\\x1b[2J" in first
        (_, only) = skerry(served, "top", "--once", other.object_id)[0].decode().splitlines()
        assert only.startswith(other.object_id)
    assert skerry(served, "top", "--once", other.object_id)[0].decode().splitlines()[1:] == []
    assert "there is no sandbox" in skerry(served, "top", "--once", "sb_00000000000000000000")[1]
    with pytest.raises(NotFoundError):
        Sandbox.from_id("sb_00000000000000000000")


def test_json_has_a_line_for_each_sandbox(busy: Sandbox, served: Server) -> None:
    (line,) = skerry(served, "top", "--json", "--once", busy.object_id)[0].splitlines()
    told = json.loads(line)
    assert told["id"] == busy.object_id
    assert told["cpu"] > 0.2
    assert told["file_bytes"] >= 30_000_000
    assert (told["processes"], told["file_limit_bytes"]) == (1, 1 << 30)


def test_the_screen_is_drawn_anew_obeys_its_keys_and_leaves_no_trace(busy: Sandbox, window: Window) -> None:
    window.until(b"\x1b[?1049h")
    window.until(busy.object_id)
    at = window.until("by cpu")
    window.until(busy.object_id, after=at)  # again, with a rate
    window.type("m")
    at = window.until("by memory", after=at)
    window.resize(6, 40)
    at = window.until(b"\x1b[H", after=at)
    assert b"owned" not in window.shown or b"\x1b]0;owned" not in window.shown
    assert b"\x1b[2J" not in window.shown
    window.type("q")
    assert window.ended() == 0
    assert window.shown.endswith(b"\x1b[?1049l")
    assert window.is_as_before


def test_a_hostile_command_line_is_shown_and_draws_nothing(busy: Sandbox, served: Server) -> None:
    with Sandbox.create(HOSTILE, block_network=True) as box:
        window = Window([*PROGRAM, "top"], os.environ | served.environ | {"TERM": "xterm"}, rows=20, columns=200)
        try:
            box.poll()
            window.until("q leaves")
            window.type("q")
            assert window.ended() == 0
            assert b"\x1b[2J" not in window.shown
            assert b"\x1b]0;" not in window.shown
        finally:
            window.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_puts_the_terminal_right(busy: Sandbox, window: Window, number: int) -> None:
    window.until(busy.object_id)
    window.program.send_signal(number)
    assert window.ended() == 128 + number
    assert window.shown.endswith(b"\x1b[?1049l")
    assert window.is_as_before


def test_a_killed_one_leaves_a_terminal_that_is_put_right(busy: Sandbox, window: Window) -> None:
    window.until(busy.object_id)
    window.program.send_signal(signal.SIGKILL)
    window.until(b"\x1b[?1049l")
    window.wait(lambda: window.is_as_before, "the terminal as it was")


def test_looking_is_no_use(served: Server) -> None:
    box = Sandbox.create(idle_timeout=1, block_network=True)
    looking = subprocess.Popen(
        [*PROGRAM, "top", "--json", "--interval", "0.5", box.object_id],
        env=os.environ | served.environ,
        stdout=subprocess.PIPE,
    )
    looking.communicate(timeout=60)  # it ends with its sandbox
    assert looking.returncode == 0
    assert box.poll() == 137
    assert box.exit.reason == "idle_timeout"  # type: ignore[union-attr]


def test_it_can_be_left_while_no_server_answers(server: Server) -> None:
    window = Window([*PROGRAM, "top"], os.environ | server.environ | {"TERM": "xterm"}, rows=12, columns=110)
    try:
        window.until("0 sandboxes")
        server.kill9()
        window.type("q")
        assert window.program.wait(20) == 0
        assert window.is_as_before
        server.start()
    finally:
        window.close()
