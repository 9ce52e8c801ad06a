"""How sandboxes and processes end, in Modal's words: wait, poll, returncode, the exceptions, the blocks."""

from __future__ import annotations

import os
import signal

import pytest
from realserver import Server

import skerry
from skerry import ProcessReason, Sandbox, SandboxReason, aio
from skerry.exception import SandboxTerminatedError, SandboxTimeoutError


@pytest.fixture(scope="module", autouse=True)
def served(shared: Server) -> Server:
    return shared


def test_a_running_sandbox_has_no_return_code_and_an_ended_one_keeps_it() -> None:
    box = Sandbox.create("sh", "-c", "read line; exit 7", block_network=True)
    assert box.poll() is None
    assert box.returncode is None
    assert box.exit is None
    box.stdin.write("go\n")
    box.stdin.write_eof()
    assert box.returncode is None  # nobody has asked yet
    box.wait()
    assert (box.returncode, box.poll()) == (7, 7)
    assert Sandbox.from_id(box.object_id).poll() == 7
    box.terminate()
    assert (box.returncode, box.exit.reason) == (7, SandboxReason.EXITED)  # type: ignore[union-attr]


def test_a_running_process_has_no_return_code_and_an_ended_one_keeps_it() -> None:
    with Sandbox.create(block_network=True) as box:
        process = box.exec("sh", "-c", "read line; kill -TERM $$")
        assert process.poll() is None
        assert process.returncode is None
        process.stdin.write("go\n")
        process.stdin.write_eof()
        assert process.wait() == 128 + signal.SIGTERM
        assert (process.returncode, process.poll()) == (143, 143)
        assert process.exit is not None
        assert (process.exit.reason, process.exit.signal) == (ProcessReason.SIGNALED, signal.SIGTERM)


def test_a_signal_of_ours_is_told_apart_from_one_of_its_own() -> None:
    with Sandbox.create(block_network=True) as box:
        process = box.exec("sleep", "1000")
        process.kill()
        process.kill()
        assert process.wait() == 137
        assert process.exit.reason is ProcessReason.KILLED  # type: ignore[union-attr]
        process.kill()  # one that has ended is left alone


def test_an_entrypoint_that_a_signal_ends_is_told_with_it() -> None:
    box = Sandbox.create("sh", "-c", "kill -SEGV $$", block_network=True)
    box.wait()
    assert box.returncode == 128 + signal.SIGSEGV
    assert (box.exit.reason, box.exit.signal) == (SandboxReason.SIGNALED, signal.SIGSEGV)  # type: ignore[union-attr]


def test_the_end_of_the_lifetime_raises_what_modal_raises() -> None:
    box = Sandbox.create("sh", "-c", "echo begun; exec sleep 1000", timeout=1, block_network=True)
    with pytest.raises(SandboxTimeoutError, match=f"sandbox {box.object_id} reached the end of its lifetime") as caught:
        box.wait()
    assert caught.value.code == "deadline_exceeded"
    assert "a longer timeout (at most 86400 s)" in str(caught.value)
    assert isinstance(caught.value, TimeoutError)
    assert (box.returncode, box.exit.reason) == (124, SandboxReason.LIFETIME)  # type: ignore[union-attr]
    assert box.stdout.read() == "begun\n"


def test_a_sandbox_that_is_terminated_raises_what_modal_raises_and_only_where_asked() -> None:
    box = Sandbox.create("sleep", "1000", block_network=True)
    process = box.exec("sleep", "1000")
    assert box.terminate() is None
    assert box.terminate(wait=True) == 137
    with pytest.raises(SandboxTerminatedError, match=f"{box.object_id} was ended from outside .terminated.") as caught:
        box.wait()
    assert caught.value.code == "aborted"
    box.wait(raise_on_termination=False)
    assert (box.exit.reason, box.exit.evidence) == (SandboxReason.TERMINATED, "terminate was called")  # type: ignore[union-attr]
    assert process.wait() == 137
    assert process.exit.reason is ProcessReason.SANDBOX_ENDED  # type: ignore[union-attr]
    assert "terminate" in process.exit.evidence  # type: ignore[union-attr]


