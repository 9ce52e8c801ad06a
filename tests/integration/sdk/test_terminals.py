"""Terminals through the SDK: what a process sees of one, and what hostile and unlucky ones do."""

from __future__ import annotations

import os

import pytest
from realserver import Server, wait_for

from skerry import ContainerProcess, ProcessReason, Sandbox, SandboxReason, StreamType
from skerry.exception import ConflictError, InvalidError, NotFoundError

LINES = 60_000


@pytest.fixture(scope="module", autouse=True)
def served(shared: Server) -> Server:
    return shared


@pytest.fixture(scope="module")
def box(served: Server) -> Sandbox:
    with Sandbox.create(block_network=True) as sandbox:
        yield sandbox


def until(process: ContainerProcess[str], text: str) -> str:
    """Read what the terminal shows until it has shown `text`."""
    seen = ""
    for piece in process.stdout:
        seen += piece
        if text in seen:
            return seen
    raise AssertionError(f"{text!r} was not shown: {seen!r}")


def test_a_process_at_a_terminal_has_its_size_and_one_stream(box: Sandbox) -> None:
    process = box.exec("sh", "-c", "stty size; echo $TERM; echo error >&2; tty", pty=True, pty_size=(33, 111))
    size, term, error, tty = process.stdout.read().split("\r\n")[:4]
    assert (size, term, error) == ("33 111", "xterm-256color", "error")
    assert tty.startswith("/dev/pts/")
    assert process.stderr.read() == ""
    assert process.wait() == 0


def test_without_a_terminal_of_our_own_the_usual_size_is_taken(box: Sandbox) -> None:
    process = box.exec("stty", "size", pty=True)
    assert process.stdout.read() == "24 80\r\n"


def test_a_terminal_size_of_the_standard_library_is_not_taken_for_rows_and_columns(box: Sandbox) -> None:
    size = os.terminal_size((111, 33))
    assert box.exec("stty", "size", pty=True, pty_size=size).stdout.read() == "33 111\r\n"


def test_keys_that_are_typed_edit_lines_and_become_signals(box: Sandbox) -> None:
    process = box.exec("bash", "--norc", pty=True, bufsize=0)
    process.stdin.write("echo wromg\x7f\x7fng-$((6*7)); cat\r")
    until(process, "wrong-42\r\n")
    process.stdin.write("\x03exit 5\r")
    assert process.wait() == 5


def test_a_resize_reaches_what_runs_in_the_foreground(box: Sandbox) -> None:
    script = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done"
    process = box.exec("sh", "-c", script, pty=True, bufsize=0)
    until(process, "ready")
    process.resize_pty(50, 132)
    until(process, "50 132")
    process.resize_pty(65_535, 65_535)
    until(process, "65535 65535")
    process.kill()
    assert process.wait() == 137
    process.resize_pty(24, 80)


@pytest.mark.parametrize("size", [(0, 80), (24, 0), (-1, 80), (24, 65_536), (24,), "24x80", (24.0, 80), (True, 80)])
def test_a_size_that_no_terminal_can_have_is_refused_with_the_bound(box: Sandbox, size: object) -> None:
    with pytest.raises(InvalidError, match=r"rows"):
        box.exec("true", pty=True, pty_size=size)  # type: ignore[call-overload]


def test_a_resize_to_nothing_is_refused_and_changes_nothing(box: Sandbox) -> None:
    process = box.exec("sh", "-c", "read -r line; stty size", pty=True, pty_size=(30, 90))
    with pytest.raises(InvalidError, match="1 to 65,535"):
        process.resize_pty(0, 0)
    process.stdin.write("\n")
    assert process.stdout.read().endswith("30 90\r\n")


def test_what_has_no_terminal_is_not_resized(box: Sandbox) -> None:
    process = box.exec("cat")
    with pytest.raises(ConflictError, match="pty=True"):
        process.resize_pty(24, 80)
    process.kill()
    with pytest.raises(NotFoundError, match="no entrypoint"):
        box.resize_pty(24, 80)
    with pytest.raises(InvalidError, match="pty=True"):
        box.exec("true", pty_size=(24, 80))


def test_the_entrypoint_may_have_a_terminal_and_be_typed_at(served: Server) -> None:
    script = "stty size; read -r line; stty size; echo got $line; exit 3"
    with Sandbox.create("sh", "-c", script, pty=True, pty_size=(20, 70), block_network=True) as sandbox:
        assert next(iter(sandbox.stdout)) == "20 70\r\n"
        sandbox.resize_pty(21, 71)
        sandbox.stdin.write("a line\r")
        sandbox.stdin.drain()
        sandbox.wait(raise_on_termination=False)
        shown = sandbox.stdout.read()
        assert sandbox.stderr.read() == ""
    assert shown.endswith("21 71\r\ngot a line\r\n")
    assert (sandbox.exit.reason, sandbox.exit.code) == (SandboxReason.EXITED, 3)


