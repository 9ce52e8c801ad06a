"""What the engine asks of a node, for every node. The real one runs the same commands from its base image."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

import pytest
from realnode import real_node

from skerry.engine.interfaces import NodeHandle, Output, ProcessHandle, RootImage
from skerry.model import errors
from skerry.model.exits import ProcessExit, ProcessReason, SandboxReason
from skerry.model.ids import ImageId, ProcessId, SandboxId, encode
from skerry.model.nodes import Launch
from skerry.model.sandboxes import FILE_CHANGES
from skerry.model.specs import ExecSpec, SandboxSpec, Terminal
from skerry.testing.clock import VirtualClock, settle
from skerry.testing.ids import CountingIds
from skerry.testing.images import MemoryImages
from skerry.testing.node import FakeNode

DEADLINE_S = 20.0


@dataclass
class Subject:
    """A node under test: how time passes on it, and the image it starts."""

    node: NodeHandle
    image: RootImage
    pass_time: Callable[[float], object]
    ids: CountingIds

    def launch(self, *entrypoint: str, **fields: object) -> Launch:
        spec = SandboxSpec(image=ImageId("im_1"), entrypoint=entrypoint, **fields)  # type: ignore[arg-type]
        return Launch(
            sandbox=SandboxId(self.ids.new("sb")),
            spec=spec,
            image=self.image,
            entrypoint=ProcessId(self.ids.new("pr")) if entrypoint else None,
        )

    async def started(self, *entrypoint: str, **fields: object) -> SandboxId:
        launch = self.launch(*entrypoint, **fields)
        await self.node.start(launch)
        return launch.sandbox

    async def exec(self, sandbox: SandboxId, *argv: str, **fields: object) -> ProcessHandle:
        process = ProcessId(self.ids.new("pr"))
        return await self.node.exec(sandbox, process, ExecSpec(argv=argv, **fields))  # type: ignore[arg-type]


@pytest.fixture(params=["fake", "real"])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    clock, ids = VirtualClock(), CountingIds()
    if request.param == "real":
        image, folder = request.getfixturevalue("base_image"), request.getfixturevalue("tmp_path")
        async with real_node(image, folder) as real, asyncio.timeout(DEADLINE_S):
            yield Subject(real.handle, RootImage(file=image), asyncio.sleep, ids)
        return
    images = MemoryImages(clock=clock, ids=ids)
    async with FakeNode(clock=clock) as node, asyncio.timeout(DEADLINE_S):
        yield Subject(node, images.root(images.add().id), clock.advance, ids)


async def content(output: Output, offset: int = 0) -> bytes:
    """Return a channel's bytes from `offset` to its end, checking that they come without a gap."""
    got = bytearray()
    async for at, chunk in output.follow(offset):
        assert at == offset + len(got)
        got += chunk
    return bytes(got)


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


# Terminals

TERMINAL = {"terminal": Terminal(rows=33, columns=111, term="vt220"), "stderr": "stdout"}


async def test_a_process_at_a_terminal_sees_its_size_and_writes_to_one_channel(subject: Subject) -> None:
    sandbox = await subject.started()
    handle = await subject.exec(sandbox, "stty", "size", **TERMINAL)
    assert handle.view.terminal
    assert await content(handle.output(1)) == b"33 111\r\n"
    assert await content(handle.output(2)) == b""
    assert (await handle.wait()).code == 0


async def test_what_fails_at_a_terminal_says_so_on_its_one_channel(subject: Subject) -> None:
    sandbox = await subject.started()
    handle = await subject.exec(sandbox, "no-such-command", **TERMINAL)
    assert (await content(handle.output(1))).endswith(b"not found\r\n")
    assert (await handle.wait()).code == 127


async def test_the_environment_has_the_type_of_the_terminal_unless_it_says_another(subject: Subject) -> None:
    sandbox = await subject.started()
    told = await subject.exec(sandbox, "env", **TERMINAL)
    assert b"TERM=vt220\r\n" in await content(told.output(1))
    own = await subject.exec(sandbox, "env", env={"TERM": "dumb"}, **TERMINAL)
    assert b"TERM=dumb\r\n" in await content(own.output(1))


