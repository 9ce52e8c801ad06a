"""Starting a program through a launcher that the test plays."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from skerry.isolation.gvisor.logs import KEEPER, SENTRY, Logs
from skerry.isolation.gvisor.sentry import Boot, Launcher, SentryError


def launcher(folder: Path, script: str) -> Launcher:
    program = folder / "launch"
    program.write_text(f"#!{sys.executable}\nimport json, os, sys, time\n{script}\n")
    program.chmod(0o755)
    return Launcher(launcher=program, runsc=folder / "runsc", root=folder / "state")


@pytest.fixture
def boot(tmp_path: Path) -> Iterator[Boot]:
    logs = Logs()
    for name in ("in", "out"):
        os.mkfifo(tmp_path / name)
    for name in ("spec", "image"):
        (tmp_path / name).touch()
    yield Boot(
        container_id="sk-x",
        control_socket=tmp_path / "s.sock",
        spec=tmp_path / "spec",
        image=tmp_path / "image",
        keeper_in=tmp_path / "in",
        keeper_out=tmp_path / "out",
        keeper_log=logs.new(KEEPER),
        log=logs.new(SENTRY),
        cgroup_procs=(tmp_path / "cpu", tmp_path / "memory"),
    )
    logs.close()


async def test_what_is_given_is_open_and_named_and_nothing_else_is(tmp_path: Path, boot: Boot) -> None:
    report = tmp_path / "report"
    program = launcher(
        tmp_path,
        "here = '/proc/self/fd/'\n"
        "fds = {n: os.readlink(here + n) for n in os.listdir(here) if os.path.lexists(here + n)}\n"
        f"json.dump([sys.argv, dict(os.environ), fds, os.getcwd()], open({str(report)!r}, 'w'))\n"
        "print(os.getppid())",
    )
    os.environ["SKERRY_TEST_LEAK"] = "1"
    secret = os.open(tmp_path / "spec", os.O_RDONLY)
    os.set_inheritable(secret, True)
    try:
        sentry = await program.start(boot)
    finally:
        os.close(secret)
        del os.environ["SKERRY_TEST_LEAK"]
    assert sentry.pid == os.getpid()
    argv, environment, fds, cwd = json.loads(report.read_text())
    assert "SKERRY_TEST_LEAK" not in environment
    assert cwd == "/"
    at = argv.index("--")
    options = list(zip(argv[1:at:2], argv[2:at:2], strict=True))
    assert options[:2] == [("--join", f"{tmp_path}/cpu"), ("--join", f"{tmp_path}/memory")]
    assert options[-1] == ("--exe", f"{tmp_path}/runsc")
    passed = [value for option, value in options if option == "--pass"]
    assert set(passed) == {number for number in fds if int(number) > 2}, "nothing of the server leaks into the sandbox"
    assert argv[-1] == "sk-x"
    assert program.mark in argv
    named = dict(word.removeprefix("--").split("=") for word in argv[at + 1 : -1] if "-fd" in word.split("=")[0])
    files = {flag: Path(fds[passed[int(number) - 3]]).name for flag, number in named.items() if number.isdigit()}
    assert files.pop("controller-fd").startswith("socket:")
    assert files == {
        "log-fd": "memfd:skerry-sentry (deleted)",
        "spec-fd": "spec",
        "io-fds": "image",
        "stdio-fds": "memfd:skerry-keeper (deleted)",
        "start-sync-fd": "null",
    }


async def test_the_control_socket_listens_before_the_sentry_is_up(tmp_path: Path, boot: Boot) -> None:
    program = launcher(tmp_path, "os.path.exists('s.sock') or print(os.getppid())")
    await program.start(boot)
    assert stat.S_ISSOCK(boot.control_socket.stat().st_mode)


async def test_what_the_launcher_says_is_the_cause(tmp_path: Path, boot: Boot) -> None:
    program = launcher(tmp_path, "sys.exit('skerry-launch: cannot make new namespaces: No space left on device')")
    with pytest.raises(SentryError, match="cannot make new namespaces: No space left"):
        await program.start(boot)


@pytest.mark.parametrize(("script", "cause"), [("pass", "status 0"), ("print(2**22 + 1)", "ended at once")])
async def test_a_launcher_that_tells_no_living_process_has_started_none(
    tmp_path: Path, boot: Boot, script: str, cause: str
) -> None:
    with pytest.raises(SentryError, match=cause):
        await launcher(tmp_path, script).start(boot)


async def test_giving_up_ends_the_launcher(tmp_path: Path, boot: Boot) -> None:
    pid_file = tmp_path / "pid"
    program = launcher(tmp_path, f"open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(60)")
    starting = asyncio.create_task(program.start(boot))
    async with asyncio.timeout(20):
        while not (pid_file.exists() and pid_file.read_text()):  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.01)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    assert not Path(f"/proc/{pid_file.read_text()}").exists()


async def test_no_descriptor_stays_open_here(tmp_path: Path, boot: Boot) -> None:
    before = os.listdir("/proc/self/fd")
    await launcher(tmp_path, "print(os.getppid())").start(boot)
    assert os.listdir("/proc/self/fd") == before
