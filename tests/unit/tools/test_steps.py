"""What a person sees of a step, and that its command does not outlive it."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import steps

TOOLS = Path(steps.__file__).parent


def test_a_step_ends_with_a_line_that_says_its_result_and_its_time(tmp_path: Path) -> None:
    out = io.StringIO()
    with steps.Steps("setup", tmp_path, out).step("packages") as step:
        step.result = "installed"
    assert out.getvalue().startswith("setup: packages: installed (0.")


def test_a_failed_command_shows_its_last_lines_and_where_the_rest_is(tmp_path: Path) -> None:
    out = io.StringIO()
    with (
        pytest.raises(steps.StepFailed) as failure,
        steps.Steps("setup", tmp_path, out).step("packages") as step,
    ):
        step.run(["sh", "-c", "seq 100; echo no such package >&2; exit 7"])
    said = str(failure.value)
    assert "ended with 7" in said
    assert "no such package" in said
    assert "    61\n" not in said
    assert "    62\n" in said  # forty lines: 62 to 100, and the error
    assert str(tmp_path / "packages.log") in said
    assert "no such package" in (tmp_path / "packages.log").read_text()
    assert "failed" in out.getvalue()


def test_a_command_that_is_not_there_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(steps.StepFailed, match="cannot start `no-such-program`"),
        steps.Steps("setup", tmp_path, io.StringIO()).step("x") as step,
    ):
        step.run(["no-such-program"])


def test_what_a_command_says_reaches_the_terminal_without_its_control_characters(tmp_path: Path) -> None:
    step = steps.Step("x", tmp_path / "x.log")
    step.note("\x1b[31mred\x1b[0m \x07bell\r\n")
    assert step.said == "red bell"


def test_ctrl_c_ends_the_command_and_what_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    program = (
        f"import pathlib, signal, sys; sys.path.insert(0, {str(TOOLS)!r}); import steps\n"
        # A shell ignores SIGINT for what it starts in the background, these tests among it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"with steps.Steps('t', pathlib.Path({str(tmp_path)!r})).step('x') as step:\n"
        f"    step.run(['sh', '-c', 'sleep 1000 & echo $! $$ > {pids}; wait'])\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        wait_for(lambda: pids.exists() and pids.read_text().endswith("\n"))
        child.send_signal(signal.SIGINT)
        out, _ = child.communicate(timeout=30)
    finally:
        child.kill()
        child.wait()
    assert b"interrupted" in out
    for pid in pids.read_text().split():
        wait_for(lambda pid=pid: not running(int(pid)))


def running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def wait_for(condition) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited for 30 s in vain"
        threading.Event().wait(0.01)