async def test_an_entrypoint_may_have_a_terminal(subject: Subject) -> None:
    launch = subject.launch("stty", "size", terminal=TERMINAL["terminal"])
    await subject.node.start(launch)
    assert launch.entrypoint is not None
    handle = subject.node.process(launch.sandbox, launch.entrypoint)
    assert handle.view.terminal
    assert await content(handle.output(1)) == b"33 111\r\n"


async def test_a_terminal_is_resized_while_it_is_there_and_nothing_else_is(subject: Subject) -> None:
    sandbox = await subject.started()
    lasting = await subject.exec(sandbox, "cat", **TERMINAL)
    await lasting.resize(65_535, 1)
    plain = await subject.exec(sandbox, "cat")
    with pytest.raises(errors.ConflictError, match="no terminal"):
        await plain.resize(24, 80)
    await lasting.signal(9)
    await lasting.wait()
    await lasting.resize(24, 80)


# Sandboxes


async def test_what_a_sandbox_asks_for_counts_before_its_start_first_waits(subject: Subject) -> None:
    before = subject.node.view()
    starting = subject.node.start(subject.launch())
    task = asyncio.ensure_future(starting)
    await asyncio.sleep(0)
    after = subject.node.view()
    assert after.sandboxes == before.sandboxes + 1
    assert after.reserved_memory_mib > before.reserved_memory_mib
    await task


async def test_a_started_sandbox_is_running_and_its_stages_are_told(subject: Subject) -> None:
    launch = subject.launch()
    started = await subject.node.start(launch)
    assert started.stages
    assert subject.node.running()[launch.sandbox] == started


async def test_terminating_ends_it_once_and_frees_its_room(subject: Subject) -> None:
    before = subject.node.view()
    sandbox = await subject.started("cat")
    first = await subject.node.terminate(sandbox)
    assert first.reason is SandboxReason.TERMINATED
    assert await subject.node.terminate(sandbox, SandboxReason.EVICTED) == first
    assert sandbox not in subject.node.running()
    assert subject.node.view() == before


async def test_the_exit_of_the_entrypoint_ends_the_sandbox_with_its_code(subject: Subject) -> None:
    sandbox = await subject.started("false")
    ended = await subject.node.wait_ended(sandbox)
    assert (ended.sandbox, ended.exit.reason, ended.exit.code) == (sandbox, SandboxReason.EXITED, 1)


async def test_a_lifetime_ends_the_sandbox(subject: Subject) -> None:
    sandbox = await subject.started("cat", lifetime_s=2.0)
    waiting = asyncio.ensure_future(subject.node.wait_ended(sandbox))
    await settle()
    assert not waiting.done()
    await subject.pass_time(2.0)
    assert (await waiting).exit.reason is SandboxReason.LIFETIME


async def test_a_sandbox_that_nobody_uses_ends_at_its_idle_timeout(subject: Subject) -> None:
    sandbox = await subject.started("cat", idle_timeout_s=1.0)  # its own entrypoint is no use of it
    assert subject.node.idle_since(sandbox) is not None
    waiting = asyncio.ensure_future(subject.node.wait_ended(sandbox))
    await settle()
    assert not waiting.done()
    await subject.pass_time(1.0)
    assert (await waiting).exit.reason is SandboxReason.IDLE_TIMEOUT
    assert subject.node.idle_since(sandbox) is None
    with pytest.raises(errors.SandboxEndedError):
        await subject.exec(sandbox, "true")


