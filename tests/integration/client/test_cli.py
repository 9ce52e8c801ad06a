"""The commands as processes of their own, against the real door over a fake node."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from served_door import ServedDoor

from skerry.model.sandboxes import SandboxFilter

PATIENCE_S = 20
PROGRAM = """
import skerry as modal

app = modal.App("cli")

@app.local_entrypoint()
def main(text: str = "hello", fail: bool = False, wait: bool = False):
    modal.Sandbox.create(app=app)
    sandbox = modal.Sandbox.create("echo", text, app=app)
    sandbox.wait()
    print(sandbox.stdout.read(), end="", flush=True)
    if wait:
        modal.Sandbox.create(app=app).wait()
    if fail:
        modal.Sandbox.from_id("sb_00000000000000000zzz")
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    return file


def start(door: ServedDoor, *argv: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", "from skerry.cli import main; main()", *argv],
        env=os.environ | {"SKERRY_URL": door.url, "COLUMNS": "200"},
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def skerry(door: ServedDoor, *argv: str, stdin: bytes | None = None) -> tuple[bytes, str, int]:
    process = start(door, *argv, stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE)
    out, err = process.communicate(stdin, timeout=PATIENCE_S)
    return out, err.decode(), process.returncode


def created(door: ServedDoor, *argv: str) -> str:
    out, err, code = skerry(door, "create", *argv)
    assert (err, code) == ("", 0)
    return out.decode().strip()


def running(door: ServedDoor) -> int:
    return len(door.call(lambda: door.engine.sandboxes.list(SandboxFilter())))


def test_a_sandbox_is_made_listed_used_and_ended(door: ServedDoor) -> None:
    sandbox = created(door, "--app", "shell", "--env", "COLOUR=blue", "--cpu", "1:2", "--memory", "256")
    out, _, _ = skerry(door, "ls", "--json")
    (listed,) = json.loads(out)
    assert (listed["id"], listed["state"], listed["exit"]) == (sandbox, "running", None)
    assert skerry(door, "exec", sandbox, "--", "echo", "-n", "x") == (b"-n x\n", "", 0)
    assert b"COLOUR=blue" in skerry(door, "exec", sandbox, "--", "env")[0]
    out, err, code = skerry(door, "terminate", sandbox)
    assert (out.decode().split(), err, code) == ([sandbox, "terminated"], "", 0)
    assert json.loads(skerry(door, "ls", "--json")[0]) == []
    assert b"terminated" in skerry(door, "ls", "--all")[0]


def test_exec_passes_streams_and_codes_on_as_they_are(door: ServedDoor) -> None:
    sandbox = created(door)
    binary = bytes(range(256)) * 10_000
    assert skerry(door, "exec", sandbox, "--", "cat", stdin=binary) == (binary, "", 0)
    assert skerry(door, "exec", sandbox, "--", "warn", "to stderr") == (b"", "to stderr\n", 0)
    assert skerry(door, "exec", sandbox, "--", "exit", "7")[2] == 7
    assert skerry(door, "exec", sandbox, "--", "no-such")[2] == 127
    assert skerry(door, "exec", "-n", sandbox, "--", "cat", stdin=b"not passed on") == (b"", "", 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_exec_passes_signals_on(door: ServedDoor, number: signal.Signals) -> None:
    sandbox = created(door)
    process = start(door, "exec", sandbox, "--", "cat", stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"ready\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    assert process.wait(PATIENCE_S) == 128 + number


def test_exec_ends_when_its_reader_does(door: ServedDoor) -> None:
    sandbox = created(door)
    process = start(door, "exec", sandbox, "--", "spew", str(1 << 30))
    assert process.stdout is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait(PATIENCE_S) == 141


def test_exec_says_when_the_sandbox_ended_under_it(door: ServedDoor) -> None:
    sandbox = created(door)
    process = start(door, "exec", sandbox, "--", "cat", stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"ready\n")
    process.stdin.flush()
    process.stdout.readline()
    skerry(door, "terminate", sandbox)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 137
    assert f"sandbox {sandbox} ended" in err.decode()


def test_run_prints_the_programs_output_only_and_ends_what_it_left(door: ServedDoor, program: Path) -> None:
    assert skerry(door, "run", str(program), "--text", "from a program") == (b"from a program\n", "", 0)
    assert running(door) == 0
    assert skerry(door, "run", "--detach", f"{program}::main")[2] == 0
    assert running(door) == 1


def test_run_tells_an_error_by_the_programs_own_line(door: ServedDoor, program: Path) -> None:
    out, err, code = skerry(door, "run", str(program), "--fail")
    assert (out, code) == (b"hello\n", 1)
    assert err.startswith(f"skerry: {program}:15: ")
    assert err.count("\n") == 1
    assert running(door) == 0


def test_run_shows_the_programs_own_trace_for_its_own_mistakes(door: ServedDoor, tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    file.write_text(
        "import skerry\napp = skerry.App('x')\n@app.local_entrypoint()\ndef main():\n    print({}['key'])\n"
    )
    _, err, code = skerry(door, "run", str(file))
    assert code == 1
    assert err.splitlines()[0] == "Traceback (most recent call last):"
    assert "KeyError: 'key'" in err
    assert "skerry/cli" not in err
    file.write_text("def broken(:\n")
    _, err, code = skerry(door, "run", str(file))
    assert (code, "SyntaxError" in err) == (1, True)


def test_ctrl_c_ends_a_program_and_its_sandboxes(door: ServedDoor, program: Path) -> None:
    process = start(door, "run", str(program), "--wait")
    assert process.stdout is not None
    assert process.stdout.readline() == b"hello\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err.decode().strip()) == (130, "skerry: interrupted")
    assert running(door) == 0


def test_run_helps_with_the_programs_own_options(door: ServedDoor, program: Path) -> None:
    out, _, code = skerry(door, "run", str(program), "--help")
    assert code == 0
    assert b"--text TEXT" in out
    assert skerry(door, "run", str(program), "--no-such")[2] == 2


def test_errors_are_one_line(door: ServedDoor) -> None:
    for argv in (
        ("exec", "sb_00000000000000000zzz", "--", "ls"),
        ("terminate", "x"),
        ("create", "--isolation", "none"),
    ):
        out, err, code = skerry(door, *argv)
        assert (out, code) == (b"", 1)
        assert err.startswith("skerry: ")
        assert err.count("\n") == 1


def test_a_build_shows_its_steps_on_stderr(door: ServedDoor) -> None:
    out, err, code = skerry(door, "create", "--pip", "pandas", "--apt", "gcc")
    assert code == 0
    assert out.decode().startswith("sb_")
    assert "skerry: image: step 1 of 2: apt_install gcc" in err
    assert "skerry: image: step 2 of 2: pip_install pandas" in err


def test_version_tells_both_sides(door: ServedDoor) -> None:
    told = json.loads(skerry(door, "version", "--json")[0])
    assert told["protocol"] == told["server"]["protocol"] == 1
    door.cut()
    out, _, code = skerry(door, "version")
    assert (code, b"server: none runs" in out) == (0, True)
    door.listen()
