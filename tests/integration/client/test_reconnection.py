"""The server goes away and comes back: nothing is lost, nothing happens twice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import pytest
from served_door import ServedDoor

import skerry
from skerry.client.client import Client
from skerry.exception import ServerUnavailableError

T = TypeVar("T")

pytestmark = pytest.mark.usefixtures("client")


def in_thread(work: Callable[[], T]) -> Callable[[], T]:
    """Start `work` in a thread; the returned function waits for its result."""
    box: list[T] = []
    thread = threading.Thread(target=lambda: box.append(work()), daemon=True)
    thread.start()

    def result() -> T:
        thread.join(20)
        assert box, "the call did not return"
        return box[0]

    return result


def test_output_continues_at_the_right_byte(door: ServedDoor) -> None:
    size = 64 << 20
    sandbox = skerry.Sandbox.create()
    process = sandbox.exec("spew", str(size), text=False)
    parts = [next(process.stdout) for _ in range(8)]
    door.cut()
    door.listen()
    parts.append(process.stdout.read())
    assert b"".join(parts) == bytes(range(256)) * (size // 256)
    assert process.wait() == 0
    assert process.stdout.dropped == 0


def test_a_wait_that_is_under_way_goes_on(door: ServedDoor) -> None:
    sandbox = skerry.Sandbox.create()
    process = sandbox.exec("cat")
    process_ended, sandbox_ended = in_thread(process.wait), in_thread(lambda: sandbox.wait(raise_on_termination=False))
    door.cut()
    door.listen()
    process.stdin.write_eof()
    assert process_ended() == 0
    sandbox.terminate()
    sandbox_ended()
    assert sandbox.returncode == 137


def test_stdin_is_neither_lost_nor_doubled(door: ServedDoor) -> None:
    sandbox = skerry.Sandbox.create()
    process = sandbox.exec("cat")
    process.stdin.write("first ")
    process.stdin.drain()
    door.cut()
    process.stdin.write("second ")
    door.listen()
    process.stdin.write("third")
    process.stdin.write_eof()
    process.stdin.drain()
    assert process.stdout.read() == "first second third"


def test_a_call_made_while_the_server_is_away_waits_for_it(door: ServedDoor) -> None:
    sandbox = skerry.Sandbox.create()
    door.cut()
    read = in_thread(lambda: sandbox.exec("echo", "late").stdout.read())
    made = in_thread(skerry.Sandbox.create)
    door.listen()
    assert read() == "late\n"
    assert made().poll() is None


def test_a_file_is_read_whole_across_the_gap(door: ServedDoor) -> None:
    sandbox = skerry.Sandbox.create()
    content = bytes(range(256)) * (24 << 12)
    sandbox.filesystem.write_bytes(content, "/big")
    read = in_thread(lambda: sandbox.filesystem.read_bytes("/big"))
    door.cut()
    door.listen()
    assert read() == content


def test_a_server_that_was_never_there_is_an_error_at_once(door: ServedDoor) -> None:
    door.cut()
    with pytest.raises(ServerUnavailableError, match=r"no server listens on .*skerry server"):
        skerry.Sandbox.create()
    door.listen()


def test_a_server_that_stays_away_is_an_error_in_the_end(
    door: ServedDoor, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skerry.client.connection.RECOVERY_S", 0.3)
    sandbox = skerry.Sandbox.create()
    process = sandbox.exec("cat")
    door.cut()
    with pytest.raises(ServerUnavailableError, match="no server listens"):
        process.wait()
    door.listen()