async def test_a_running_exec_and_whatever_is_told_to_be_a_use_keep_a_sandbox(subject: Subject) -> None:
    sandbox = await subject.started(idle_timeout_s=1.0)
    with subject.node.use(sandbox):
        assert subject.node.idle_since(sandbox) is None
        await subject.pass_time(1.5)
        process = await subject.exec(sandbox, "cat")
    await settle()
    assert subject.node.idle_since(sandbox) is None
    await subject.pass_time(1.5)
    assert sandbox in subject.node.running()
    await process.end_stdin()
    assert (await process.wait()).code == 0
    await settle()
    assert subject.node.idle_since(sandbox) is not None
    await subject.pass_time(1.0)
    assert (await subject.node.wait_ended(sandbox)).exit.reason is SandboxReason.IDLE_TIMEOUT


async def test_without_an_idle_timeout_the_time_is_told_and_ends_nothing(subject: Subject) -> None:
    sandbox = await subject.started()
    since = subject.node.idle_since(sandbox)
    assert since is not None
    await subject.pass_time(1.0)
    assert subject.node.idle_since(sandbox) == since
    assert sandbox in subject.node.running()


async def test_every_end_is_told_once_to_whoever_listens(subject: Subject) -> None:
    first = await subject.started("cat")
    await subject.node.terminate(first)
    ends = subject.node.ended_since_start()
    assert (await anext(ends)).sandbox == first
    second = await subject.started("cat")
    await subject.node.terminate(second)
    assert (await anext(ends)).sandbox == second


async def test_what_was_never_here_is_not_found(subject: Subject) -> None:
    nobody = SandboxId(encode("sb", 12345678))
    for call in (subject.node.processes, subject.node.files):
        with pytest.raises(errors.NotFoundError):
            call(nobody)
    for wait in (subject.node.terminate, subject.node.wait_ended):
        with pytest.raises(errors.NotFoundError):
            await wait(nobody)
    sandbox = await subject.started()
    with pytest.raises(errors.NotFoundError):
        subject.node.process(sandbox, ProcessId(encode("pr", 1)))


async def test_output_outlives_the_sandbox_until_it_is_forgotten(subject: Subject) -> None:
    sandbox = await subject.started()
    process = await subject.exec(sandbox, "echo", "kept")
    await process.wait()
    await subject.node.terminate(sandbox)
    (found,) = subject.node.processes(sandbox)
    assert await content(found.output(1)) == b"kept\n"
    assert set(subject.node.kept()) == {sandbox}
    subject.node.forget(sandbox)
    assert not subject.node.kept()
    with pytest.raises(errors.NotFoundError):
        subject.node.processes(sandbox)


# Processes


async def test_two_who_write_stdin_are_told_apart(subject: Subject) -> None:
    process = await subject.exec(await subject.started(), "cat")
    await process.write_stdin(0, b"first\n", known=0)
    assert process.stdin_sent == 6
    await process.write_stdin(6, b"second\n", known=6)
    with pytest.raises(errors.ConflictError, match="somebody else") as caught:
        await process.write_stdin(6, b"lost\n", known=6)
    assert caught.value.details["writer"] == "other"
    await process.write_stdin(6, b"second\n", known=13)  # a repetition by who has written it
    await process.end_stdin()
    assert await content(process.output(1)) == b"first\nsecond\n"


async def test_what_a_sandbox_takes_is_told_while_it_runs(subject: Subject) -> None:
    sandbox, other = await subject.started(), await subject.started()
    files = subject.node.files(sandbox)
    await files.write("/data/file", chunks(bytes(3 << 20)))
    running = [await subject.exec(sandbox, "cat") for _ in range(2)]
    (usage,) = await subject.node.usage([sandbox])
    assert (usage.id, usage.processes) == (sandbox, 2)
    assert usage.file_bytes is not None
    assert usage.file_bytes >= 3 << 20
    both = await subject.node.usage([sandbox, other, SandboxId(encode("sb", 12345678))])
    assert {one.id for one in both} == {sandbox, other}
    assert all(one.cpu_seconds >= 0 for one in both)
    await running[0].signal(9)
    await subject.node.terminate(sandbox)
    assert await subject.node.usage([sandbox]) == []


