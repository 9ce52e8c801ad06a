"""What a program may do to itself: be interrupted, fork, end while work is under way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from served_door import ServedDoor

from skerry.model.sandboxes import SandboxFilter

PATIENCE_S = 20


def start(door: ServedDoor, code: str) -> subprocess.Popen[str]:
    environ = os.environ | {"SKERRY_URL": door.url, "PYTHONWARNINGS": "error"}
    return subprocess.Popen(
        [sys.executable, "-u", "-c", textwrap.dedent(code)],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(program: subprocess.Popen[str]) -> tuple[str, str, int]:
    out, err = program.communicate(timeout=PATIENCE_S)
    return out, err, program.returncode


def running(door: ServedDoor) -> int:
    return len(door.call(lambda: door.engine.sandboxes.list(SandboxFilter())))


def test_ctrl_c_ends_a_wait_and_the_blocks_around_it(door: ServedDoor) -> None:
    program = start(
        door,
        """
        import skerry
        try:
            with skerry.Sandbox.create() as sandbox:
                process = sandbox.exec("cat")
                print("waiting")
                process.wait()
        except KeyboardInterrupt:
            print("interrupted", sandbox.poll(), process.wait())
        """,
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "waiting\n"
    program.send_signal(signal.SIGINT)
    assert finish(program) == ("interrupted 137 137\n", "", 0)
    assert running(door) == 0


def test_a_create_that_is_interrupted_leaves_no_sandbox(door: ServedDoor) -> None:
    door.call(door.node.hold_starts.clear)
    program = start(
        door,
        """
        import skerry
        print("creating")
        try:
            skerry.Sandbox.create()
        except KeyboardInterrupt:
            print("interrupted")
        """,
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "creating\n"
    deadline = time.monotonic() + PATIENCE_S
    while not door.call(lambda: len(door.node._sandboxes)):
        assert time.monotonic() < deadline, "the create did not reach the node"
        time.sleep(0.01)
    program.send_signal(signal.SIGINT)
    assert program.stdout.readline() == "interrupted\n"
    door.call(door.node.hold_starts.set)
    assert finish(program) == ("", "", 0)
    assert running(door) == 0


def test_a_program_that_ends_in_the_middle_ends_quietly(door: ServedDoor) -> None:
    program = start(
        door,
        """
        import skerry
        sandbox = skerry.Sandbox.create()
        process = sandbox.exec("spew", str(30 << 20), text=False)
        next(process.stdout)
        waiting = sandbox.exec("cat")
        """,
    )
    assert finish(program) == ("", "", 0)


def test_an_asynchronous_program_ends_quietly(door: ServedDoor) -> None:
    program = start(
        door,
        """
        import asyncio
        from skerry import aio

        async def main(number):
            sandbox = await aio.Sandbox.create()
            process = await sandbox.exec("echo", str(number))
            print((await process.stdout.read()).strip())
            await sandbox.exec("cat")

        for number in range(2):
            asyncio.run(main(number))
        """,
    )
    assert finish(program) == ("0\n1\n", "", 0)


def test_parent_and_forked_child_both_go_on(door: ServedDoor) -> None:
    program = start(
        door,
        """
        import os, sys
        import skerry
        sandbox = skerry.Sandbox.create()
        process = sandbox.exec("cat")
        process.stdin.write("line\\n")
        assert next(process.stdout) == "line\\n"
        pid = os.fork()
        if pid == 0:
            assert sandbox.exec("echo", "child").stdout.read() == "child\\n"
            process.kill()
            assert process.wait() == 137
            print("child done")
            sys.exit(7)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 7
        assert process.wait() == 137
        assert sandbox.exec("echo", "parent").stdout.read() == "parent\\n"
        print("parent done")
        """,
    )
    assert finish(program) == ("child done\nparent done\n", "", 0)


def test_multiprocessing_with_fork_works(door: ServedDoor) -> None:
    program = start(
        door,
        """
        import multiprocessing
        import skerry
        sandbox = skerry.Sandbox.create()

        def work(number):
            return sandbox.exec("echo", str(number)).stdout.read()

        sandbox.exec("true").wait()
        with multiprocessing.get_context("fork").Pool(2) as pool:
            print("".join(pool.map(work, range(4))), end="")
        """,
    )
    assert finish(program) == ("0\n1\n2\n3\n", "", 0)


@pytest.mark.parametrize("name", ["seed_hello.py", "seed_agent.py"])
def test_the_published_programs_differ_in_their_import_line_only(name: str) -> None:
    lines = (Path(__file__).parents[3] / "examples" / name).read_text().splitlines()
    assert lines[0] == "import skerry as modal"
    assert all("skerry" not in line for line in lines[1:])
