"""Attach: the node is lost, another goes on, and nobody inside the sandbox can take its place."""

from __future__ import annotations

import os
import struct
import threading

import pytest
from agent_driver import ChannelClosed, Host, Output
from agent_places import Sandbox

# Offers pipes to PID 1 as `attach` does, and does with them what argv says.
OFFER = """
import array, os, socket, sys, time
def offer(read, write):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    s.connect("\\0skerry-agent")
    s.sendmsg([b"a"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [read, write]))])
what = sys.argv[1]
kept = []
if what == "silent":
    for _ in range(40):
        kept.append(os.pipe()); kept.append(os.pipe())
        offer(kept[-1][0], kept[-2][1])
    print("offered", flush=True)
    time.sleep(60)
if what == "flood":
    print("offered", flush=True)
    r, w = os.pipe()
    os.write(w, b"\\x00" * 30000)
    while True:
        offer(r, w)
if what == "blocking":
    # Another thread empties the pipe and leaves it blocking, again and again.
    import threading
    r, w = os.pipe()
    def drain():
        while True:
            os.set_blocking(r, True); os.read(r, 1)
    threading.Thread(target=drain, daemon=True).start()
    print("offered", flush=True)
    while True:
        os.write(w, b"\\x70")
        offer(r, w)
if what == "odd":
    for path in ("/dev/null", "/etc/passwd", "/tmp"):
        fd = os.open(path, os.O_RDONLY)
        offer(fd, fd)
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    s.connect("\\0skerry-agent")
    s.send(b"x" * 100)
    for _ in range(100):
        s.sendmsg([b"a"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0] * 9))])
    print("offered", flush=True)
"""
COUNT = "i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done"
EXPECTED = b"".join(b"%d\n" % number for number in range(20_000))


def resume(host: Host, stream: int, stored: bytes) -> Output:
    """Go on with a stream from what the lost host had stored."""
    output = host.outputs.setdefault(stream, Output())  # its EXIT may have come right behind READY
    output.data[1] += stored
    told = {channel["channel"]: channel for channel in state_of(host, stream)["channels"]}
    assert told[1]["acknowledged"] <= len(stored) <= told[1]["end"]
    host.grant(stream, 1)
    host.grant(stream, 2)
    return output


def state_of(host: Host, stream: int) -> dict[str, object]:
    return next(state for state in host.ready["streams"] if state["stream"] == stream)


def test_output_goes_on_at_the_right_byte(sandbox: Sandbox) -> None:
    stream = sandbox.host.start("/bin/sh", "-c", COUNT)
    for _ in range(5):
        host = sandbox.host
        output = host.outputs[stream]
        more = min(len(output.stdout) + 3000, len(EXPECTED))  # it may have said everything meanwhile
        # Acknowledge what comes; the last of it will be lost with the channel.
        host.wait(lambda output=output, more=more: len(output.stdout) >= more, "some output")
        stored = output.stdout
        host.hang_up()
        host = sandbox.attach()
        resume(host, stream, stored)
    output = host.outputs[stream]
    output.exit = output.exit or state_of(host, stream)["exit"]
    assert host.finish(stream).stdout == EXPECTED


def test_an_exit_that_came_while_nobody_listened_is_told_by_ready(sandbox: Sandbox) -> None:
    host = sandbox.host
    stream = host.start("/bin/sh", "-c", "read line; echo said; exit 7", stdin="pipe", timeout_ms=0)
    host.feed(stream, b"go\n")
    host.wait(lambda: host.outputs[stream].exit, "EXIT")
    stored = host.outputs[stream].stdout
    host.hang_up()
    host = sandbox.attach()
    state = state_of(host, stream)
    assert state["exit"]["code"] == 7
    assert state["op"] == "exec"
    assert state["pid"] > 1
    output = resume(host, stream, stored)
    host.wait(lambda: output.ended.keys() == {1, 2}, "the ends")
    assert output.stdout == b"said\n"
    assert output.exit is None, "EXIT is not sent again"
    host.close(stream)


def test_a_deadline_is_kept_while_nobody_listens(sandbox: Sandbox) -> None:
    host = sandbox.host
    stream = host.start("sleep", "60", timeout_ms=700)
    host.wait(lambda: host.outputs[stream].started, "STARTED")
    host.hang_up()
    host = sandbox.attach()
    output = host.outputs.setdefault(stream, Output())
    output.exit = output.exit or state_of(host, stream)["exit"]
    host.wait(lambda: output.exit, "EXIT")
    assert output.exit["reason"] == "timeout"
    host.close(stream)


