"""Terminals: what a process sees of one, what is typed at it, and how it ends."""

from __future__ import annotations

import contextlib
import re
import struct

import pytest
from agent_driver import PATH, WINDOW, Host, Output
from agent_places import Sandbox


def start(host: Host, script: str, *, rows: int = 24, columns: int = 80, term: str = "xterm", **options: object) -> int:
    """Start a shell script at a terminal."""
    terminal = {"rows": rows, "columns": columns, "term": term}
    return host.start("/bin/sh", "-c", script, stdin="pipe", stderr="stdout", terminal=terminal, **options)


def run(host: Host, script: str, **options: object) -> Output:
    return host.finish(start(host, script, **options), (1,))


def type_in(host: Host, stream: int, keys: bytes) -> None:
    """Type keys, after those that were typed before."""
    output = host.outputs[stream]
    host.wait(lambda: output.credit[1] > 0, "credit for channel 0")
    typed = getattr(output, "typed", 0)
    host.send("DATA", stream, struct.pack("<Q", typed) + keys)
    output.typed = typed + len(keys)


def end_input(host: Host, stream: int) -> None:
    host.send("END", stream, struct.pack("<Q", getattr(host.outputs[stream], "typed", 0)))


def shown(host: Host, stream: int, text: bytes) -> None:
    """Wait until the terminal has shown something."""
    output = host.outputs[stream]
    host.wait(lambda: text in output.stdout, f"{text!r}")


def resize(host: Host, stream: int, rows: int, columns: int) -> None:
    host.send("RESIZE", stream, struct.pack("<HH", rows, columns))


def test_a_process_at_a_terminal_sees_its_size_its_name_and_that_it_leads_the_session(sandbox: Sandbox) -> None:
    foreground = "import os; print(os.tcgetpgrp(0) == os.getsid(0) == os.getpgrp())"
    script = f"test -t 0 && test -t 1 && test -t 2 && stty size && echo $TERM && python3 -c '{foreground}'"
    output = run(sandbox.host, script, rows=33, columns=111, term="vt220")
    assert output.stdout == b"33 111\r\nvt220\r\nTrue\r\n"
    assert output.exit["code"] == 0


def test_term_is_what_the_environment_says_where_it_says_it(sandbox: Sandbox) -> None:
    output = run(sandbox.host, "echo $TERM", term="vt220", env=(PATH, "TERM=dumb"))
    assert output.stdout == b"dumb\r\n"


def test_output_and_errors_come_in_one_stream_in_their_order(sandbox: Sandbox) -> None:
    output = run(sandbox.host, "echo a; echo b >&2; echo c")
    assert output.stdout == b"a\r\nb\r\nc\r\n"
    assert output.stderr == b""


def test_a_command_that_is_not_found_says_so_at_the_beginning_of_a_line(sandbox: Sandbox) -> None:
    host = sandbox.host
    terminal = {"rows": 24, "columns": 80, "term": "xterm"}
    output = host.finish(host.start("no-such", stdin="pipe", stderr="stdout", terminal=terminal), (1,))
    assert output.exit["code"] == 127
    assert output.stdout.endswith(b"not found\r\n")


def test_the_interrupt_character_ends_the_foreground_command_and_not_the_shell(sandbox: Sandbox) -> None:
    host = sandbox.host
    script = "trap 'echo caught; caught=1' INT; echo ready; until [ $caught ]; do sleep 0.02; done; echo over"
    stream = start(host, script)
    shown(host, stream, b"ready")
    for _ in range(20):
        type_in(host, stream, b"\x03")
        # dash drops a signal that comes while it starts a command (its vfork), so a key may have to be typed again.
        with contextlib.suppress(AssertionError):
            host.wait(lambda: b"caught" in host.outputs[stream].stdout, "the trap", deadline=1.0)
            break
    output = host.finish(stream, (1,))
    assert b"caught" in output.stdout
    assert output.stdout.endswith(b"over\r\n")
    assert output.exit["code"] == 0


def test_a_resize_is_told_to_the_foreground_command(sandbox: Sandbox) -> None:
    host = sandbox.host
    script = "trap 'stty size' WINCH; echo ready; while read -r line; do :; done; stty size"
    stream = start(host, script)
    shown(host, stream, b"ready")
    resize(host, stream, 50, 132)
    shown(host, stream, b"50 132")
    resize(host, stream, 65_535, 65_535)
    shown(host, stream, b"65535 65535")
    end_input(host, stream)
    assert host.finish(stream, (1,)).stdout.endswith(b"65535 65535\r\n")