async def test_output_has_its_times_to_the_second_and_can_be_read_without_being_followed(subject: Subject) -> None:
    process = await subject.exec(await subject.started(), "echo", "0123456789")
    await process.wait()
    output = process.output(1)
    async with asyncio.timeout(DEADLINE_S):
        assert await content(output) == b"0123456789\n"
    assert await output.read_old(4, 3) == (4, b"456")
    assert await output.read_old(11, 3) == (11, b"")
    began = process.view.started_at
    ((offset, when),) = output.times(4)
    assert (offset, abs(when - began) <= 1.0) == (4, True)
    assert (output.offset_at(began - 60.0), output.offset_at(began + 60.0)) == (0, 11)


async def test_a_process_has_its_output_on_two_channels_and_its_exit(subject: Subject) -> None:
    sandbox = await subject.started()
    process = await subject.exec(sandbox, "cat", "/no/such/file")
    assert await process.wait() == ProcessExit(reason=ProcessReason.EXITED, code=1)
    assert await content(process.output(1)) == b""
    assert b"/no/such/file" in await content(process.output(2))
    assert process.view.exit == await process.wait()
    assert process.view.argv == ("cat", "/no/such/file")


async def test_a_command_that_does_not_exist_exits_with_127_and_says_so(subject: Subject) -> None:
    process = await subject.exec(await subject.started(), "no-such-command")
    assert (await process.wait()).code == 127
    assert b"no-such-command" in await content(process.output(2))


async def test_output_is_addressed_by_offset(subject: Subject) -> None:
    process = await subject.exec(await subject.started(), "echo", "0123456789")
    await process.wait()
    output = process.output(1)
    assert await content(output, 4) == b"456789\n"
    assert await content(output, 11) == b""
    assert (output.base, output.end, output.ended) == (0, 11, True)


async def test_stdout_and_stderr_can_be_one_channel(subject: Subject) -> None:
    process = await subject.exec(await subject.started(), "cat", "/no/such/file", stderr="stdout")
    await process.wait()
    assert b"/no/such/file" in await content(process.output(1))
    assert await content(process.output(2)) == b""


async def test_an_output_that_nobody_wants_is_empty_and_ended(subject: Subject) -> None:
    process = await subject.exec(await subject.started(), "echo", "x", stdout="null")
    await process.wait()
    assert await content(process.output(1)) == b""


async def test_stdin_reaches_the_process_and_is_acknowledged(subject: Subject) -> None:
    process = await subject.exec(await subject.started(), "cat")
    assert await process.write_stdin(0, b"hel") <= 3
    assert await process.write_stdin(3, memoryview(b"lo")) <= 5
    assert process.stdin_acknowledged <= 5
    await process.end_stdin()
    assert (await process.wait()).code == 0
    assert await content(process.output(1)) == b"hello"


async def test_stdin_bytes_that_were_taken_are_dropped_when_they_come_again(subject: Subject) -> None:
    process = await subject.exec(await subject.started(), "cat")
    await process.write_stdin(0, b"abc")
    assert await process.write_stdin(1, b"bcd") <= 4
    await process.end_stdin()
    await process.wait()
    assert await content(process.output(1)) == b"abcd"


async def test_a_gap_in_stdin_is_refused(subject: Subject) -> None:
    process = await subject.exec(await subject.started(), "cat")
    with pytest.raises(errors.ConflictError):
        await process.write_stdin(5, b"x")


async def test_stdin_after_its_end_is_refused(subject: Subject) -> None:
    process = await subject.exec(await subject.started(), "sleep", "1000")
    await process.end_stdin()
    with pytest.raises(errors.ConflictError):
        await process.write_stdin(0, b"x")
    await process.signal(9)


async def test_a_process_without_stdin_reads_its_end_at_once(subject: Subject) -> None:
    process = await subject.exec(await subject.started(), "cat", stdin="null")
    assert (await process.wait()).code == 0


