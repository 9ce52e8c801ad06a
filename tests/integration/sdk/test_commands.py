"""The command line against a real server: what it passes on, what it cleans up, and what it never prints raw."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from command_line import skerry, start
from realserver import Server, wait_for

from skerry import Sandbox, SandboxReason

PATIENCE_S = 60
HOSTILE = "\x1b[2J\x1b]0;owned\x07evil"
PROGRAM = """
import skerry as modal

app = modal.App("commands")

@app.local_entrypoint()
def main():
    box = modal.Sandbox.create("sleep", "1000", app=app, block_network=True)
    process = box.exec("sh", "-c", "echo up; sleep 1000")
    for line in process.stdout:
        print(line, end="", flush=True)
"""
BROKEN = f"""
import skerry

app = skerry.App()

@app.local_entrypoint()
def main():
    skerry.Image.debian_slim().run_commands({HOSTILE!r}, r"printf '\\033[2J'; exit 1").build()
"""


@pytest.fixture(scope="module", autouse=True)
def served(shared: Server) -> Server:
    return shared


def interrupted(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGINT) -> str:
    """Return what a command says on stderr once it has printed a line and was sent a signal."""
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE_S)
    return err.decode()


def test_ctrl_c_of_run_ends_the_program_and_its_sandboxes(served: Server, tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    process = start(served, "run", str(file))
    assert interrupted(process).strip() == "skerry: interrupted"
    assert process.returncode == 130
    assert list(Sandbox.list()) == []
    served.check_no_sandbox_left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_exec_reaches_the_command_and_the_sandbox_stays(served: Server, number: signal.Signals) -> None:
    with Sandbox.create(block_network=True) as box:
        process = start(served, "exec", box.object_id, "--", "sh", "-c", "echo up; exec sleep 1000")
        interrupted(process, number)
        assert process.returncode == 128 + number
        assert box.exec("ps", "-C", "sleep", "-o", "pid=").stdout.read() == ""
        assert box.poll() is None


def test_a_command_may_handle_the_signal_itself(served: Server) -> None:
    with Sandbox.create(block_network=True) as box:
        script = "trap 'exit 9' INT; echo up; while :; do sleep 0.05; done"
        process = start(served, "exec", box.object_id, "--", "sh", "-c", script)
        interrupted(process)
        assert process.returncode == 9


def test_a_sandbox_is_made_used_listed_and_ended(served: Server) -> None:
    out, err, code = skerry(served, "create", "--app", "commands")
    assert (err, code) == ("", 0)
    sandbox = out.decode().strip()
    binary = bytes(range(256)) * 4096
    assert skerry(served, "exec", sandbox, "--", "cat", stdin=binary) == (binary, "", 0)
    assert skerry(served, "exec", sandbox, "--", "sh", "-c", "echo out; echo err >&2; exit 7") == (b"out\n", "err\n", 7)
    out, err, code = skerry(served, "exec", sandbox, "--", "no-such-command")
    assert (out, code) == (b"", 127)
    assert '"no-such-command": command not found' in err
    listed = json.loads(skerry(served, "ls", "--json")[0])
    assert [(one["id"], one["state"]) for one in listed] == [(sandbox, "running")]
    assert skerry(served, "terminate", sandbox)[2] == 0
    _, err, code = skerry(served, "exec", sandbox, "--", "true")
    assert code == 1
    assert err == f"skerry: sandbox {sandbox} has ended (terminated); create a new one\n"


def test_what_a_guest_or_a_caller_named_cannot_move_the_cursor(served: Server, tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text(BROKEN)
    with Sandbox.create("sleep", HOSTILE, block_network=True) as box:
        box.wait()
        out, err, _ = skerry(served, "ls", "--all")
        assert b"\x1b" not in out
        assert b"\x07" not in out
        assert box.object_id.encode() in out
        for argv in (
            ("exec", box.object_id, "--", "true"),
            ("exec", HOSTILE, "--", "true"),
            ("create", "--workdir", HOSTILE),
            ("run", str(broken)),
        ):
            out, err, code = skerry(served, *argv)
            assert code == 1, argv
            assert b"\x1b" not in out
            assert "\x1b" not in err
            assert "\x07" not in err
    assert "\x1b" not in served.settings.log.read_text()


def test_what_a_guest_writes_is_raw_in_its_own_output_only(served: Server) -> None:
    with Sandbox.create(block_network=True) as box:
        assert skerry(served, "exec", box.object_id, "--", "printf", r"\033[31m")[0] == b"\x1b[31m"
        box.filesystem.write_text("", f"/root/{HOSTILE}")
        assert HOSTILE in [file.name for file in box.filesystem.list_files("/root")]
        with pytest.raises(Exception, match=r"Is a directory|Not a directory") as caught:
            box.filesystem.read_text(f"/root/{HOSTILE}/below")
        assert "\x1b" not in str(caught.value)


def test_exec_ends_when_its_sandbox_does_and_says_so(served: Server) -> None:
    box = Sandbox.create(block_network=True)
    process = start(served, "exec", box.object_id, "--", "sh", "-c", "echo up; exec sleep 1000")
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    ending = threading.Thread(target=box.terminate)
    ending.start()
    _, err = process.communicate(timeout=PATIENCE_S)
    ending.join()
    assert process.returncode == 137
    assert f"sandbox {box.object_id} ended" in err.decode()


def test_exec_goes_on_over_a_restart_of_the_server(served: Server) -> None:
    with Sandbox.create(block_network=True) as box:
        script = "echo up; read go; seq 50000; exit 6"
        process = start(served, "exec", box.object_id, "--", "sh", "-c", script, stdin=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        served.kill9()
        served.start()
        out, _ = process.communicate(b"go\n", timeout=PATIENCE_S)
        assert out == b"".join(b"%d\n" % number for number in range(1, 50_001))
        assert process.returncode == 6


def test_the_lifetime_is_told_by_ls(served: Server) -> None:
    box = Sandbox.create(timeout=1, block_network=True)
    wait_for(lambda: box.poll() is not None, "the end of the lifetime")
    (told,) = [one for one in json.loads(skerry(served, "ls", "--all", "--json")[0]) if one["id"] == box.object_id]
    assert told["exit"]["reason"] == SandboxReason.LIFETIME


def test_doctor_sees_the_server_and_its_images(served: Server) -> None:
    findings = {one["name"]: one for one in json.loads(skerry(served, "doctor", "--json")[0])}
    assert findings["images"]["status"] == "ok"
    assert str(served.data) in findings["images"]["text"]
    assert findings["server"]["status"] == "ok"
