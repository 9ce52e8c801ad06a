"""`skerry shell` and `skerry exec --tty` at a real terminal: what a person types, sees, and is left with."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from realserver import Server, wait_for
from terminal_user import Window

from skerry import Sandbox

PROGRAM = [sys.executable, "-c", "from skerry.cli import main; main()"]
Open = Callable[..., Window]


@pytest.fixture(scope="module", autouse=True)
def served(shared: Server) -> Server:
    return shared


@pytest.fixture(scope="module")
def box(served: Server) -> Iterator[Sandbox]:
    with Sandbox.create(block_network=True) as sandbox:
        yield sandbox


@pytest.fixture
def opened(served: Server) -> Iterator[Open]:
    """Start the program in a window, which is closed at the end."""
    windows = []

    def start(*argv: str, server: Server = served, environ: dict[str, str] | None = None, **how: object) -> Window:
        around = os.environ | server.environ | {"TERM": "xterm-256color"} | (environ or {})
        windows.append(Window([*PROGRAM, *argv], around, **how))
        return windows[-1]

    yield start
    for window in windows:
        window.close()


def shell(opened: Open, box: Sandbox, *argv: str, **how: object) -> Window:
    """Return a window with a shell in it, which has shown its prompt."""
    window = opened("shell", box.object_id, "--env", "PS1=ready> ", *argv, "--", "bash", "--norc", **how)
    window.until("ready> ")
    return window


def test_what_is_typed_runs_there_and_its_colours_and_titles_arrive_unchanged(opened: Open, box: Sandbox) -> None:
    window = shell(opened, box)
    assert window.is_raw
    window.type("printf '\\033]0;a title\\007\\033[31mred\\033[0m\\n'\r")
    window.until(b"\x1b]0;a title\x07\x1b[31mred\x1b[0m\r\n")
    window.type("exit 7\r")
    assert window.ended() == 7
    assert window.is_as_before


def test_the_size_of_the_window_is_the_terminals_and_follows_it(opened: Open, box: Sandbox) -> None:
    script = "trap 'stty size' WINCH; stty size; until [ $line ]; do read -r line; done"
    window = opened("shell", box.object_id, "--", "sh", "-c", script, rows=31, columns=101)
    window.until("31 101\r\n")
    window.wait(lambda: window.is_raw, "raw mode")
    for rows, columns in ((43, 143), (1, 1), (24, 80)):
        window.resize(rows, columns)
        window.until(f"{rows} {columns}\r\n")
    window.type("over\r")
    assert window.ended() == 0


def test_ctrl_c_goes_to_the_command_and_ends_nothing_here(opened: Open, box: Sandbox) -> None:
    window = shell(opened, box)
    window.type("sh -c \"echo be''gun; exec sleep 1000\"\r")  # said by who has the foreground
    window.until("begun\r\n")
    window.type("\x03")
    at = window.until("ready> ", after=window.until("begun\r\n"))
    window.type("echo go''ing on; exit $?\r")
    window.until("going on", after=at)
    assert window.ended() == 0


def test_the_type_of_the_terminal_and_its_colours_are_this_windows(opened: Open, box: Sandbox) -> None:
    window = shell(opened, box, environ={"TERM": "vt220", "COLORTERM": "truecolor"})
    window.type("echo $TERM-$COLORTERM; exit\r")
    window.until("vt220-truecolor\r\n")
    assert window.ended() == 0


def test_the_keys_to_detach_leave_the_command_running(opened: Open, box: Sandbox) -> None:
    window = opened(
        "shell", box.object_id, "--", "sh", "-c", "echo started; read -r line; touch /tmp/detached; sleep 500"
    )
    window.until("started")
    window.type("\x10\x11")
    assert window.ended() == 0
    assert window.is_as_before
    assert b"detached: process pr_" in window.shown
    assert "read -r line" in box.exec("ps", "ax", "-o", "args").stdout.read()


def test_keys_that_only_begin_the_sequence_arrive(opened: Open, box: Sandbox) -> None:
    window = opened(
        "shell", box.object_id, "--detach-keys", "ctrl-],d", "--", "sh", "-c", "stty raw -echo; echo up; cat -v"
    )
    window.until("up")
    window.type("\x1dx")
    window.until("^]x")
    window.type("\x1d")  # alone, after a moment
    window.until("^]", after=window.until("^]x"))
    window.type("\x10\x11")
    window.until("^P^Q")
    window.type("\x1dd")
    assert window.ended() == 0
    assert window.is_as_before


def test_exec_with_tty_is_the_same_for_one_command(opened: Open, box: Sandbox) -> None:
    window = opened("exec", "-t", box.object_id, "--", "sh", "-c", "tty; stty size; exit 9", rows=20, columns=60)
    window.until("/dev/pts/")
    window.until("20 60\r\n")
    assert window.ended() == 9
    assert window.is_as_before


def test_a_new_sandbox_ends_with_its_shell(opened: Open, served: Server) -> None:
    before = {sandbox.object_id for sandbox in Sandbox.list()}
    window = opened("shell", "--block-network", "--", "sh", "-c", "echo $0 up; read -r line; exit 4")
    window.until("up")
    (made,) = {sandbox.object_id for sandbox in Sandbox.list()} - before
    window.type("\r")
    assert window.ended() == 4
    assert made not in {sandbox.object_id for sandbox in Sandbox.list()}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
def test_a_signal_puts_the_terminal_right_and_hangs_the_command_up(opened: Open, box: Sandbox, number: int) -> None:
    script = "trap 'touch /tmp/hung-up; exit' HUP; rm -f /tmp/hung-up; echo up; while :; do sleep 0.05; done"
    window = opened("shell", box.object_id, "--", "sh", "-c", script)
    window.until("up")
    window.wait(lambda: window.is_raw, "raw mode")
    window.program.send_signal(number)
    assert window.ended() == 128 + number
    assert window.is_as_before
    wait_for(lambda: box.exec("test", "-e", "/tmp/hung-up").wait() == 0, "the hang-up")


def test_a_killed_program_leaves_a_terminal_that_is_put_right_and_a_command_that_goes_on(
    opened: Open, box: Sandbox
) -> None:
    script = "printf '\\033[?1000h\\033[?25l'; echo up; sleep 0.5; test -t 1 && touch /tmp/going-on; sleep 1000"
    window = opened("shell", box.object_id, "--", "sh", "-c", script)
    window.until("up")
    window.wait(lambda: window.is_raw, "raw mode")
    window.program.send_signal(signal.SIGKILL)
    assert window.ended() == -9
    window.wait(lambda: window.is_as_before, "the terminal as it was")
    window.until(b"\x1b[?1000l")
    assert b"\x1b[?25h" in window.shown
    wait_for(lambda: box.exec("test", "-e", "/tmp/going-on").wait() == 0, "the command going on")


def test_a_window_that_is_closed_hangs_the_command_up(opened: Open, box: Sandbox) -> None:
    script = "trap 'touch /tmp/closed; exit' HUP; rm -f /tmp/closed; echo up; while :; do sleep 0.05; done"
    window = opened("shell", box.object_id, "--", "sh", "-c", script)
    window.until("up")
    window.wait(lambda: window.is_raw, "raw mode")
    window.slam()
    assert window.program.wait(30) == 129
    wait_for(lambda: box.exec("test", "-e", "/tmp/closed").wait() == 0, "the hang-up")


def test_a_window_that_is_closed_in_a_flood_hangs_the_command_up(opened: Open, box: Sandbox) -> None:
    script = "trap 'touch /tmp/drained; exit' HUP; rm -f /tmp/drained; while :; do echo flood; done"
    window = opened("shell", box.object_id, "--", "sh", "-c", script)
    window.wait(lambda: len(window.shown) > 1 << 18, "a flood")
    window.slam()
    assert window.program.wait(30) == 129
    wait_for(lambda: box.exec("test", "-e", "/tmp/drained").wait() == 0, "the hang-up")


def test_what_a_program_left_switched_on_is_switched_off(opened: Open, box: Sandbox) -> None:
    script = "printf '\\033[?1049h\\033[?2004h\\033[?1006h\\033[?1006l\\033[?25l'; exit 3"
    window = opened("shell", box.object_id, "--", "sh", "-c", script)
    assert window.ended() == 3
    end = bytes(window.shown).rpartition(b"\x1b[?25l")[2]
    for switch in (b"\x1b[?1049l", b"\x1b[?2004l", b"\x1b[?25h", b"\x1b[0m"):
        assert switch in end
    assert b"1006" not in end


def test_a_stop_gives_the_terminal_back_and_a_continue_takes_it_again(opened: Open, box: Sandbox) -> None:
    window = shell(opened, box)
    window.program.send_signal(signal.SIGTSTP)
    window.wait(lambda: os.waitpid(window.program.pid, os.WNOHANG | os.WUNTRACED)[0], "the stop")
    assert window.is_as_before
    window.resize(22, 77)
    window.program.send_signal(signal.SIGCONT)
    window.wait(lambda: window.is_raw, "raw mode again")
    window.type("stty size\r")
    window.until("22 77\r\n")
    window.type("exit\r")
    assert window.ended() == 0


def test_where_stdin_is_no_terminal_the_error_says_what_to_do(box: Sandbox, served: Server) -> None:
    environ = os.environ | served.environ
    for argv in (["shell", box.object_id], ["exec", "-t", box.object_id, "--", "true"]):
        ended = subprocess.run(
            [*PROGRAM, *argv], env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
        )
        assert ended.returncode == 1
        assert "stdin is no terminal" in ended.stderr
        assert "skerry exec" in ended.stderr or "--tty" in ended.stderr


def test_errors_before_the_command_leave_the_terminal_alone(opened: Open, box: Sandbox) -> None:
    for argv, code, said in (
        (["shell", "sb_00000000000000000000"], 1, "there is no sandbox"),
        (["shell", box.object_id, "--pip", "six"], 2, "is for a new sandbox"),
        (["shell", box.object_id, "--detach-keys", "escape"], 2, "is no key"),
        (["shell", box.object_id, "--user", "nobody-here"], 1, "nobody-here"),
    ):
        window = opened(*argv)
        assert window.ended() == code, bytes(window.shown)
        assert said in window.shown.decode()
        assert window.is_as_before


def test_a_command_that_is_not_found_says_so_and_exits_with_127(opened: Open, box: Sandbox) -> None:
    window = opened("shell", box.object_id, "--", "no-such-command")
    assert window.ended() == 127
    assert b"not found\r\n" in window.shown
    assert window.is_as_before


def test_a_command_that_was_left_is_found_again_with_what_it_showed_last(opened: Open, box: Sandbox) -> None:
    window = shell(opened, box, rows=20, columns=70)
    window.type("seq 200 | sed s/^/before-/; cat\r")
    window.until("before-200\r\n")
    window.type("\x10\x11")
    assert window.ended() == 0
    shown = window.shown.decode()
    process = shown.partition("detached: process ")[2].split()[0]
    assert f"`skerry attach {box.object_id} {process}` leads back" in shown
    for argv in (["attach", box.object_id, process], ["shell", "--attach", process, box.object_id]):
        again = opened(*argv, rows=33, columns=99)
        again.until("before-200\r\n")
        assert b"before-100\r\n" not in again.shown  # the last hundred lines, not all
        again.wait(lambda again=again: again.is_raw, "raw mode")
        again.type("typed\r")
        again.until("typed\r\ntyped\r\n")
        again.type("\x10\x11")
        assert again.ended() == 0
        assert again.is_as_before
    last = opened("attach", box.object_id, process, rows=33, columns=99)
    last.until("typed\r\ntyped\r\n")
    last.wait(lambda: last.is_raw, "raw mode")
    last.type("\x03")
    last.type("stty size; exit 6\r")
    last.until("33 99\r\n")
    assert last.ended() == 6
    ended = opened("attach", box.object_id, process)
    assert ended.ended() == 6
    assert b"33 99\r\n" in ended.shown


def test_who_attaches_has_the_screen_drawn_anew(opened: Open, box: Sandbox) -> None:
    script = "trap 'printf drawn' WINCH; echo up; while :; do sleep 0.05; done"
    window = opened("shell", box.object_id, "--", "bash", "-c", script)
    window.until("up")
    window.type("\x10\x11")
    assert window.ended() == 0
    process = window.shown.decode().partition("detached: process ")[2].split()[0]
    again = opened("attach", box.object_id, process)  # as large as before
    again.until("drawn", after=again.until("up\r\n"))
    again.type("\x10\x11")
    assert again.ended() == 0


def test_two_at_one_terminal_see_the_same_and_who_types_second_is_told(opened: Open, box: Sandbox) -> None:
    window = shell(opened, box)
    process = box.processes()[-1].id
    second = opened("attach", box.object_id, process)
    second.until("ready> ")
    second.wait(lambda: second.is_raw, "raw mode")
    second.type("echo se''cond\r")
    second.until("second\r\n")
    window.until("second\r\n")
    window.type("x")
    assert window.ended() == 1
    assert b"somebody else has written to the stdin of process" in window.shown
    assert window.is_as_before
    second.type("exit 8\r")
    assert second.ended() == 8


def test_there_is_no_way_to_what_has_no_terminal_or_is_not_there(opened: Open, box: Sandbox) -> None:
    plain = box.exec("cat")
    for argv, code, said in (
        (["attach", box.object_id, plain.object_id], 1, "has no terminal to attach to; `skerry logs -f --process pr_"),
        (["attach", box.object_id, "pr_\x1b[2J"], 1, "has no process pr_\\x1b[2J; `skerry ps sb_"),
        (["attach", box.object_id], 1, "has no process entrypoint"),
        (["shell", "--attach", plain.object_id], 2, "give SANDBOX, and no command"),
        (["shell", "--attach", plain.object_id, box.object_id, "--", "true"], 2, "give SANDBOX, and no command"),
    ):
        window = opened(*argv)
        assert window.ended() == code, bytes(window.shown)
        assert said in window.shown.decode()
        assert window.is_as_before
    plain.stdin.write_eof()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.1, 0.15, 0.2, 0.3])
def test_a_signal_during_the_start_leaves_no_sandbox(opened: Open, served: Server, number: int, after_s: float) -> None:
    before = {sandbox.object_id for sandbox in Sandbox.list()}
    window = opened("shell", "--block-network", "--timeout", "300", "--", "sh", "-c", "sleep 1000")
    window.wait(lambda: taken(window.program.pid, number), "its handler")
    over = time.monotonic() + after_s
    window.wait(lambda: time.monotonic() > over, "the start to get somewhere")
    window.program.send_signal(number)
    assert window.ended() == 128 + number
    assert window.is_as_before
    wait_for(lambda: {sandbox.object_id for sandbox in Sandbox.list()} <= before, "the end of what was made")


def test_a_signal_during_the_end_of_a_new_sandbox_does_not_leave_it(opened: Open, served: Server) -> None:
    before = {sandbox.object_id for sandbox in Sandbox.list()}
    window = opened("shell", "--block-network", "--timeout", "300", "--", "sh", "-c", "echo up; read -r line; exit 4")
    window.until("up")
    window.wait(lambda: window.is_raw, "raw mode")
    window.type("\r")
    window.wait(lambda: not window.is_raw or window.program.poll() is not None, "the end of the command")
    for _ in range(3):
        window.program.send_signal(signal.SIGTERM)
    assert window.ended() == 4
    wait_for(lambda: {sandbox.object_id for sandbox in Sandbox.list()} <= before, "the end of what was made")


def test_a_signal_is_obeyed_while_no_server_answers(opened: Open, server: Server) -> None:
    with Sandbox.create(block_network=True) as sandbox:
        window = opened("shell", sandbox.object_id, "--", "sh", "-c", "echo up; sleep 1000", server=server)
        window.until("up")
        window.wait(lambda: window.is_raw, "raw mode")
        server.kill9()
        window.program.send_signal(signal.SIGTERM)
        assert window.program.wait(20) == 128 + signal.SIGTERM
        assert window.is_as_before
        server.start()


def taken(pid: int, number: int) -> bool:
    """Tell whether a program has a handler of its own for a signal."""
    with open(f"/proc/{pid}/status") as status:
        caught = next(line.split()[1] for line in status if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (number - 1) & 1)


def test_a_flood_can_be_interrupted_and_detached_from(opened: Open, box: Sandbox) -> None:
    window = opened("shell", box.object_id, "--", "sh", "-c", "while :; do printf '\\033[31mflood\\033[0m'; done")
    window.wait(lambda: len(window.shown) > 1 << 20, "a flood")
    window.type("\x10\x11")
    assert window.ended() == 0
    assert window.is_as_before
    again = opened("shell", box.object_id, "--", "sh", "-c", "yes flood; exit 3")
    again.wait(lambda: len(again.shown) > 1 << 20, "a flood")
    again.type("\x03")
    assert again.ended() == 130
    box.exec("pkill", "-9", "-f", "flood").wait()


def test_a_paste_arrives_whole(opened: Open, box: Sandbox) -> None:
    window = opened("shell", box.object_id, "--", "sh", "-c", "stty raw -echo; echo up; head -c 300000 | md5sum")
    window.until("up")
    window.wait(lambda: window.is_raw, "raw mode")
    _paste(window, b"p" * 300_000)
    window.until(hashlib.md5(b"p" * 300_000).hexdigest())
    assert window.ended() == 0


def _paste(window: Window, text: bytes) -> None:
    """Type more than a terminal holds, as fast as it takes it."""
    os.set_blocking(window.user, False)
    left = memoryview(text)
    while left:
        try:
            left = left[os.write(window.user, left) :]
        except BlockingIOError:
            window.read(0.02)


def test_the_shell_goes_on_through_kill_9_of_the_server(opened: Open, server: Server) -> None:
    with Sandbox.create(block_network=True) as sandbox:
        window = shell(opened, sandbox, server=server)
        window.type("seq 1 3000; echo do''ne\r")
        window.until("\r\n1000\r\n")
        server.kill9()
        server.start()
        at = window.until("done\r\n")
        told = bytes(window.shown[:at]).rpartition(b"\r1\r\n")[2]
        assert told == b"".join(b"%d\r\n" % number for number in range(2, 3001)) + b"done\r\n"
        window.type("exit 5\r")
        assert window.ended() == 5
        assert window.is_as_before