def test_a_timeout_kills_what_a_command_left_behind_and_keeps_what_it_wrote() -> None:
    with Sandbox.create(block_network=True) as box:
        script = "echo begun; setsid sh -c 'sleep 999 & sleep 999' & sleep 999"
        process = box.exec("sh", "-c", script, timeout=1)
        assert process.wait() == 137
        assert process.exit.reason is ProcessReason.TIMEOUT  # type: ignore[union-attr]
        assert "1" in process.exit.evidence  # type: ignore[union-attr]
        assert process.stdout.read() == "begun\n"
        assert box.exec("ps", "-C", "sleep", "-o", "pid=").stdout.read() == ""


def test_a_command_in_the_background_that_keeps_the_pipe_delays_nothing_but_the_end_of_the_output() -> None:
    with Sandbox.create(block_network=True) as box:
        process = box.exec("sh", "-c", "(sleep 1; echo late) & echo soon; exit 4")
        assert process.wait() == 4
        assert process.stdout.read() == "soon\nlate\n"


def test_a_killed_sentry_is_a_broken_guest_for_all_who_wait(served: Server) -> None:
    before = set(served.sentries())
    box = Sandbox.create(block_network=True)
    process = box.exec("sh", "-c", "echo begun; exec sleep 1000")
    lines = iter(process.stdout)
    assert next(lines) == "begun\n"
    (sentry,) = set(served.sentries()) - before
    os.kill(sentry, signal.SIGKILL)
    assert list(lines) == []
    assert process.wait() == 137
    assert process.exit.reason is ProcessReason.SANDBOX_ENDED  # type: ignore[union-attr]
    with pytest.raises(SandboxTerminatedError, match="guest_broken"):
        box.wait()
    assert (box.exit.reason, box.returncode) == (SandboxReason.GUEST_BROKEN, 137)  # type: ignore[union-attr]
    assert "kernel" in box.exit.evidence  # type: ignore[union-attr]


def test_a_block_terminates_its_sandbox_and_its_process_also_after_an_exception() -> None:
    class Mistake(Exception):
        pass

    box = Sandbox.create(block_network=True)
    with pytest.raises(Mistake), box.exec("sleep", "1000") as process:
        raise Mistake
    assert process.wait() == 137
    assert process.exit.reason is ProcessReason.KILLED  # type: ignore[union-attr]
    with pytest.raises(Mistake), box:
        raise Mistake
    assert box.poll() == 137
    assert box.exit.reason is SandboxReason.TERMINATED  # type: ignore[union-attr]


async def test_asynchronous_blocks_do_the_same(served: Server) -> None:
    async with skerry.connect(served.url) as client:
        async with await aio.Sandbox.create(block_network=True, client=client) as box:
            process = await box.exec("sh", "-c", "for i in 1 2 3; do echo $i; done")
            assert [line async for line in process.stdout] == ["1\n", "2\n", "3\n"]
            assert await process.wait() == 0
        assert await box.poll() == 137


def test_two_clients_use_one_sandbox_and_both_are_told_of_its_end(served: Server) -> None:
    box = Sandbox.create("sh", "-c", "read line; echo $line; exit 3", block_network=True)
    with skerry.connect(served.url) as other:
        same = Sandbox.from_id(box.object_id, client=other)
        same.filesystem.write_text("from the other", "/root/note")
        assert box.filesystem.read_text("/root/note") == "from the other"
        processes = [each.exec("sh", "-c", "seq 20000; echo done >&2") for each in (box, same, box, same)]
        assert all(process.stdout.read().endswith("19999\n20000\n") for process in processes)
        same.stdin.write("over\n")
        same.stdin.write_eof()
        same.wait()
        box.wait()
        assert (same.returncode, box.returncode) == (3, 3)
        assert box.stdout.read() == same.stdout.read() == "over\n"  # both get all of it
