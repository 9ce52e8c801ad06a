"""Processes: how they start, what they get, how they end."""

from __future__ import annotations

import hashlib
import os
import struct

import pytest
from agent_driver import PATH, WINDOW
from agent_places import Sandbox

AT_A_TERMINAL = {"stdin": "pipe", "stdout": "pipe", "stderr": "stdout"}
EXITED = {"code": 0, "signal": None, "reason": "exited"}


def verdict(exit: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in exit.items() if key != "evidence"}


def test_a_process_gets_its_arguments_environment_directory_and_user(sandbox: Sandbox) -> None:
    script = 'printf "%s|" "$1" "$A" "$PWD" "$HOME" "$USER" "$(id -u)"'
    output = sandbox.host.run("/bin/sh", "-c", script, "sh", "a b", env=(PATH, "A=1"), cwd="/tmp", user="root")
    assert output.stdout == b"a b|1|/tmp|/root|root|0|"
    assert verdict(output.exit) == EXITED


def test_a_name_or_a_number_chooses_the_user(sandbox: Sandbox) -> None:
    for user, expected in (("nobody", b"65534 "), ("4242:4343", b"4242 4343"), ("root:nogroup", b"0 65534")):
        output = sandbox.host.shell("echo $(id -u) $(id -g)", user=user)
        assert output.stdout.startswith(expected)


def test_stdout_and_stderr_are_two_channels_unless_asked_for_as_one(sandbox: Sandbox) -> None:
    both = sandbox.host.shell("echo out; echo err >&2")
    assert (both.stdout, both.stderr) == (b"out\n", b"err\n")
    merged = sandbox.host.shell("echo out; echo err >&2", stderr="stdout")
    assert merged.stdout == b"out\nerr\n"
    neither = sandbox.host.shell("echo out; echo err >&2", stdout="null", stderr="null")
    assert verdict(neither.exit) == EXITED


def test_a_command_that_is_not_found_exits_127_and_says_so(sandbox: Sandbox) -> None:
    output = sandbox.host.run("no-such-command")
    assert output.exit["code"] == 127
    assert b"no-such-command" in output.stderr
    assert b"not found" in output.stderr


def test_a_file_that_cannot_be_executed_exits_126_and_says_so(sandbox: Sandbox) -> None:
    for path in ("/etc/passwd", "/tmp"):
        output = sandbox.host.run(path)
        assert output.exit["code"] == 126
        assert path.encode() in output.stderr


def test_a_script_without_an_interpreter_line_is_run_by_the_shell(sandbox: Sandbox) -> None:
    path = f"/tmp/script-{os.getpid()}"
    sandbox.host.write_file(path, b'echo "run with $1"\n', mode=0o755)
    try:
        assert sandbox.host.run(path, "this").stdout == b"run with this\n"
    finally:
        sandbox.host.request("remove", path=path.encode(), recursive=False)


def test_an_unknown_user_or_a_missing_directory_is_refused_by_name(sandbox: Sandbox) -> None:
    for options, name in (({"user": "mallory"}, "mallory"), ({"cwd": "/no/such"}, "/no/such")):
        error = sandbox.host.run("true", **options).error
        assert error["code"] == "failed_precondition"
        assert name in error["message"]


def test_ten_megabytes_come_back_as_they_were_sent(sandbox: Sandbox) -> None:
    data = os.urandom(10 << 20)
    stream = sandbox.host.start("cat", stdin="pipe")
    sandbox.host.feed(stream, data)
    output = sandbox.host.finish(stream)
    assert hashlib.sha256(output.stdout).digest() == hashlib.sha256(data).digest()


def test_a_process_that_does_not_read_gets_no_more_credit(sandbox: Sandbox) -> None:
    host = sandbox.host
    stream = host.start("sleep", "60", stdin="pipe")
    output = host.outputs[stream]
    host.wait(lambda: output.credit[1], "the first credit")
    host.send("DATA", stream, struct.pack("<Q", 0) + bytes(WINDOW))
    host.ping()
    acknowledged, limit = output.credit
    assert acknowledged < WINDOW
    assert limit == acknowledged + WINDOW
    host.send("SIGNAL", stream, bytes([9]))
    assert verdict(host.finish(stream).exit) == {"code": None, "signal": 9, "reason": "killed"}


def test_what_a_process_no_longer_reads_is_dropped_and_its_credit_returned(sandbox: Sandbox) -> None:
    host = sandbox.host
    stream = host.start("/bin/sh", "-c", "exec <&-; echo closed; sleep 60", stdin="pipe")
    host.wait(lambda: host.outputs[stream].stdout, "the word that stdin is closed")
    host.feed(stream, bytes(4 * WINDOW))
    host.wait(lambda: host.outputs[stream].credit[0] == 4 * WINDOW, "the last credit")
    host.send("SIGNAL", stream, bytes([15]))
    assert verdict(host.finish(stream).exit) == {"code": None, "signal": 15, "reason": "signaled"}


def test_the_end_of_stdin_reaches_the_process(sandbox: Sandbox) -> None:
    stream = sandbox.host.start("wc", "-c", stdin="pipe")
    sandbox.host.feed(stream, b"")
    assert sandbox.host.finish(stream).stdout.strip() == b"0"


