"""`kill -9` of the server loses no sandbox, no byte of output and no acknowledged write, and leaves nothing behind."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from realserver import Server, wait_for

from skerry import Image, ProcessReason, Sandbox, SandboxReason
from skerry.exception import SandboxTimeoutError, ServerUnavailableError, StartFailedError
from skerry.types import FileWatchEvent, FileWatchEventType

LINES = 60_000
COUNT = f"i=0; while [ $i -lt {LINES} ]; do echo line $i; i=$((i+1)); done"


@contextmanager
def in_background() -> Iterator[Callable[..., Future[object]]]:
    with ThreadPoolExecutor(4) as threads:
        yield threads.submit


@contextmanager
def sandbox(*command: str, **options: Any) -> Iterator[Sandbox]:
    """Yield a sandbox that ends with the block.

    If the block fails, the fixture ends it: the server may be away, and the failure of `terminate`, half a minute
    later, would be told instead of the first one.
    """
    box = Sandbox.create(*command, **options)
    yield box
    box.terminate()


def words(server: Server) -> list[str]:
    return server.settings.log.read_text().splitlines()


def restart(server: Server) -> None:
    server.kill9()
    server.start()


# What runs goes on


def test_output_goes_on_at_the_right_byte_through_the_same_handle(server: Server) -> None:
    with sandbox(block_network=True) as box:
        process = box.exec("sh", "-c", COUNT)
        for number, line in enumerate(process.stdout):
            assert line == f"line {number}\n"
            if number in (100, 45_000):
                restart(server)
            if number == 20_000:  # in order, as for an upgrade
                server.stop()
                server.start()
        assert number == LINES - 1
        assert process.wait() == 0


def test_bytes_of_many_processes_and_of_the_entrypoint_are_all_there(server: Server) -> None:
    script = "head -c 20000000 /dev/urandom > /root/$0; sha256sum < /root/$0 >&2; cat /root/$0; exit 3"
    entrypoint = f"read go; {COUNT}; read end"
    with sandbox("sh", "-c", entrypoint, block_network=True) as box, in_background() as submit:
        processes = [box.exec("sh", "-c", script, str(number), text=False) for number in range(3)]
        reading = [submit(lambda each=each: hashlib.sha256(each.stdout.read()).hexdigest()) for each in processes]
        box.stdin.write("go\n")
        box.stdin.drain()
        restart(server)
        for process, told in zip(processes, reading, strict=True):
            assert process.wait() == 3
            assert process.stderr.read().split()[0].decode() == told.result()
        box.stdin.write_eof()
        box.wait()
        assert box.stdout.read() == "".join(f"line {number}\n" for number in range(LINES))


def test_what_was_written_to_stdin_arrives_once_and_whole(server: Server) -> None:
    pieces = [number.to_bytes(4, "little") * 4096 for number in range(400)]
    with sandbox(block_network=True) as box:
        process = box.exec("sha256sum", text=False)
        for number, piece in enumerate(pieces):
            process.stdin.write(piece)
            process.stdin.drain()
            if number in (50, 200):
                restart(server)
        process.stdin.write_eof()
        assert process.stdout.read().split()[0].decode() == hashlib.sha256(b"".join(pieces)).hexdigest()


def test_files_that_are_on_their_way_arrive_whole(server: Server) -> None:
    content = os.urandom(64 << 20)
    with sandbox(block_network=True) as box, in_background() as submit:
        for number in range(2):
            sending = submit(box.filesystem.write_bytes, content, f"/data/{number}")
            listing = lambda: box.exec("ls", "-A", "/data").stdout.read()  # noqa: E731
            wait_for(listing, "the file's first bytes")
            restart(server)
            sending.result()
        assert [file.name for file in box.filesystem.list_files("/data")] == ["0", "1"]  # and no half of one
        coming = submit(box.filesystem.read_bytes, "/data/0")
        restart(server)
        assert coming.result() == content


def test_files_and_processes_of_a_sandbox_are_as_they_were(server: Server) -> None:
    box = Sandbox.create("sleep", "1000")  # with a network, which is taken over too
    box.filesystem.write_text("acknowledged", "/root/file")
    process = box.exec("sh", "-c", "echo up; read line; echo got $line", env={"A": "1"})
    assert next(iter(process.stdout)) == "up\n"
    restart(server)
    assert box.filesystem.read_text("/root/file") == "acknowledged"
    process.stdin.write("it\n")
    assert process.stdout.read() == "got it\n"
    assert [each.object_id for each in Sandbox.list()] == [box.object_id]
    assert box.exec("true").wait() == 0
    assert box.exec("curl", "-sS", "--max-time", "20", "-o", "/dev/null", "https://127.0.0.1:9").wait() == 7
    assert box.terminate(wait=True) == 137


def test_a_server_that_is_killed_again_and_again_finds_its_sandbox_each_time(server: Server) -> None:
    with sandbox(block_network=True) as box:
        for number in range(4):
            server.kill9()
            said = len(words(server))
            server.begin()
            # Killed in the middle of taking over, too: the network is up before the sandboxes are found.
            wait_for(lambda said=said, least=number % 2: len(words(server)) > said + least, "its first words")
            server.kill9()
            server.start()
            assert box.exec("echo", str(number)).stdout.read() == f"{number}\n"


# What ended meanwhile


def test_deadlines_are_kept_while_no_server_is_there(server: Server) -> None:
    short = Sandbox.create("sh", "-c", "echo begun; exec sleep 1000", timeout=2, block_network=True)
    with sandbox(block_network=True) as box:
        process = box.exec("sh", "-c", "echo $$; exec sleep 1000", timeout=1)
        inside = next(iter(process.stdout)).strip()
        waiting = len(server.sentries())
        server.kill9()
        over = time.monotonic() + 2.5
        wait_for(lambda: len(server.sentries()) == waiting - 1, "the end of the lifetime", seconds=20)
        wait_for(lambda: time.monotonic() > over, "the timeout")
        server.start()
        with pytest.raises(SandboxTimeoutError):
            short.wait()
        assert (short.returncode, short.exit.reason) == (124, SandboxReason.LIFETIME)  # type: ignore[union-attr]
        assert short.stdout.read() == "begun\n"
        assert process.wait() == 137
        assert process.exit.reason is ProcessReason.TIMEOUT  # type: ignore[union-attr]
        assert box.exec("test", "-e", f"/proc/{inside}").wait() == 1


def test_a_deadline_that_is_still_to_come_is_kept_by_the_next_server(server: Server) -> None:
    box = Sandbox.create("sleep", "1000", timeout=6, block_network=True)
    process = box.exec("sleep", "1000", timeout=4)
    restart(server)
    assert process.wait() == 137
    assert process.exit.reason is ProcessReason.TIMEOUT  # type: ignore[union-attr]
    with pytest.raises(SandboxTimeoutError):
        box.wait()


def test_what_ended_while_no_server_was_there_is_told_with_its_code_and_output(server: Server) -> None:
    with sandbox(block_network=True) as other:
        box = Sandbox.create("sh", "-c", "echo up; sleep 1; echo down; exit 5", block_network=True)
        process = other.exec("sh", "-c", "echo up; sleep 1; seq 30000; exit 6")
        assert next(iter(box.stdout)) == "up\n"
        assert next(iter(process.stdout)) == "up\n"
        server.kill9()
        over = time.monotonic() + 2.0
        wait_for(lambda: time.monotonic() > over, "both to end")
        server.start()
        assert process.wait() == 6
        assert process.stdout.read() == "".join(f"{number}\n" for number in range(1, 30_001))
        box.wait()
        assert (box.returncode, box.exit.reason) == (5, SandboxReason.EXITED)  # type: ignore[union-attr]
        assert box.stdout.read() == "down\n"


def test_lack_of_memory_while_no_server_was_there_is_told_as_that(server: Server) -> None:
    grow = "import time; print('up', flush=True); time.sleep(1); b = []\nwhile True: b.append(bytes(8 << 20) + b'x')"
    alone = Sandbox.create("python3", "-c", grow, block_network=True, memory=(128, 128))
    with sandbox(block_network=True, memory=(128, 128)) as box:
        process = box.exec("python3", "-c", grow)
        assert next(iter(process.stdout)) == next(iter(alone.stdout)) == "up\n"
        server.kill9()
        over = time.monotonic() + 3.0
        wait_for(lambda: time.monotonic() > over, "the memory to be used up")
        server.start()
        assert process.wait() == 137
        assert process.exit.reason is ProcessReason.OUT_OF_MEMORY  # type: ignore[union-attr]
        alone.wait()
        assert (alone.returncode, alone.exit.reason) == (137, SandboxReason.OUT_OF_MEMORY)  # type: ignore[union-attr]


def test_an_ended_sandbox_and_its_output_are_there_after_a_restart(server: Server) -> None:
    box = Sandbox.create("sh", "-c", "echo out; echo err >&2; exit 5", block_network=True)
    box.wait()
    for end in (server.stop, server.kill9):
        end()
        server.start()
        again = Sandbox.from_id(box.object_id)
        assert (again.stdout.read(), again.stderr.read(), again.poll()) == ("out\n", "err\n", 5)
    assert [each.object_id for each in Sandbox.list(include_ended=True)] == [box.object_id]
    assert box.stdout.read() == "out\n"


# What had only begun


@pytest.mark.parametrize("after_s", [0.01, 0.05, 0.08, 0.11])
def test_a_server_killed_while_a_sandbox_starts_leaves_nothing_and_the_next_one_works(
    server: Server, after_s: float
) -> None:
    Sandbox.create(block_network=True).terminate(wait=True)  # the image is known, and the connection open
    with in_background() as submit:
        starting = submit(Sandbox.create, "sleep", "1000")
        over = time.monotonic() + after_s
        wait_for(lambda: time.monotonic() > over, "the start to get somewhere")
        restart(server)
        try:
            box = starting.result()
        except StartFailedError as exc:
            assert str(exc).endswith(" did not start: the server ended during its start; create another one")  # noqa: PT017
        else:
            assert isinstance(box, Sandbox)
            assert box.exec("echo", "alive").stdout.read() == "alive\n"
            box.terminate(wait=True)
    assert list(Sandbox.list()) == []
    server.check_no_sandbox_left()
    with sandbox(block_network=True) as box:
        assert box.exec("echo", "next").stdout.read() == "next\n"


@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.5])
def test_a_server_killed_while_an_image_is_built_leaves_nothing_and_the_same_build_goes_through(
    server: Server, after_s: float
) -> None:
    image = Image.debian_slim().run_commands("echo begun; sleep 1; cat /proc/sys/kernel/random/uuid > /made")
    with in_background() as submit:
        building = submit(image.build)
        wait_for(server.sentries, "the build's sandbox")
        over = time.monotonic() + after_s
        wait_for(lambda: time.monotonic() > over, "the build to get somewhere")
        restart(server)
        building.result()  # the client asked again
    server.check_no_sandbox_left()
    server.check_nothing_of_a_build_left()
    with sandbox(image=image, block_network=True) as box:
        assert len(box.filesystem.read_text("/made")) == 37
    assert server.outputs() == {box.object_id}


@pytest.mark.parametrize("after_s", [0.0, 0.005, 0.02, 0.03])
def test_a_server_killed_while_it_ends_a_sandbox_does_not_forget_why(server: Server, after_s: float) -> None:
    box = Sandbox.create("sleep", "1000")
    process = box.exec("sleep", "1000")
    with in_background() as submit:
        ending = submit(box.terminate, wait=True)
        over = time.monotonic() + after_s
        wait_for(lambda: time.monotonic() > over, "the end to get somewhere")
        restart(server)
        assert ending.result() == 137  # asked again, and the same
    assert (box.exit.reason, box.exit.evidence) == (SandboxReason.TERMINATED, "terminate was called")  # type: ignore[union-attr]
    assert process.wait() == 137
    assert process.exit.reason is ProcessReason.SANDBOX_ENDED  # type: ignore[union-attr]
    server.check_no_sandbox_left()


# The client meanwhile


def test_a_client_that_finds_no_server_again_says_so_in_the_end(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skerry.client.connection.RECOVERY_S", 1.0)
    box = Sandbox.create(block_network=True)
    process = box.exec("sleep", "1000")
    server.kill9()
    for call in (process.wait, box.wait, lambda: box.exec("true")):
        with pytest.raises(ServerUnavailableError, match=r"no server listens on .*v1\.sock"):
            call()
    server.start()
    assert box.exec("echo", "alive").stdout.read() == "alive\n"


def test_a_watch_goes_on_and_says_that_it_may_have_missed_something(server: Server) -> None:
    seen: list[FileWatchEvent] = []

    def has(kind: FileWatchEventType, path: str) -> bool:
        box.exec("touch", "/root/file").wait()
        return FileWatchEvent([path], kind) in seen

    with sandbox(block_network=True) as box, in_background() as submit:
        watch = box.filesystem.watch("/root")
        ended = submit(lambda: [seen.append(event) for event in watch])
        wait_for(lambda: has(FileWatchEventType.Modify, "/root/file"), "a change")
        restart(server)
        wait_for(lambda: has(FileWatchEventType.Overflow, "/root"), "what was missed")
        seen.clear()
        wait_for(lambda: has(FileWatchEventType.Modify, "/root/file"), "a change")
        box.terminate()
        ended.result(30)


def test_a_copy_goes_through_though_the_server_is_killed_in_its_middle(server: Server, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    for number in range(60):
        (tmp_path / f"tree/{number}").write_bytes(os.urandom(2_000_000))
    with sandbox(block_network=True) as box, in_background() as submit:
        copied = submit(box.filesystem.copy_from_local, tmp_path / "tree", "/root/tree")
        wait_for(lambda: box.filesystem.exists("/root/tree/1"), "the copy's beginning")
        restart(server)
        copied.result(60)
        back = submit(box.filesystem.copy_to_local, "/root/tree", tmp_path / "back")
        wait_for((tmp_path / "back").exists, "the way back")
        restart(server)
        back.result(60)
        for path in (tmp_path / "tree").iterdir():
            assert (tmp_path / "back" / path.name).read_bytes() == path.read_bytes()
        assert len(box.filesystem.list_files("/root/tree")) == 60
        assert len(list((tmp_path / "back").iterdir())) == 60