def test_a_resize_of_a_process_without_a_terminal_changes_nothing(sandbox: Sandbox) -> None:
    host = sandbox.host
    stream = host.start("cat", stdin="pipe")
    resize(host, stream, 1, 1)
    host.feed(stream, b"still here")
    assert host.finish(stream).stdout == b"still here"


def test_the_end_of_stdin_is_the_end_of_file_also_in_the_middle_of_a_line(sandbox: Sandbox) -> None:
    host = sandbox.host
    for keys, got in ((b"", b"[]"), (b"one\n", b"[one\n]"), (b"part", b"[part]")):
        stream = start(host, "stty -echo; echo ready; printf '[%s]' \"$(cat; echo .)\"")
        shown(host, stream, b"ready")
        type_in(host, stream, keys) if keys else host.wait(lambda s=stream: host.outputs[s].credit[1])
        end_input(host, stream)
        output = host.finish(stream, (1,))
        assert output.stdout.split(b"ready\r\n")[1].replace(b"\r\n", b"\n") == got.replace(b"]", b".]"), keys


def test_the_end_of_stdin_hangs_nothing_up(sandbox: Sandbox) -> None:
    host = sandbox.host
    stream = start(host, "stty raw -echo; echo ready; sleep 0.3; test -t 1 && echo still there")
    shown(host, stream, b"ready")
    end_input(host, stream)
    assert b"still there" in host.finish(stream, (1,)).stdout


def test_a_job_in_the_background_neither_holds_the_terminal_nor_dies_of_its_end(sandbox: Sandbox) -> None:
    host = sandbox.host
    script = "(trap '' HUP; echo held; while ! echo x >/dev/tty 2>/dev/null; do sleep 0.01; done; sleep 100) & echo $!"
    output = run(host, f"{script}; sleep 0.1")
    assert output.exit["code"] == 0
    pid = int(re.search(rb"(\d+)\r\n", output.stdout)[1])
    assert host.shell(f"kill -0 {pid} && kill -9 {pid}").exit["code"] == 0


def test_a_flood_in_the_background_does_not_delay_the_end_of_the_terminal(sandbox: Sandbox) -> None:
    host = sandbox.host
    line = "$(head -c 4000 /dev/zero | tr '\\0' x)"
    script = f"trap '' HUP TTOU; for _ in 1 2 3 4; do yes {line} & done; sleep 0.5; exit 7"
    host.grants = False
    try:
        stream = start(host, script, limits=(1000, 0), timeout_ms=60_000)
        output = host.outputs[stream]
        host.wait(lambda: output.exit, "EXIT")  # more waits than the agent's own buffer holds
    finally:
        host.grants = True
    host.grant(stream, 1)
    host.finish(stream, (1,))
    assert output.exit["code"] == 7
    assert 1 << 20 < len(output.stdout) < 2 << 20


def test_all_that_was_shown_before_the_exit_arrives(sandbox: Sandbox) -> None:
    host = sandbox.host
    output = run(host, "seq 1 20000; echo last")
    assert output.stdout == b"".join(b"%d\r\n" % number for number in range(1, 20_001)) + b"last\r\n"


def test_a_terminal_that_nobody_reads_makes_its_process_wait_and_loses_nothing(sandbox: Sandbox) -> None:
    host = sandbox.host
    host.grants = False
    try:
        stream = start(host, "seq 1 300000; echo last", limits=(1000, 0))
        host.wait(lambda: len(host.outputs[stream].stdout) == 1000, "the first credit's bytes")
        host.ping()
        assert host.outputs[stream].exit is None
    finally:
        host.grants = True
    host.grant(stream, 1)
    output = host.finish(stream, (1,))
    assert output.stdout.endswith(b"300000\r\nlast\r\n")
    assert len(output.stdout) == sum(len(str(number)) + 2 for number in range(1, 300_001)) + 6


def test_what_waits_for_credit_at_the_exit_arrives_though_somebody_holds_the_terminal(sandbox: Sandbox) -> None:
    host = sandbox.host
    host.grants = False
    try:
        stream = start(
            host, "(trap '' HUP; sleep 100) & head -c 2000 /dev/zero | tr '\\0' x; echo last", limits=(100, 0)
        )
        host.wait(lambda: host.outputs[stream].exit, "EXIT")
        assert host.outputs[stream].ended == {}
    finally:
        host.grants = True
    host.grant(stream, 1)
    assert host.finish(stream, (1,)).stdout == b"x" * 2000 + b"last\r\n"


