"""A real sandbox on a real host: what runs, what ends it, and that its end has the right reason."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from realnode import IDS, RealNode, read

from skerry.model.errors import (
    ConflictError,
    InvalidError,
    SandboxEndedError,
    SandboxFilesystemIsADirectoryError,
    SandboxFilesystemNoSpaceError,
    SandboxFilesystemNotFoundError,
)
from skerry.model.exits import ProcessReason, SandboxReason
from skerry.model.ids import PROCESS, ProcessId
from skerry.model.specs import ExecSpec, Resources
from skerry.node import watches


async def test_a_command_writes_to_both_channels_and_gives_its_code(node: RealNode) -> None:
    box = await node.start()
    assert await node.run(box, "sh", "-c", "echo out; echo err >&2; exit 3") == (3, "out\n", "err\n")


async def test_the_entrypoint_ends_the_sandbox_with_its_code_and_all_its_output(node: RealNode) -> None:
    box = await node.start("sh", "-c", "seq 200000; exit 7")
    ended = await node.handle.wait_ended(box)
    assert (ended.exit.reason, ended.exit.code) == (SandboxReason.EXITED, 7)
    (process,) = node.handle.processes(box)
    assert await read(process, 1) == b"".join(b"%d\n" % number for number in range(1, 200001))


async def test_stdin_reaches_the_process_and_its_end_too(node: RealNode) -> None:
    box = await node.start()
    process = await node.exec(box, "cat")
    assert await process.write_stdin(0, b"one") >= 0
    await process.write_stdin(3, b"two")
    await process.end_stdin()
    assert await read(process, 1) == b"onetwo"
    assert (await process.wait()).code == 0


async def test_a_process_id_that_is_repeated_starts_nothing(node: RealNode) -> None:
    box = await node.start()
    identifier = ProcessId(IDS.new(PROCESS))
    spec = ExecSpec(argv=("sh", "-c", "echo once >> /tmp/log"))
    first = await node.handle.exec(box, identifier, spec)
    assert await node.handle.exec(box, identifier, spec) is first
    await first.wait()
    assert (await node.run(box, "cat", "/tmp/log"))[1] == "once\n"


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (("no-such-command",), 127, "not found"),
        (("/etc/hostname",), 126, "ermission denied"),
        (("/nowhere/at/all",), 127, "not found"),
    ],
)
async def test_a_command_that_cannot_run_says_so_like_a_shell(
    node: RealNode, command: tuple[str, ...], code: int, words: str
) -> None:
    box = await node.start()
    returned, out, err = await node.run(box, *command)
    assert (returned, out) == (code, "")
    assert words in err


async def test_a_working_directory_that_is_not_there_is_named(node: RealNode) -> None:
    box = await node.start()
    with pytest.raises(ConflictError, match="/nowhere"):
        await node.exec(box, "pwd", workdir="/nowhere")


async def test_a_timeout_ends_everything_that_a_command_left_behind(node: RealNode) -> None:
    box = await node.start()
    escape = "setsid sh -c 'env -i sleep 1000 & env -i sleep 1000 & wait' & sleep 1000"
    process = await node.exec(box, "sh", "-c", escape, timeout_s=1.0)
    end = await process.wait()
    assert (end.reason, end.signal) == (ProcessReason.TIMEOUT, signal.SIGKILL)
    for _ in range(100):
        _, listing, _ = await node.run(box, "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
        if "1000" not in listing.replace("cmdline", ""):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"still there: {listing}")


async def test_a_timeout_returns_at_the_deadline_even_if_the_pipe_is_held(node: RealNode) -> None:
    box = await node.start()
    process = await node.exec(box, "sh", "-c", "sleep 1000 & exec sleep 1000", timeout_s=0.5)
    async with asyncio.timeout(5):
        assert (await process.wait()).reason is ProcessReason.TIMEOUT


async def test_a_background_process_does_not_delay_the_exit(node: RealNode) -> None:
    box = await node.start()
    process = await node.exec(box, "sh", "-c", "sleep 30 & exit 4")
    async with asyncio.timeout(5):
        assert (await process.wait()).code == 4


async def test_what_goes_on_writing_in_the_background_does_not_keep_a_sandbox_alive(node: RealNode) -> None:
    box = await node.start("sh", "-c", "(while :; do echo x; sleep 0.05; done) & echo first; exit 5")
    async with asyncio.timeout(10):
        ended = await node.handle.wait_ended(box)
    assert (ended.exit.reason, ended.exit.code) == (SandboxReason.EXITED, 5)
    (process,) = node.handle.processes(box)
    assert (await read(process, 1)).startswith(b"first\n")


async def test_an_exec_that_is_refused_leaves_nothing_and_may_be_repeated(node: RealNode) -> None:
    box = await node.start()
    identifier = ProcessId(IDS.new(PROCESS))
    spec = ExecSpec(argv=("pwd",), workdir="/later")
    both = await asyncio.gather(*(node.handle.exec(box, identifier, spec) for _ in range(2)), return_exceptions=True)
    assert [type(each) for each in both] == [ConflictError, ConflictError]
    assert node.handle.processes(box) == []
    await node.handle.files(box).make_directory("/later")
    process = await node.handle.exec(box, identifier, spec)
    assert await read(process, 1) == b"/later\n"


async def test_an_exec_whose_caller_goes_away_is_found_by_a_repeat(node: RealNode) -> None:
    box = await node.start()
    identifier, spec = ProcessId(IDS.new(PROCESS)), ExecSpec(argv=("echo", "once"))
    first = asyncio.ensure_future(node.handle.exec(box, identifier, spec))
    await asyncio.sleep(0)
    first.cancel()
    async with asyncio.timeout(10):
        process = await node.handle.exec(box, identifier, spec)
        assert await read(process, 1) == b"once\n"


async def test_an_environment_that_is_too_large_in_all_is_refused_and_the_sandbox_lives(node: RealNode) -> None:
    large = {f"V{number}": "x" * 1000 for number in range(70)}
    box = await node.start(env=large)
    with pytest.raises(InvalidError, match="environment of 'true' has"):
        await node.exec(box, "true", env={name.lower(): value for name, value in large.items()})
    assert (await node.run(box, "true"))[0] == 0


async def test_a_process_killed_by_hand_after_a_memory_kill_is_told_apart(node: RealNode) -> None:
    box = await node.start(resources=Resources(memory_limit_mib=128))
    bystander = await node.exec(box, "sleep", "4321")
    bomb = "b=[]\nwhile True: b.append(bytearray(b'x' * (8 << 20)))"
    bombed = await (await node.exec(box, "python3", "-c", bomb)).wait()
    assert bombed.reason is ProcessReason.OUT_OF_MEMORY
    await node.run(box, "pkill", "-9", "-f", "sleep 4321")
    assert (await bystander.wait()).reason is ProcessReason.SIGNALED


async def test_a_signal_of_ours_kills_and_one_of_its_own_is_told_apart(node: RealNode) -> None:
    box = await node.start()
    ours = await node.exec(box, "sleep", "1000")
    await ours.signal(signal.SIGKILL)
    assert (await ours.wait()).reason is ProcessReason.KILLED
    own = await node.exec(box, "sh", "-c", "kill -TERM $$")
    end = await own.wait()
    assert (end.reason, end.returncode) == (ProcessReason.SIGNALED, 128 + signal.SIGTERM)


async def test_files_go_in_and_out_unchanged(node: RealNode) -> None:
    box = await node.start()
    files = node.handle.files(box)
    content = os.urandom(3 << 20)

    async def chunks():  # type: ignore[no-untyped-def]
        for at in range(0, len(content), 100_000):
            yield content[at : at + 100_000]

    assert await files.write("/data/deep/file", chunks()) == len(content)
    reading = await files.read("/data/deep/file")
    assert reading.size == len(content)
    assert b"".join([bytes(chunk) async for chunk in reading.chunks()]) == content
    assert [entry.name async for entry in files.list("/data/deep")] == ["file"]
    await files.make_directory("/data/other")
    await files.remove("/data", recursive=True)
    with pytest.raises(SandboxFilesystemNotFoundError, match="/data"):
        await files.stat("/data")


async def test_reading_a_directory_and_a_pipe_is_refused(node: RealNode) -> None:
    box = await node.start()
    files = node.handle.files(box)
    with pytest.raises(SandboxFilesystemIsADirectoryError):
        await files.read("/etc")
    await node.run(box, "mkfifo", "/tmp/fifo")
    with pytest.raises(Exception, match="/tmp/fifo"):
        async with asyncio.timeout(5):
            await files.read("/tmp/fifo")


async def test_a_full_disk_is_an_error_and_the_sandbox_lives(node: RealNode) -> None:
    box = await node.start(resources=Resources(disk_mib=64, tmp_mib=16, shm_mib=8))
    for path in ("/root/big", "/tmp/big", "/dev/shm/big"):
        code, _, err = await node.run(box, "dd", "if=/dev/zero", f"of={path}", "bs=1M", "count=200")
        assert code == 1
        assert "No space left" in err

    async def endless():  # type: ignore[no-untyped-def]
        for _ in range(200):
            yield bytes(1 << 20)

    with pytest.raises(SandboxFilesystemNoSpaceError, match="larger disk"):
        await node.handle.files(box).write("/root/more", endless())
    assert (await node.run(box, "echo", "alive"))[1] == "alive\n"


async def test_terminate_ends_processes_with_the_sandboxs_reason_and_may_be_repeated(node: RealNode) -> None:
    box = await node.start()
    process = await node.exec(box, "sleep", "1000")
    first = await node.handle.terminate(box)
    assert first.reason is SandboxReason.TERMINATED
    assert await node.handle.terminate(box) == first
    assert (await process.wait()).reason is ProcessReason.SANDBOX_ENDED
    with pytest.raises(SandboxEndedError, match="terminated"):
        await node.exec(box, "true")


async def test_the_lifetime_ends_a_sandbox(node: RealNode) -> None:
    box = await node.start(lifetime_s=1.0)
    ended = await node.handle.wait_ended(box)
    assert (ended.exit.reason, ended.exit.returncode) == (SandboxReason.LIFETIME, 124)


async def test_a_killed_sentry_is_told_as_a_broken_guest(node: RealNode) -> None:
    box = await node.start()
    (record,) = [each for each in node.machinery.records.all() if not isinstance(each, str)]
    os.kill(record.member.pid, signal.SIGKILL)
    ended = await node.handle.wait_ended(box)
    assert ended.exit.reason is SandboxReason.GUEST_BROKEN
    assert "kernel" in ended.exit.evidence


async def test_a_timeout_is_told_even_if_the_kernel_of_the_sandbox_is_stopped(node: RealNode) -> None:
    box = await node.start()
    process = await node.exec(box, "sleep", "1000", timeout_s=0.2)
    stop_sentry(node)
    async with asyncio.timeout(10):
        assert (await process.wait()).reason is ProcessReason.TIMEOUT


async def test_an_agent_that_gives_no_sign_ends_its_sandbox(node: RealNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "PULSE_EVERY_S", 0.05)
    monkeypatch.setattr(watches, "PULSE_S", 0.5)
    box = await node.start()
    waiting = await node.exec(box, "sleep", "1000")
    stop_sentry(node)
    async with asyncio.timeout(20):
        with pytest.raises(SandboxEndedError):
            await node.exec(box, "true")
        ended = await node.handle.wait_ended(box)
        assert (await waiting.wait()).reason is ProcessReason.SANDBOX_ENDED
    assert ended.exit.reason is SandboxReason.GUEST_BROKEN
    assert "no answer" in ended.exit.evidence


async def test_a_lifetime_holds_even_if_the_kernel_of_the_sandbox_is_stopped(
    node: RealNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watches, "LIFETIME_GRACE_S", 0.1)
    box = await node.start(lifetime_s=1.0)
    stop_sentry(node)
    async with asyncio.timeout(10):
        assert (await node.handle.wait_ended(box)).exit.reason is SandboxReason.LIFETIME


def stop_sentry(node: RealNode) -> None:
    """Stop the kernel of the only sandbox of a node, as one that hangs."""
    (record,) = [each for each in node.machinery.records.all() if not isinstance(each, str)]
    os.kill(record.member.pid, signal.SIGSTOP)


async def test_guests_cannot_end_their_first_process(node: RealNode) -> None:
    box = await node.start()
    await node.run(box, "sh", "-c", "kill -9 1; kill -TERM 1; kill -STOP 1")
    assert (await node.run(box, "echo", "alive"))[1] == "alive\n"


async def test_a_memory_bomb_is_out_of_memory_and_the_neighbour_lives(node: RealNode) -> None:
    neighbour = await node.start()
    box = await node.start(resources=Resources(memory_limit_mib=128))
    bomb = "b=[]\nwhile True: b.append(bytearray(b'x' * (8 << 20)))"
    process = await node.exec(box, "python3", "-c", bomb)
    end = await process.wait()
    assert end.reason is ProcessReason.OUT_OF_MEMORY
    assert (await node.run(neighbour, "echo", "alive"))[1] == "alive\n"


async def test_a_fork_bomb_harms_only_itself(node: RealNode) -> None:
    box = await node.start(resources=Resources(processes=128))
    process = await node.exec(box, "bash", "-c", ":(){ :|:& };:; sleep 2; true", timeout_s=3.0)
    async with asyncio.timeout(30):
        await process.wait()
        assert (await node.run(box, "echo", "alive"))[1] == "alive\n"


async def test_sudo_works_for_the_unprivileged_user(node: RealNode) -> None:
    box = await node.start()
    assert (await node.run(box, "sh", "-c", "id -u; sudo id -u", user="user"))[1] == "1000\n0\n"
    code, _, _ = await node.run(box, "sudo", "id", "-u", user="user", no_new_privileges=True)
    assert code != 0