def test_exit_comes_at_once_though_a_background_process_holds_the_pipe(sandbox: Sandbox) -> None:
    host = sandbox.host
    script = "(read line; echo late) <&3 & exit 5"
    stream = host.start("/bin/sh", "-c", f"exec 3<&0; {script}", stdin="pipe")
    output = host.outputs[stream]
    host.wait(lambda: output.exit, "EXIT")
    host.ping()
    assert output.exit["code"] == 5
    assert 1 not in output.ended
    host.feed(stream, b"go\n")
    assert host.finish(stream).stdout == b"late\n"


def test_a_signal_goes_to_the_whole_group(sandbox: Sandbox) -> None:
    host = sandbox.host
    stream = host.start("/bin/sh", "-c", "sleep 60 & echo started; wait")
    host.wait(lambda: host.outputs[stream].stdout, "the start")
    host.send("SIGNAL", stream, bytes([15]))
    output = host.finish(stream)
    assert output.exit["signal"] == 15
    assert output.ended.keys() == {1, 2}


def test_output_waits_for_credit_and_nothing_is_lost(sandbox: Sandbox) -> None:
    host = sandbox.host
    host.grants = False
    try:
        stream = host.start("head", "-c", str(3 * WINDOW), "/dev/zero", limits=(1000, 1000))
        host.wait(lambda: len(host.outputs[stream].stdout) == 1000, "as much as was granted")
        host.ping()
        assert len(host.outputs[stream].stdout) == 1000
        assert host.outputs[stream].exit is None
    finally:
        host.grants = True
    host.grant(stream, 1)
    assert len(host.finish(stream).stdout) == 3 * WINDOW


def test_a_closed_stream_lets_its_process_run_on_without_output(sandbox: Sandbox) -> None:
    host = sandbox.host
    path = f"/tmp/closed-{os.getpid()}"
    script = f"head -c {8 * WINDOW} /dev/zero; echo done > {path}"
    stream = host.start("/bin/sh", "-c", script, limits=(0, 0))
    host.wait(lambda: host.outputs[stream].started, "STARTED")
    host.close(stream)
    output = host.outputs[stream]
    host.wait(lambda: output.exit is not None and output.ended == {1: 0, 2: 0}, "EXIT and the early ENDs")
    assert host.read_file(path).stdout == b"done\n"
    host.request("remove", path=path.encode(), recursive=False)


def test_a_ping_is_answered_while_a_process_floods_its_output(sandbox: Sandbox) -> None:
    host = sandbox.host
    stream = host.start("cat", "/dev/zero")
    host.wait(lambda: len(host.outputs[stream].stdout) > WINDOW, "a megabyte")
    host.ping(b"beside it")
    assert host.run("echo", "beside it").stdout == b"beside it\n"
    host.send("SIGNAL", stream, bytes([9]))
    host.finish(stream)


def test_orphans_are_reaped(sandbox: Sandbox) -> None:
    host = sandbox.host
    output = host.shell("for i in 1 2 3 4 5; do (sleep 0.01 & exit 0); done; echo $$")
    assert verdict(output.exit) == EXITED
    script = "cat /proc/[0-9]*/stat | grep -c ') Z ' || true"
    host.wait(lambda: host.shell(script).stdout.strip() == b"0", "the end of the last zombie")


def test_thirty_processes_run_beside_each_other(sandbox: Sandbox) -> None:
    host = sandbox.host
    streams = [host.start("/bin/sh", "-c", f"echo {number}; exit {number}") for number in range(30)]
    for number, stream in enumerate(streams):
        output = host.finish(stream)
        assert (output.stdout, output.exit["code"]) == (b"%d\n" % number, number)


def test_the_number_of_open_streams_is_bounded(boxed: Sandbox) -> None:
    host = boxed.host
    streams = [host.open("stat", path=b"/") for _ in range(1024)]
    beyond = host.open("stat", path=b"/")
    host.wait(lambda: host.outputs[beyond].error, "the refusal")
    assert host.outputs[beyond].error["code"] == "resource_exhausted"
    for stream in streams:
        host.finish(stream)
    assert host.request("stat", path=b"/").result


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"argv": []}, "invalid_argument"),
        ({"argv": [b"a\0b"]}, "invalid_argument"),
        ({"argv": [b"x" * 65536]}, "invalid_argument"),
        ({"env": [b"A"]}, "invalid_argument"),
        ({"cwd": b"tmp"}, "invalid_argument"),
        ({"terminal": {"rows": 1, "columns": 1, "term": "x"}}, "invalid_argument"),
        ({"terminal": {"rows": 1, "columns": 1, "term": "x y"}, **AT_A_TERMINAL}, "invalid_argument"),
    ],
)
def test_what_a_caller_gets_wrong_is_an_answer_and_no_violation(
    boxed: Sandbox, fields: dict[str, object], code: str
) -> None:
    right = {
        "argv": [b"true"], "env": [], "cwd": b"/", "user": "root", "stdin": "null", "stdout": "null",
        "stderr": "null", "timeout_ms": 0, "no_new_privileges": False, "terminal": None, "limits": [0, 0],
    }  # fmt: skip
    assert boxed.host.request("exec", **{**right, **fields}).error["code"] == code
    boxed.host.ping()


def test_arguments_of_almost_64_kib_arrive(sandbox: Sandbox) -> None:
    word = "x" * 65_000
    assert sandbox.host.run("echo", word).stdout == word.encode() + b"\n"