@pytest.mark.parametrize(("number", "reason"), [(9, ProcessReason.KILLED), (15, ProcessReason.SIGNALED)])
async def test_a_deadly_signal_is_the_reason_of_the_end(subject: Subject, number: int, reason: ProcessReason) -> None:
    process = await subject.exec(await subject.started(), "sleep", "1000")
    await process.signal(number)
    end = await process.wait()
    assert (end.signal, end.reason) == (number, reason)
    await process.signal(number)
    assert process.view.exit == end


async def test_a_timeout_kills(subject: Subject) -> None:
    process = await subject.exec(await subject.started(), "sleep", "1000", timeout_s=1.0)
    waiting = asyncio.ensure_future(process.wait())
    await settle()
    await subject.pass_time(1.0)
    assert (await waiting).reason is ProcessReason.TIMEOUT


async def test_the_end_of_the_sandbox_ends_its_processes_and_their_channels(subject: Subject) -> None:
    sandbox = await subject.started()
    process = await subject.exec(sandbox, "sleep", "1000")
    reading = asyncio.ensure_future(content(process.output(1)))
    await subject.node.terminate(sandbox)
    assert (await process.wait()).reason is ProcessReason.SANDBOX_ENDED
    assert await reading == b""


async def test_a_process_id_that_exists_finds_that_process(subject: Subject) -> None:
    sandbox = await subject.started()
    process = ProcessId(subject.ids.new("pr"))
    first = await subject.node.exec(sandbox, process, ExecSpec(argv=("cat",)))
    again = await subject.node.exec(sandbox, process, ExecSpec(argv=("cat",)))
    assert first.view == again.view
    assert len(subject.node.processes(sandbox)) == 1
    assert subject.node.process(sandbox, process).view == first.view


async def test_exec_in_an_ended_sandbox_is_refused(subject: Subject) -> None:
    sandbox = await subject.started()
    await subject.node.terminate(sandbox)
    with pytest.raises(errors.SandboxEndedError):
        await subject.exec(sandbox, "true")
    with pytest.raises(errors.SandboxEndedError):
        subject.node.files(sandbox)


async def test_environment_and_workdir_are_laid_over_those_of_sandbox_and_image(subject: Subject) -> None:
    subject.image = replace(subject.image, config=replace(subject.image.config, env={"A": "image", "B": "image"}))
    sandbox = await subject.started(env={"B": "sandbox", "C": "sandbox"})
    process = await subject.exec(sandbox, "env", env={"C": "exec"})
    await process.wait()
    lines = (await content(process.output(1))).decode().splitlines()
    assert {"A=image", "B=sandbox", "C=exec"} <= set(lines)
    where = await subject.exec(sandbox, "pwd", workdir="/tmp")
    assert await content(where.output(1)) == b"/tmp\n"


# Files


async def test_a_file_comes_back_as_it_was_written(subject: Subject) -> None:
    files = subject.node.files(await subject.started())
    assert await files.write("/tmp/new/file", chunks(b"ab", b"", b"cd"), mode=0o600) == 4
    reading = await files.read("/tmp/new/file", offset=1, length=2)
    assert reading.size == 2
    assert b"".join([bytes(part) async for part in reading.chunks()]) == b"bc"
    await reading.close()
    entry = await files.stat("/tmp/new/file")
    assert (entry.type, entry.size, entry.permissions) == ("file", 4, "0600")
    assert await files.write("/tmp/new/file", chunks(b"ef"), append=True) == 6


async def test_an_interrupted_write_leaves_the_old_file(subject: Subject) -> None:
    files = subject.node.files(await subject.started())
    await files.write("/tmp/file", chunks(b"old"))

    async def breaks() -> AsyncIterator[bytes]:
        yield b"new"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await files.write("/tmp/file", breaks())
    reading = await files.read("/tmp/file")
    assert b"".join([bytes(part) async for part in reading.chunks()]) == b"old"