def test_the_end_of_input_is_the_end_of_file(box: Sandbox) -> None:
    process = box.exec("sh", "-c", "stty -echo; echo ready; cat; echo over", pty=True, bufsize=0)
    until(process, "ready\r\n")
    process.stdin.write("in the middle of a line")
    process.stdin.write_eof()
    assert process.stdout.read() == "in the middle of a lineover\r\n"
    assert process.wait() == 0


def test_the_end_of_input_ends_a_shell_at_its_prompt(box: Sandbox) -> None:
    process = box.exec("bash", "--norc", pty=True, bufsize=0, env={"PS1": "ready> "})
    until(process, "ready> ")
    process.stdin.write_eof()
    assert process.wait() == 0


def test_programs_that_open_terminals_of_their_own_work(box: Sandbox) -> None:
    how = {"pty": True, "pty_size": (21, 61), "user": "user"}
    script = "sudo id -u && sudo tty && script -qc 'stty size' /dev/null"
    process = box.exec("sh", "-c", script, **how)
    root, tty, size = process.stdout.read().split("\r\n")[:3]
    assert (root, size) == ("0", "21 61")
    assert tty.startswith("/dev/pts/")
    assert process.wait() == 0


def test_a_guest_that_opens_all_the_terminals_it_can_keeps_nobody_else_from_one(box: Sandbox) -> None:
    script = (
        "import os, time; held = [os.openpty() for _ in range(400)]; print(len(held), flush=True); time.sleep(1000)"
    )
    hoarder = box.exec("python3", "-c", script, user="user")
    assert next(iter(hoarder.stdout)) == "400\n"
    assert box.exec("stty", "size", pty=True).stdout.read() == "24 80\r\n"
    hoarder.kill()


def test_output_that_is_thrown_away_holds_nothing_up(box: Sandbox) -> None:
    assert box.exec("seq", "1", "200000", pty=True, stdout=StreamType.DEVNULL).wait() == 0


def test_a_flood_at_a_terminal_leaves_other_processes_and_the_server_responsive(box: Sandbox) -> None:
    flood = box.exec("sh", "-c", "while :; do printf '\\033[2J\\033]0;title\\007'; done", pty=True, text=False)
    taken = 0
    for piece in flood.stdout:
        taken += len(piece)
        if taken > 1 << 20:
            break
    assert box.exec("echo", "still here").stdout.read() == "still here\n"
    flood.kill()
    assert flood.wait() == 137


def test_a_terminal_that_is_held_in_the_background_ends_with_its_process(box: Sandbox) -> None:
    script = "trap '' HUP; (while :; do echo held; sleep 0.01; done) & setsid sh -c 'sleep 1000' & exit 6"
    process = box.exec("sh", "-c", script, pty=True)
    assert process.wait() == 6
    process.stdout.read()


def test_the_timeout_ends_a_terminal_and_all_that_has_left_its_session(box: Sandbox) -> None:
    process = box.exec("sh", "-c", "trap '' HUP INT TERM; setsid sleep 4242 & sleep 4242", pty=True, timeout=0.5)
    assert process.wait() == 137
    assert process.exit.reason is ProcessReason.TIMEOUT
    process.stdout.read()
    wait_for(lambda: "4242" not in box.exec("ps", "ax", "-o", "args").stdout.read(), "the end of both")


def test_another_user_cannot_write_to_a_terminal(box: Sandbox) -> None:
    process = box.exec("sh", "-c", "tty; read -r line; echo $line", pty=True, bufsize=0)
    path = until(process, "/dev/pts/").strip()
    refused = box.exec("sh", "-c", f"echo intruder > {path}", user="nobody")
    assert refused.wait() != 0
    process.stdin.write("mine\r")
    assert "intruder" not in process.stdout.read()


# A server that is killed


def test_a_terminal_goes_on_at_the_right_byte_through_kill_9_of_the_server(server: Server) -> None:
    script = f"stty -echo; i=0; while [ $i -lt {LINES} ]; do echo line $i; i=$((i+1)); done; read -r line; stty size"
    with Sandbox.create(block_network=True) as sandbox:
        process = sandbox.exec("sh", "-c", script, pty=True)
        for number, line in enumerate(process.stdout):
            assert line == f"line {number}\r\n"
            if number in (100, 45_000):
                server.kill9()
                server.start()
            if number == LINES - 1:
                break
        process.resize_pty(44, 144)
        server.kill9()
        server.start()
        process.stdin.write("go\r")
        assert process.stdout.read() == "44 144\r\n"
        assert process.wait() == 0


def test_a_process_that_nobody_holds_any_more_keeps_its_terminal(box: Sandbox, served: Server) -> None:
    process = box.exec("sh", "-c", "echo ready; sleep 0.5; test -t 1 && touch /tmp/kept", pty=True, bufsize=0)
    until(process, "ready")
    del process
    wait_for(lambda: box.exec("test", "-e", "/tmp/kept").wait() == 0, "the process going on at its terminal")
