"""The log of a sandbox: kept and followed, by SDK and command line, of what has ended, over a kill of the server."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import threading
from datetime import UTC, datetime, timedelta

import pytest
from command_line import PROGRAM, skerry, start
from realserver import PATIENCE_S, Server, wait_for

from skerry import LogEntry, Sandbox, aio
from skerry.exception import InvalidError, NotFoundError

HOSTILE = r"printf '\033[2J\033]0;owned\007\377\nplain\n'"
SHOWN = b"\\x1b[2J\\x1b]0;owned\\x07\\xff\nplain\n"
RAW = b"\x1b[2J\x1b]0;owned\x07\xff\nplain\n"


def messages(entries: object) -> list[str]:
    return [entry.message for entry in entries]  # type: ignore[attr-defined]


def test_the_entrypoint_and_execs_have_logs_during_their_life_and_after_it(server: Server) -> None:
    box = Sandbox.create("sh", "-c", "echo up; echo warning >&2; exec cat", block_network=True)
    process = box.exec("sh", "-c", "echo one; echo two; echo wrong >&2")
    assert process.wait() == 0
    wait_for(lambda: len(list(box.logs.fetch())) == 2, "what the entrypoint has said")
    for _ in range(2):
        assert sorted(messages(box.logs.fetch())) == ["up\n", "warning\n"]
        assert messages(box.logs.fetch(source="stderr")) == ["warning\n"]
        assert messages(box.logs.fetch(process=process.object_id)) == ["one\n", "two\n", "wrong\n"]
        assert messages(box.logs.tail(1, process=process.object_id)) == ["two\n", "wrong\n"]
        assert messages(box.logs.fetch(process=process.object_id, search_text="w")) == ["two\n", "wrong\n"]
        box.terminate(wait=True)
    (entry,) = box.logs.tail(1, source="stdout", process=process.object_id)
    assert isinstance(entry, LogEntry)
    assert (entry.data, entry.source, entry.offset) == (b"two\n", "stdout", 4)
    assert (entry.object_id, entry.context_ids) == (box.object_id, (process.object_id,))
    assert abs(entry.timestamp - datetime.now(UTC)) < timedelta(seconds=60)
    assert messages(box.logs.stream(process=process.object_id)) == ["one\n", "two\n", "wrong\n"]
    assert [view.id for view in box.processes()][1:] == [process.object_id]
    server.kill9()
    server.start()
    assert messages(box.logs.fetch(process=process.object_id)) == ["one\n", "two\n", "wrong\n"]


async def test_the_asynchronous_half_reads_the_same(server: Server) -> None:
    async with await aio.Sandbox.create("sh", "-c", "echo up; exec sleep 1000", block_network=True) as box:
        async for entry in box.logs.stream():
            assert entry.message == "up\n"
            break
        assert [entry.message async for entry in box.logs.stream(timeout=0.5)] == ["up\n"]


def test_lines_have_their_times_and_can_be_asked_for_by_them(server: Server) -> None:
    script = "echo first; echo first >&2; sleep 2.2; echo second; sleep 2.2; echo third >&2"
    box = Sandbox.create("sh", "-c", script, block_network=True)
    box.wait()
    entries = list(box.logs.fetch())
    assert messages(entries) == ["first\n", "first\n", "second\n", "third\n"]
    stamps = [entry.timestamp for entry in entries]
    assert stamps[2] - stamps[0] > timedelta(seconds=1)
    assert messages(box.logs.fetch(since=stamps[2])) == ["second\n", "third\n"]
    assert messages(box.logs.fetch(until=stamps[2])) == ["first\n", "first\n", "second\n"]
    assert messages(box.logs.fetch(since=datetime.now() + timedelta(seconds=2))) == []


def test_a_follow_goes_on_at_the_right_byte_when_the_server_is_killed_in_its_middle(server: Server) -> None:
    script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done"
    box = Sandbox.create("sh", "-c", script, block_network=True)
    offset = 0
    for number, entry in enumerate(box.logs.stream()):
        assert (entry.message, entry.offset) == (f"line {number}\n", offset)
        offset += len(entry.data)
        if number in (500, 9000):
            server.kill9()
            server.start()
    assert number == 19_999


def test_a_log_that_is_one_line_comes_in_pieces_and_its_end_can_be_asked_for(server: Server) -> None:
    with Sandbox.create(block_network=True) as box:
        process = box.exec("sh", "-c", "head -c 20000000 /dev/zero | tr '\\0' x")
        process.wait()
        entries = list(box.logs.fetch(process=process.object_id))
        assert sum(len(entry.data) for entry in entries) == 20_000_000
        assert max(len(entry.data) for entry in entries) <= 64 << 10
        told, *rest = box.logs.tail(1, process=process.object_id)
        assert (told.source, told.message) == ("system", "[stdout begins in the middle of a line]\n")
        assert sum(len(entry.data) for entry in rest) == 16 << 20


def test_calls_that_cannot_be_are_refused(server: Server) -> None:
    with Sandbox.create(block_network=True) as box:
        with pytest.raises(NotFoundError, match=r"no entrypoint.*name one of its processes"):
            list(box.logs.fetch())
        with pytest.raises(NotFoundError, match="pr_nothing"):
            list(box.logs.fetch(process="pr_nothing"))
        for call in (
            lambda: box.logs.fetch(source="both"),  # type: ignore[arg-type]
            lambda: box.logs.fetch(since="yesterday"),  # type: ignore[arg-type]
            lambda: box.logs.tail(-1),
            lambda: list(box.logs.tail(10**9)),
        ):
            with pytest.raises(InvalidError):
                call()


# The command line


def test_a_guests_bytes_are_raw_in_a_pipe_and_made_harmless_on_a_terminal(server: Server) -> None:
    box = Sandbox.create("sh", "-c", f"{HOSTILE}; {HOSTILE} >&2", block_network=True)
    box.wait()
    assert start(server, "logs", box.object_id).communicate(timeout=PATIENCE_S) == (RAW, RAW)
    assert on_terminal(server, "logs", "--stdout", box.object_id) == SHOWN
    assert on_terminal(server, "logs", "--stdout", "--raw", box.object_id) == RAW
    lines = [json.loads(line) for line in skerry(server, "logs", "--json", box.object_id)[0].splitlines()]
    assert [(line["source"], line["offset"]) for line in lines] == [
        ("stdout", 0),
        ("stdout", len(RAW) - 6),
        ("stderr", 0),
        ("stderr", len(RAW) - 6),
    ]
    assert base64.b64decode(lines[0]["base64"]) == RAW[:-6]
    assert lines[1]["text"] == "plain\n"


def test_a_follow_on_the_command_line_shows_what_comes_until_the_end(server: Server) -> None:
    box = Sandbox.create("sh", "-c", "echo up; cat; echo down >&2", block_network=True)
    following = start(server, "logs", "-f", box.object_id)
    assert following.stdout is not None
    assert following.stdout.readline() == b"up\n"
    box.stdin.write("a prompt> ")
    box.stdin.drain()
    assert following.stdout.read(10) == b"a prompt> "  # without waiting for the end of its line
    server.kill9()
    server.start()
    box.stdin.write("and an answer\n")
    box.stdin.write_eof()
    out, err = following.communicate(timeout=PATIENCE_S)
    assert (out, err, following.returncode) == (b"and an answer\n", b"down\n", 0)
    assert skerry(server, "logs", "--tail", "1", "--stdout", box.object_id)[0] == b"a prompt> and an answer\n"
    assert skerry(server, "logs", "--since", "1h", "--stderr", box.object_id)[:2] == (b"", "down\n")


def test_processes_are_listed_with_their_states(server: Server) -> None:
    with Sandbox.create("sleep", "1000", block_network=True) as box:
        ended = box.exec("sh", "-c", "exit 7")
        ended.wait()
        running = box.exec("cat", pty=True)
        table = skerry(server, "ps", box.object_id)[0].decode().splitlines()
        assert [line.split()[0] for line in table[1:]][1:] == [ended.object_id, running.object_id]
        assert "running (entrypoint)" in table[1]
        assert "exited 7" in table[2]
        assert "yes" in table[3]
        told = json.loads(skerry(server, "ps", "--running", "--json", box.object_id)[0])
        assert [(one["argv"], one["entrypoint"], one["terminal"]) for one in told] == [
            (["sleep", "1000"], True, False),
            (["cat"], False, True),
        ]


@pytest.mark.parametrize("since", ["soon", "10", "-5m", "99999999999999d", "2026-13-01"])
def test_a_time_that_is_none_is_a_wrong_call(server: Server, since: str) -> None:
    _, err, code = skerry(server, "logs", "--since", since, "sb_x")
    assert code == 2
    assert "neither a length of time such as" in err


def on_terminal(server: Server, *argv: str) -> bytes:
    """Return what a command writes to its terminal, with the newlines that it wrote."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [*PROGRAM, *argv],
        env=os.environ | server.environ,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.PIPE,
    )
    os.close(theirs)
    got = bytearray()

    def read() -> None:
        try:
            while piece := os.read(ours, 4096):
                got.extend(piece)
        except OSError:
            return  # its last holder is gone

    reader = threading.Thread(target=read)
    reader.start()
    assert process.wait(PATIENCE_S) == 0
    reader.join(PATIENCE_S)
    os.close(ours)
    return bytes(got).replace(b"\r\n", b"\n")