async def test_directories_are_made_listed_and_removed(subject: Subject) -> None:
    files = subject.node.files(await subject.started())
    await files.make_directory("/tmp/a/b")
    await files.write("/tmp/a/c", chunks(b"x"))
    assert sorted([(entry.name, entry.path, entry.type) async for entry in files.list("/tmp/a")]) == [
        ("b", "/tmp/a/b", "directory"),
        ("c", "/tmp/a/c", "file"),
    ]
    with pytest.raises(errors.SandboxFilesystemDirectoryNotEmptyError):
        await files.remove("/tmp/a")
    await files.remove("/tmp/a", recursive=True)
    with pytest.raises(errors.SandboxFilesystemNotFoundError):
        await files.stat("/tmp/a")


async def test_each_wrong_kind_of_path_has_its_own_error(subject: Subject) -> None:
    files = subject.node.files(await subject.started())
    await files.write("/tmp/file", chunks(b"x"))
    with pytest.raises(errors.SandboxFilesystemIsADirectoryError):
        await files.read("/tmp")
    with pytest.raises(errors.SandboxFilesystemNotFoundError):
        await files.read("/tmp/none")
    with pytest.raises(errors.SandboxFilesystemNotFoundError):
        await files.write("/tmp/none/file", chunks(b"x"), parents=False)
    with pytest.raises(errors.SandboxFilesystemNotADirectoryError):
        await files.write("/tmp/file/below", chunks(b"x"))
    with pytest.raises(errors.SandboxFilesystemNotADirectoryError):
        [entry async for entry in files.list("/tmp/file")]
    with pytest.raises(errors.SandboxFilesystemPathAlreadyExistsError):
        await files.make_directory("/tmp/file")
    with pytest.raises(errors.SandboxFilesystemPathAlreadyExistsError):
        await files.make_directory("/tmp", parents=False)
    with pytest.raises(errors.SandboxFilesystemNotFoundError):
        await files.remove("/tmp/none")


async def test_a_file_and_a_folder_get_another_name(subject: Subject) -> None:
    files = subject.node.files(await subject.started())
    await files.write("/tmp/a/file", chunks(b"x"))
    await files.write("/tmp/old", chunks(b"y"))
    await files.rename("/tmp/a", "/tmp/b")
    await files.rename("/tmp/b/file", "/tmp/old")
    assert (await files.stat("/tmp/old")).size == 1
    assert [entry.name async for entry in files.list("/tmp/b")] == []
    for path, target, wrong in (
        ("/tmp/none", "/tmp/c", errors.SandboxFilesystemNotFoundError),
        ("/tmp/old", "/tmp/none/c", errors.SandboxFilesystemNotFoundError),
        ("/tmp/old", "/tmp/b", errors.SandboxFilesystemIsADirectoryError),
        ("/tmp/b", "/tmp/old", errors.SandboxFilesystemNotADirectoryError),
        ("/tmp/b", "/tmp/b/c", errors.InvalidError),
    ):
        with pytest.raises(wrong):
            await files.rename(path, target)


async def test_changes_of_a_watched_folder_are_told_until_the_timeout(subject: Subject) -> None:
    files = subject.node.files(await subject.started())
    await files.make_directory("/tmp/seen/below")
    watching = await files.watch("/tmp/seen", kinds=FILE_CHANGES - {"access", "modify"}, timeout_s=3.0)
    await files.make_directory("/tmp/seen/new")
    await files.make_directory("/tmp/seen/below/unseen")
    await files.make_directory("/tmp/unseen")
    await files.rename("/tmp/seen/new", "/tmp/seen/other")
    await files.rename("/tmp/seen/other", "/tmp/gone")
    await files.remove("/tmp/seen/below", recursive=True)
    await subject.pass_time(3.5)
    assert [(change.kind, change.paths) async for change in watching.changes()] == [
        ("create", ("/tmp/seen/new",)),
        ("move", ("/tmp/seen/new", "/tmp/seen/other")),
        ("move", ("/tmp/seen/other",)),
        ("remove", ("/tmp/seen/below",)),
    ]
    await watching.close()