def test_input_that_nobody_reads_waits_for_as_long_as_it_likes(sandbox: Sandbox) -> None:
    host = sandbox.host
    stream = start(host, "stty raw -echo; echo ready; sleep 0.5; head -c 600000 | wc -c")
    shown(host, stream, b"ready")
    host.feed(stream, b"x" * 600_000)
    assert b"600000" in host.finish(stream, (1,)).stdout


def test_a_process_may_let_go_of_its_terminal_and_take_it_up_again(sandbox: Sandbox) -> None:
    host = sandbox.host
    stream = start(
        host, "stty -echo; echo one; exec >/dev/null 2>&1 </dev/null; sleep 0.2; exec >/dev/tty; echo two; exit 3"
    )
    shown(host, stream, b"one\r\n")
    type_in(host, stream, b"x" * (WINDOW // 2))
    output = host.finish(stream, (1,))
    assert output.exit["code"] == 3
    assert output.stdout.endswith(b"\r\ntwo\r\n")
    assert host.request("stat", path=b"/").result


def test_a_deadline_ends_all_of_it(sandbox: Sandbox) -> None:
    output = run(sandbox.host, "trap '' HUP INT TERM; sleep 100 & sleep 100", timeout_ms=300)
    assert output.exit["reason"] == "timeout"
    assert 1 in output.ended


def test_a_stream_that_the_host_has_closed_keeps_the_terminal_for_its_process(sandbox: Sandbox) -> None:
    host = sandbox.host
    path = "/tmp/after-close"
    stream = start(host, f"echo ready; seq 1 100000; test -t 1 && echo yes > {path}.new; mv {path}.new {path}")
    shown(host, stream, b"ready")
    host.close(stream)
    output = host.outputs[stream]
    host.wait(lambda: output.exit, "EXIT")
    assert host.shell(f"cat {path}; rm {path}").stdout == b"yes\n"


def test_a_new_node_goes_on_at_the_right_byte_and_resizes(own_guest: Sandbox) -> None:
    first = own_guest.host
    first.grants = False
    script = "stty -echo; seq 1 20000; read -r line; stty size; echo $line"
    stream = start(first, script, limits=(5000, 0))
    first.wait(lambda: len(first.outputs[stream].stdout) == 5000, "the first credit's bytes")
    first.hang_up()
    host = own_guest.attach()
    (told,) = host.ready["streams"]
    assert (told["stream"], told["channels"][0]["acknowledged"]) == (stream, 0)
    host.outputs[stream] = Output()
    host.grant(stream, 1)
    shown(host, stream, b"20000")
    resize(host, stream, 12, 34)
    host.send("DATA", stream, struct.pack("<Q", 0) + b"typed\n")
    output = host.finish(stream, (1,))
    expected = b"".join(b"%d\r\n" % number for number in range(1, 20_001))
    assert output.stdout == expected + b"12 34\r\ntyped\r\n"


def test_the_user_of_a_process_may_open_its_terminal_again_and_nobody_elses(guest: Sandbox) -> None:
    host = guest.host
    other = start(host, "tty; read -r line")
    shown(host, other, b"/dev/pts/")
    path = host.outputs[other].stdout.decode().strip()
    script = f"echo own > /dev/tty && echo own > $(tty) && (echo no > {path}) 2>/dev/null || echo refused"
    output = run(host, script, user="nobody")
    assert output.stdout == b"own\r\nown\r\nrefused\r\n"
    end_input(host, other)
    assert b"no" not in host.finish(other, (1,)).stdout


def test_ten_thousand_resizes_at_once_are_one_size_at_the_end(guest: Sandbox) -> None:
    host = guest.host
    stream = start(host, "read -r line; stty size")
    host.wait(lambda: host.outputs[stream].credit[1], "credit")
    for size in range(1, 10_001):
        resize(host, stream, size, 65_535 - size)
    type_in(host, stream, b"\n")
    assert host.finish(stream, (1,)).stdout.endswith(b"10000 55535\r\n")


@pytest.mark.parametrize("count", [200])
def test_many_terminals_come_and_go_and_leave_none(guest: Sandbox, count: int) -> None:
    host = guest.host
    before = host.shell("ls /dev/pts").stdout
    for _ in range(count // 20):
        streams = [start(host, "echo here") for _ in range(20)]
        assert [host.finish(stream, (1,)).stdout for stream in streams] == [b"here\r\n"] * 20
    assert host.shell("ls /dev/pts").stdout == before
