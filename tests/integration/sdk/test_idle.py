"""The idle timeout: what is a use, that it goes on over a restart, and that a use at the last moment is whole."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from command_line import skerry
from realserver import Server, wait_for

from skerry import Sandbox, SandboxReason
from skerry.exception import InvalidError, SandboxEndedError, SandboxTerminatedError


def table(server: Server, *argv: str) -> str:
    return skerry(server, *argv)[0].decode()


def ends_idle(box: Sandbox) -> None:
    with pytest.raises(SandboxTerminatedError, match="idle_timeout"):
        box.wait()
    assert (box.exit.reason, box.returncode) == (SandboxReason.IDLE_TIMEOUT, 137)  # type: ignore[union-attr]
    assert "idle timeout" in box.exit.evidence  # type: ignore[union-attr]


def test_a_sandbox_that_nobody_uses_ends_and_says_why(server: Server) -> None:
    box = Sandbox.create("sleep", "1000", idle_timeout=1, block_network=True)
    assert Sandbox.from_id(box.object_id).view.idle_since is not None
    assert ", idle " in table(server, "ls")
    ends_idle(box)
    with pytest.raises(SandboxEndedError, match="idle_timeout"):
        box.exec("true")
    assert "idle_timeout: nobody used it" in table(server, "ls", "--all")
    (told,) = json.loads(table(server, "ls", "--all", "--json"))
    assert (told["exit"]["reason"], told["idle_timeout_s"], told["idle_since"]) == ("idle_timeout", 1.0, None)


def test_an_exec_an_open_stream_and_a_file_keep_it_and_looking_at_it_does_not(server: Server) -> None:
    box = Sandbox.create("sh", "-c", "echo up; exec cat", idle_timeout=1.5, block_network=True)
    process = box.exec("cat")
    used = time.monotonic() + 2.0
    wait_for(lambda: time.monotonic() > used, "more than the idle timeout with an exec")
    process.stdin.write_eof()
    process.wait()
    lines = iter(box.stdout)
    assert next(lines) == "up\n"  # its stream stays open
    used = time.monotonic() + 2.0
    wait_for(lambda: time.monotonic() > used, "more than the idle timeout with an open stream")
    assert Sandbox.from_id(box.object_id).view.idle_since is None
    assert box.poll() is None
    box.terminate()
    other = Sandbox.create(idle_timeout=1, block_network=True)
    wait_for(lambda: other.poll() is not None, "its end, asked for again and again")
    ends_idle(other)


def test_idle_time_goes_on_over_a_restart_and_ends_what_it_was_over_for(server: Server) -> None:
    lasting = Sandbox.create(idle_timeout=600, block_network=True)
    short = Sandbox.create(idle_timeout=2, block_network=True)
    used = Sandbox.create(idle_timeout=600, block_network=True)
    process = used.exec("cat")
    since = Sandbox.from_id(lasting.object_id).view.idle_since
    assert since is not None
    server.kill9()
    over = time.monotonic() + 2.5
    wait_for(lambda: time.monotonic() > over, "the idle timeout of one")
    server.start()
    assert Sandbox.from_id(lasting.object_id).view.idle_since == pytest.approx(since, abs=1e-6)
    ends_idle(short)
    assert Sandbox.from_id(used.object_id).view.idle_since is None  # its exec runs on
    process.stdin.write_eof()
    assert process.wait() == 0
    wait_for(lambda: Sandbox.from_id(used.object_id).view.idle_since is not None, "the end of the last use")


def test_a_use_at_the_last_moment_succeeds_whole_or_is_refused(server: Server) -> None:
    timeout = 0.5
    Sandbox.create(block_network=True).terminate(wait=True)

    def once(number: int) -> str:
        """Use a sandbox when its time is nearly, or just, over: the moments are spread over a tenth of a second."""
        box = Sandbox.create(idle_timeout=timeout, block_network=True)
        moment = time.monotonic() + timeout + (number % 20 - 14) / 200
        wait_for(lambda: time.monotonic() > moment, "the last moment")
        try:
            if number % 2:
                said = box.exec("sh", "-c", "sleep 0.2; echo whole").stdout.read()
            else:
                box.filesystem.write_text("whole\n", "/root/file")
                said = "whole\n"
        except SandboxEndedError as exc:
            return type(exc).__name__
        assert said == "whole\n"
        return "whole"

    with ThreadPoolExecutor(2) as threads:
        outcomes = list(threads.map(once, range(40)))
    assert set(outcomes) == {"whole", "SandboxEndedError"}


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), 86_401, "5", True])
def test_what_is_no_idle_timeout_is_refused(server: Server, seconds: object) -> None:
    with pytest.raises(InvalidError, match="idle_timeout"):
        Sandbox.create(idle_timeout=seconds)  # type: ignore[arg-type]