async def test_a_recursive_watch_sees_folders_that_come_later(subject: Subject) -> None:
    files = subject.node.files(await subject.started())
    await files.make_directory("/tmp/seen")
    watching = await files.watch("/tmp/seen", recursive=True, kinds={"create", "move"})
    changes = watching.changes()
    await files.make_directory("/tmp/seen/a")
    assert (await anext(changes)).paths == ("/tmp/seen/a",)
    await files.make_directory("/tmp/seen/a/b")
    assert (await anext(changes)).paths == ("/tmp/seen/a/b",)
    await files.rename("/tmp/seen/a", "/tmp/seen/z")
    assert (await anext(changes)).paths == ("/tmp/seen/a", "/tmp/seen/z")
    await files.make_directory("/tmp/seen/z/b/c")
    assert (await anext(changes)).paths == ("/tmp/seen/z/b/c",)
    await watching.close()


async def test_what_a_watch_loses_because_nobody_reads_is_told(subject: Subject) -> None:
    files = subject.node.files(await subject.started())
    await files.make_directory("/tmp/seen")
    watching = await files.watch("/tmp/seen", kinds={"create", "remove"})
    for _ in range(600):
        await files.make_directory(f"/tmp/seen/{'x' * 255}")
        await files.remove(f"/tmp/seen/{'x' * 255}")
        await files.make_directory(f"/tmp/seen/{'y' * 255}")
        await files.remove(f"/tmp/seen/{'y' * 255}")
    told = 0
    async for change in watching.changes():
        told += 1
        if change.kind == "overflow":
            assert change.paths == ("/tmp/seen",)
            break
    assert told <= 2400
    await watching.close()


async def test_what_is_not_there_cannot_be_watched(subject: Subject) -> None:
    files = subject.node.files(await subject.started())
    with pytest.raises(errors.SandboxFilesystemNotFoundError):
        await files.watch("/tmp/none", kinds=FILE_CHANGES)


async def test_a_tree_is_copied_out_and_in_again(subject: Subject) -> None:
    files = subject.node.files(await subject.started())
    await files.write("/tmp/a/tool", chunks(b"ab", b"cd"), mode=0o751)
    await files.make_directory("/tmp/a/b")
    reading = await files.pack("/tmp/a")
    stream = b"".join([bytes(chunk) async for chunk in reading.chunks()])
    await reading.close()
    done = await files.unpack("/tmp", chunks(stream[:7], stream[7:]), name="copy")
    assert (done.path, done.entries, done.size) == ("/tmp/copy", 3, 4)
    assert (await files.stat("/tmp/copy/tool")).permissions == "0751"
    assert (await files.unpack("/tmp/new/place", chunks(stream))).path == "/tmp/new/place"
    assert sorted([entry.name async for entry in files.list("/tmp/new/place")]) == ["b", "tool"]


async def test_trees_that_cannot_be_copied_have_their_errors(subject: Subject) -> None:
    files = subject.node.files(await subject.started())
    await files.write("/tmp/file", chunks(b"x"))
    reading = await files.pack("/tmp/file")
    stream = b"".join([bytes(chunk) async for chunk in reading.chunks()])
    with pytest.raises(errors.SandboxFilesystemNotFoundError):
        await files.pack("/tmp/none")
    with pytest.raises(errors.SandboxFilesystemIsADirectoryError):
        await files.unpack("/tmp", chunks(stream))
    with pytest.raises(errors.SandboxFilesystemNotADirectoryError):
        await files.unpack("/tmp/file/below", chunks(stream))
    with pytest.raises(errors.SandboxFilesystemNotFoundError):
        await files.unpack("/tmp/none/below", chunks(stream), parents=False)
    with pytest.raises(errors.InvalidError):
        await files.unpack("/tmp/bad", chunks(b"no tree at all"))
