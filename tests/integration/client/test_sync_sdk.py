"""The SDK as a program uses it, against the real door over a fake node."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from served_door import ServedDoor

import skerry
from skerry.client.client import Client
from skerry.exception import (
    InvalidError,
    NotFoundError,
    SandboxEndedError,
    SandboxFilesystemNotFoundError,
    SandboxTerminatedError,
    UnimplementedError,
)
from skerry.model.exits import ProcessReason, SandboxReason

pytestmark = pytest.mark.usefixtures("client")


def test_the_entrypoints_output_is_read_after_its_end() -> None:
    sandbox = skerry.Sandbox.create("echo", "hello from sandbox", app=skerry.App("example"), timeout=300)
    sandbox.wait()
    assert sandbox.stdout.read() == "hello from sandbox\n"
    assert sandbox.stderr.read() == ""
    assert sandbox.returncode == sandbox.poll() == 0
    assert sandbox.exit is not None
    assert sandbox.exit.reason is SandboxReason.EXITED


def test_a_process_gives_its_code_and_both_streams() -> None:
    with skerry.Sandbox.create() as sandbox:
        process = sandbox.exec("warn", "oops")
        assert process.wait() == 0
        assert (process.stdout.read(), process.stderr.read()) == ("", "oops\n")
        assert sandbox.exec("exit", "3").wait() == 3
        assert sandbox.exec("no-such-program").wait() == 127


def test_stdin_is_taken_and_closed() -> None:
    with skerry.Sandbox.create() as sandbox:
        process = sandbox.exec("cat")
        process.stdin.write(b"hi ")
        process.stdin.write("there")
        process.stdin.drain()
        assert process.poll() is None
        process.stdin.write_eof()
        assert process.stdout.read() == "hi there"
        assert process.wait() == 0
        with pytest.raises(ValueError, match="stdin is closed"):
            process.stdin.write("late")


def test_lines_come_while_the_process_runs() -> None:
    with skerry.Sandbox.create() as sandbox:
        process = sandbox.exec("cat")
        lines = iter(process.stdout)
        for number in range(3):
            process.stdin.write(f"line {number}\n")
            assert next(lines) == f"line {number}\n"
        process.stdin.write("no newline")
        process.stdin.write_eof()
        assert list(lines) == ["no newline"]


def test_pieces_come_without_a_newline_when_bufsize_is_0() -> None:
    with skerry.Sandbox.create() as sandbox:
        process = sandbox.exec("cat", bufsize=0)
        process.stdin.write("prompt> ")
        assert next(process.stdout) == "prompt> "
        process.kill()


def test_a_read_continues_where_an_iteration_stopped() -> None:
    with skerry.Sandbox.create("echo", "one\ntwo\nthree") as sandbox:
        assert next(sandbox.stdout) == "one\n"
        assert sandbox.stdout.read() == "two\nthree\n"
        assert sandbox.stdout.read() == ""


def test_bytes_arrive_as_they_are_and_as_text_are_refused_with_the_way_out() -> None:
    with skerry.Sandbox.create() as sandbox:
        raw = sandbox.exec("spew", "3000000", text=False).stdout.read()
        assert raw == (bytes(range(256)) * (3_000_000 // 256 + 1))[:3_000_000]
        process = sandbox.exec("spew", "300")
        with pytest.raises(InvalidError, match="text=False"):
            process.stdout.read()


def test_waiting_without_reading_returns_and_the_output_is_still_there() -> None:
    with skerry.Sandbox.create() as sandbox:
        process = sandbox.exec("spew", str(40 << 20), text=False)
        assert process.wait() == 0
        assert len(process.stdout.read()) == 40 << 20


def test_a_slow_reader_of_one_process_does_not_hold_another() -> None:
    with skerry.Sandbox.create() as sandbox:
        slow = sandbox.exec("spew", str(20 << 20), text=False)
        first = next(slow.stdout)
        assert sandbox.exec("echo", "quick").stdout.read() == "quick\n"
        assert len(first) + len(slow.stdout.read()) == 20 << 20


def test_devnull_and_stdout_cannot_be_read(capfd: pytest.CaptureFixture[str]) -> None:
    stream_type = skerry.stream_type.StreamType
    with skerry.Sandbox.create() as sandbox:
        process = sandbox.exec("echo", "shown", stdout=stream_type.STDOUT, stderr=stream_type.DEVNULL)
        assert process.wait() == 0
        assert capfd.readouterr().out == "shown\n"
        for stream in (process.stdout, process.stderr):
            with pytest.raises(InvalidError, match="PIPE"):
                stream.read()


def test_signals_reach_the_process() -> None:
    with skerry.Sandbox.create() as sandbox:
        process = sandbox.exec("cat")
        process.signal(signal.SIGTERM)
        assert process.wait() == 128 + signal.SIGTERM
        killed = sandbox.exec("cat")
        killed.kill()
        assert killed.wait() == 137
        assert killed.exit is not None
        assert killed.exit.reason is ProcessReason.KILLED
        killed.kill()
        with pytest.raises(InvalidError, match="signal 0"):
            killed.signal(0)


def test_a_block_kills_its_process_and_terminates_its_sandbox() -> None:
    with skerry.Sandbox.create() as sandbox:
        with sandbox.exec("cat") as process:
            pass
        assert process.wait() == 137
    assert sandbox.poll() == 137


def test_terminate_waits_on_demand_and_wait_raises_what_modal_raises() -> None:
    sandbox = skerry.Sandbox.create()
    assert sandbox.terminate() is None
    assert sandbox.terminate(wait=True) == 137
    with pytest.raises(SandboxTerminatedError, match=sandbox.object_id):
        sandbox.wait()
    sandbox.wait(raise_on_termination=False)
    assert sandbox.returncode == 137


def test_an_exec_in_an_ended_sandbox_tells_why_it_ended() -> None:
    sandbox = skerry.Sandbox.create()
    sandbox.terminate()
    with pytest.raises(SandboxEndedError) as caught:
        sandbox.exec("echo")
    exit = caught.value.details["exit"]
    assert isinstance(exit, skerry.SandboxExit)
    assert exit.reason is SandboxReason.TERMINATED


def test_sandboxes_are_found_again() -> None:
    app = skerry.App.lookup("grouped", create_if_missing=True)
    inside = [skerry.Sandbox.create(app=app) for _ in range(3)]
    outside = skerry.Sandbox.create()
    assert [one.object_id for one in skerry.Sandbox.list(app_id=app.app_id)] == [
        one.object_id for one in reversed(inside)
    ]
    assert skerry.Sandbox.from_id(outside.object_id).exec("true").wait() == 0
    outside.terminate()
    assert outside.object_id not in [one.object_id for one in skerry.Sandbox.list()]
    with pytest.raises(NotFoundError):
        skerry.Sandbox.from_id("sb_00000000000000000zzz")
    with pytest.raises(NotFoundError):
        skerry.App.lookup("no-such-app")


def test_files_go_in_and_out(tmp_path: Path) -> None:
    with skerry.Sandbox.create() as sandbox:
        files = sandbox.filesystem
        content = os.urandom(5 << 20)
        files.write_bytes(content, "/data/deep/file.bin")
        assert files.read_bytes("/data/deep/file.bin") == content
        files.write_text("größe", "/data/text")
        assert files.read_text("/data/text") == "größe"
        assert [(one.name, one.is_file()) for one in files.list_files("/data")] == [("deep", False), ("text", True)]
        assert files.stat("/data/text").permissions == "0644"
        files.make_directory("/data/new")
        files.remove("/data", recursive=True)
        with pytest.raises(SandboxFilesystemNotFoundError):
            files.read_text("/data/text")
        (tmp_path / "local").write_bytes(b"local")
        files.copy_from_local(tmp_path / "local", "/copied")
        files.copy_to_local("/copied", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == b"local"
        with pytest.raises(InvalidError, match="relative"):
            files.read_text("relative")


def test_timings_add_up_to_what_the_client_saw() -> None:
    begun = time.perf_counter()
    sandbox = skerry.Sandbox.create()
    elapsed_ms = (time.perf_counter() - begun) * 1000
    stages = sandbox.timings.stages
    assert {"connect", "image", "request"} <= {stage.name for stage in stages}
    assert sum(stage.ms for stage in stages) == pytest.approx(sandbox.timings.total_ms)
    assert sandbox.timings.total_ms <= elapsed_ms


def test_what_the_engine_does_not_have_is_refused_by_name(door: ServedDoor) -> None:
    with pytest.raises(UnimplementedError, match=r"gpu"):
        skerry.Sandbox.create(gpu="A100")
    with pytest.raises(TypeError, match="tiemout"):
        skerry.Sandbox.create(tiemout=3)
    skerry.Sandbox.create(gpu=None, volumes={}, pty=False, encrypted_ports=[])
    assert len(door.engine.sandboxes.list(skerry_filter())) == 1


def skerry_filter() -> object:
    from skerry.model.sandboxes import SandboxFilter

    return SandboxFilter()


def test_the_asynchronous_form_of_a_method_works_on_another_loop() -> None:
    async def program() -> tuple[list[str], int]:
        sandbox = await skerry.Sandbox.create.aio()
        async with sandbox:
            process = await sandbox.exec.aio("echo", "a\nb")
            lines = [line async for line in process.stdout]
            listed = [one.object_id async for one in skerry.Sandbox.list.aio()]
            assert listed == [sandbox.object_id]
            return lines, await process.wait.aio()

    assert asyncio.run(program()) == (["a\n", "b\n"], 0)


def test_many_threads_share_the_connection() -> None:
    with skerry.Sandbox.create() as sandbox:
        results: dict[int, str] = {}

        def work(number: int) -> None:
            results[number] = sandbox.exec("echo", str(number)).stdout.read()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert results == {number: f"{number}\n" for number in range(16)}


def test_a_thousand_processes_leave_no_stream_open(client: Client) -> None:
    with skerry.Sandbox.create() as sandbox:
        for _ in range(1100):
            sandbox.exec("spew", "10").wait()

        async def streams() -> int:
            return len((await (await client.connection()).socket())._streams)

        from skerry.client import loop

        assert loop.run(streams) == 0


def test_an_app_block_terminates_what_was_made_in_it() -> None:
    app = skerry.App("block")
    before = skerry.Sandbox.create()
    with app.run():
        inside = skerry.Sandbox.create(app=app)
    assert inside.poll() == 137
    assert before.poll() is None