def test_stdin_goes_on_at_what_the_process_has_taken(sandbox: Sandbox) -> None:
    host = sandbox.host
    stream = host.start("/bin/sh", "-c", "read a; echo $a; read b; echo $b", stdin="pipe")
    host.feed(stream, b"first\n", end=False)
    host.wait(lambda: host.outputs[stream].stdout == b"first\n", "the first answer")
    host.hang_up()
    host = sandbox.attach()
    stdin = state_of(host, stream)["stdin"]
    assert stdin["acknowledged"] == 6
    assert not stdin["ended"]
    output = resume(host, stream, b"first\n")
    host.send("DATA", stream, struct.pack("<Q", 6) + b"second\n")
    host.send("END", stream, struct.pack("<Q", 13))
    assert host.finish(stream).stdout == b"first\nsecond\n"
    assert output.exit["code"] == 0


def test_a_half_frame_of_the_lost_channel_is_dropped(sandbox: Sandbox) -> None:
    host = sandbox.host
    host.ping()
    os.write(host.write, b"\x40\x00\x00\x00\x00")
    host = sandbox.attach()
    host.ping()
    assert host.run("echo", "whole").stdout == b"whole\n"


def test_the_old_channel_is_closed_when_a_new_one_takes_its_place(guest: Sandbox) -> None:
    old = guest.host
    guest.attach().ping()
    with pytest.raises(ChannelClosed):
        old.wait(lambda: False, "the end of the old channel")


def test_a_result_that_was_lost_is_said_again(sandbox: Sandbox) -> None:
    host = sandbox.host
    stream = host.open("stat", path=b"/etc/passwd")
    host.wait(lambda: host.outputs[stream].result, "RESULT")
    host.hang_up()
    host = sandbox.attach()
    host.outputs.setdefault(stream, Output())
    host.wait(lambda: host.outputs[stream].result, "RESULT again")
    host.close(stream)


@pytest.mark.parametrize("user", ["root", "user"])
@pytest.mark.parametrize("what", ["silent", "flood", "blocking", "odd"])
def test_offers_from_inside_leave_channel_and_attach_alone(guest: Sandbox, user: str, what: str) -> None:
    host = guest.host
    stream = host.start("python3", "-c", OFFER, what, user=user, timeout_ms=60_000)
    host.wait(lambda: b"offered" in host.outputs[stream].stdout, "the offers")
    for _ in range(20):
        host.ping()
    assert host.run("echo", "still here").stdout == b"still here\n"
    stored = host.outputs[stream].stdout
    host.hang_up()
    successor = guest.attach()
    assert successor.run("echo", "here again").stdout == b"here again\n"
    output = resume(successor, stream, stored)
    output.exit = state_of(successor, stream)["exit"]
    successor.send("SIGNAL", stream, bytes([9]))
    successor.finish(stream)


@pytest.mark.parametrize("user", ["root", "user"])
def test_a_hello_with_another_proof_changes_nothing(guest: Sandbox, user: str) -> None:
    script = OFFER + (
        "import struct\n"
        "def text(b): return bytes([0xa0 + len(b)]) + b\n"
        "body = (b'\\x85' + text(b'version') + b'\\x01' + text(b'secret') + b'\\xc4\\x20' + bytes(32)"
        " + text(b'proof') + b'\\xc4\\x20' + bytes(32) + text(b'generation') + b'\\x01' + text(b'setup') + b'\\xc0')\n"
        "for _ in range(50):\n"
        "    r, w = os.pipe(); r2, w2 = os.pipe()\n"
        "    os.write(w, struct.pack('<IIBBH', len(body), 0, 1, 0, 0) + body)\n"
        "    offer(r, w2); os.close(w2); print(os.read(r2, 100), flush=True)\n"
    )
    output = guest.host.run("python3", "-c", script, "hello", user=user)
    assert output.stdout == b"b''\n" * 50, output.stderr
    guest.host.ping()


def test_many_attaches_one_after_the_other(sandbox: Sandbox) -> None:
    for _ in range(10):
        sandbox.host.hang_up()
        host = sandbox.attach()
        assert host.run("echo", "again").stdout == b"again\n"


def test_processes_run_on_while_nobody_listens(sandbox: Sandbox) -> None:
    host = sandbox.host
    path = f"/tmp/alone-{os.getpid()}-{threading.get_ident()}"
    script = f"while [ ! -e {path} ]; do sleep 0.02; done; echo seen"
    stream = host.start("/bin/sh", "-c", script)
    host.wait(lambda: host.outputs[stream].started, "STARTED")
    host.hang_up()
    host = sandbox.attach()
    host.write_file(path, b"")
    output = resume(host, stream, b"")
    assert host.finish(stream).stdout == b"seen\n"
    assert output.exit["code"] == 0
    host.request("remove", path=path.encode(), recursive=False)
