"""What bad input gets: the exception that a Modal user expects, its code, and a message that names the thing, the cause
and the next step. The sandbox goes on, and nothing is left behind."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
from realserver import Server

import skerry
from skerry import Image, Sandbox
from skerry.exception import (
    ConflictError,
    Error,
    ImageBuildError,
    InvalidError,
    NotFoundError,
    SandboxEndedError,
    SandboxFilesystemIsADirectoryError,
    SandboxFilesystemNoSpaceError,
    SandboxFilesystemNotFoundError,
    SandboxTerminatedError,
)
from skerry.model import limits

NOBODY = "im_0000000000000000zzzz"


@pytest.fixture(autouse=True)
def served(shared: Server) -> Server:
    return shared


@pytest.fixture(scope="module")
def box(shared: Server) -> Iterator[Sandbox]:
    """One sandbox for all tests that it must survive."""
    with Sandbox.create(block_network=True) as sandbox:
        yield sandbox


def refusal(kind: type[Error], call: Callable[[], object]) -> str:
    """Return the message of the error of exactly this kind, once its code is known to be the kind's."""
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    assert caught.value.code == kind.code
    return str(caught.value)


def alive(box: Sandbox) -> bool:
    return box.exec("echo", "alive").stdout.read() == "alive\n"


# Create


@pytest.mark.parametrize(
    ("asked", "named", "next_step"),
    [
        ({"timeout": 0}, "timeout=0", "more than 0 and at most 86400"),
        ({"timeout": -1}, "timeout=-1", "more than 0 and at most 86400"),
        ({"timeout": 86401}, "timeout=86401", "more than 0 and at most 86400"),
        ({"timeout": math.nan}, "timeout=nan", "no number of seconds"),
        ({"workdir": "data"}, "workdir 'data' is relative", "such as '/data'"),
        ({"memory": -1}, "memory=-1", "not negative"),
        ({"memory": 1}, "memory=1", f"at least {limits.MEMORY_MIN_MIB} MiB"),
        ({"memory": 10**9}, "1000000000", "ask for at most that"),
        ({"memory": (512, 256)}, "memory=(512, 256)", "limit not below its request"),
        ({"cpu": -1}, "cpu=-1", "not negative"),
        ({"cpu": 1000}, "1000 cores, but the machine has", "ask for at most that"),
        ({"cpu": (0.5, 1000)}, "1000 cores, but the machine has", "ask for at most that"),
        ({"env": {"A=B": "1"}}, "env key 'A=B'", "without '=' and NUL"),
        ({"env": {"A\0": "1"}}, r"env key 'A\x00'", "without '=' and NUL"),
        ({"env": {"A": "1\0"}}, "env['A'] holds a NUL", "no program can receive"),
        ({"env": {"A": "x" * limits.ENV_BYTES}}, "the environment has", f"at most {limits.ENV_BYTES}"),
        ({"isolation": "none"}, "isolation='none'", "there is 'gvisor'"),
    ],
)
def test_a_create_that_cannot_be_is_refused_with_the_bound(
    served: Server, asked: dict[str, object], named: str, next_step: str
) -> None:
    before = len(served.sentries())
    message = refusal(InvalidError, lambda: Sandbox.create(block_network=True, **asked))  # type: ignore[arg-type]
    assert named in message
    assert next_step in message
    assert len(served.sentries()) == before


async def test_an_image_that_does_not_exist_is_named() -> None:
    connection = await skerry.client.client.resolve(None).connection()
    with pytest.raises(NotFoundError, match=f"image {NOBODY} does not exist here; build it again") as caught:
        await connection.call("POST", "/v1/sandboxes", body={"image": NOBODY})
    assert caught.value.code == "not_found"


def test_an_image_that_vanished_is_built_again_for_a_program_that_holds_it(served: Server) -> None:
    image = Image.debian_slim().run_commands("echo made > /made").build()
    (served.data / "images" / f"{image.object_id}.erofs").unlink()
    with Sandbox.create(image=image, block_network=True) as sandbox:
        assert sandbox.filesystem.read_text("/made") == "made\n"


def test_a_python_that_the_mirror_does_not_have_names_those_that_exist() -> None:
    message = refusal(InvalidError, lambda: Image.debian_slim("2.4").build())
    assert "2.4" in message
    assert "3.11" in message


def test_a_step_that_fails_shows_the_last_lines_of_its_log_and_leaves_nothing(
    served: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = "seq 100; printf 'the \\033[31mend\\n'; exit 3"
    image = Image.debian_slim().run_commands(lines)
    message = refusal(ImageBuildError, image.build)
    assert 'step "run_commands seq 100' in message
    assert "ended with 3; mend the step and build again" in message
    assert message.splitlines()[-1] == r"  | the \x1b[31mend"
    assert "  | 82\n" in message
    assert "  | 81\n" not in message
    assert "\x1b" not in capfd.readouterr().err
    with pytest.raises(ImageBuildError):
        Sandbox.create(image=image, block_network=True)
    served.check_nothing_of_a_build_left()


def test_a_working_directory_that_is_not_there_keeps_a_sandbox_from_its_start(served: Server) -> None:
    before = len(served.sentries())
    message = refusal(ConflictError, lambda: Sandbox.create("true", workdir="/nowhere", block_network=True))
    assert '"/nowhere"' in message
    assert "No such file" in message
    assert "give another workdir" in message
    assert len(served.sentries()) == before


# Commands


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("no-such-command", 127, 'skerry: "no-such-command": command not found\n'),
        ("/no/such/path", 127, 'skerry: "/no/such/path": command not found\n'),
        ("/etc/hostname", 126, 'skerry: "/etc/hostname": cannot be executed: Permission denied'),
        ("/etc", 126, 'skerry: "/etc": cannot be executed:'),
    ],
)
def test_what_cannot_be_run_ends_as_in_a_shell_and_says_why(box: Sandbox, command: str, code: int, said: str) -> None:
    process = box.exec(command)
    assert process.wait() == process.returncode == code
    assert process.stderr.read().startswith(said)
    assert (process.exit.reason, process.exit.code) == ("exited", code)  # type: ignore[union-attr]


@pytest.mark.parametrize(("command", "code"), [("no-such-command", 127), ("/etc/hostname", 126)])
def test_an_entrypoint_that_cannot_be_run_ends_the_sandbox_in_the_same_way(command: str, code: int) -> None:
    sandbox = Sandbox.create(command, block_network=True)
    sandbox.wait()
    assert (sandbox.returncode, sandbox.exit.reason) == (code, "exited")  # type: ignore[union-attr]
    assert command in sandbox.stderr.read()


@pytest.mark.parametrize(
    ("options", "named", "next_step"),
    [
        ({"workdir": "data"}, "workdir 'data' is relative", "such as '/data'"),
        ({"timeout": 0}, "timeout=0", "more than 0"),
        ({"timeout": 86401.0}, "timeout=86401.0", "at most 86400"),
        ({"env": {"A=B": "1"}}, "env key 'A=B'", "without '='"),
        ({"env": {"\0": "1"}}, r"env key '\x00'", "NUL"),
    ],
)
def test_an_exec_that_cannot_be_is_refused(
    box: Sandbox, options: dict[str, object], named: str, next_step: str
) -> None:
    message = refusal(InvalidError, lambda: box.exec("true", **options))  # type: ignore[call-overload]
    assert named in message
    assert next_step in message
    assert alive(box)


def test_a_working_directory_that_is_not_there_is_named(box: Sandbox) -> None:
    message = refusal(ConflictError, lambda: box.exec("true", workdir="/nowhere"))
    assert '"/nowhere": No such file' in message
    assert "give another workdir" in message
    assert alive(box)


def test_64_kib_of_arguments_work(box: Sandbox) -> None:
    text = "x" * (limits.ARGV_BYTES - len("printf") - len("%s") - 3)
    assert box.exec("printf", "%s", text).stdout.read() == text
    sandbox = Sandbox.create("printf", "%s", text, block_network=True)
    assert sandbox.stdout.read() == text


def test_2_mib_of_arguments_are_refused_with_the_ways_out(box: Sandbox) -> None:
    for call in (box.exec, Sandbox.create):
        message = refusal(InvalidError, lambda call=call: call("printf", "x" * (2 << 20)))
        assert "2097160 bytes" in message
        assert "at most 65536" in message
        assert "sandbox.filesystem or to the process's stdin" in message
    assert alive(box)


def test_binary_output_read_as_text_names_the_way_out_and_bytes_are_whole(box: Sandbox) -> None:
    command = ("printf", r"\377\376ok")
    message = refusal(InvalidError, lambda: box.exec(*command).stdout.read())
    assert "stdout is not UTF-8 text (byte 0xff" in message
    assert "text=False" in message
    assert box.exec(*command, text=False).stdout.read() == b"\xff\xfeok"


# Files


def test_reading_a_folder_is_refused(box: Sandbox) -> None:
    message = refusal(SandboxFilesystemIsADirectoryError, lambda: box.filesystem.read_bytes("/etc"))
    assert '"/etc": Is a directory' in message
    assert "list_files" in message


def test_a_file_that_is_not_there_is_named(box: Sandbox) -> None:
    message = refusal(SandboxFilesystemNotFoundError, lambda: box.filesystem.read_bytes("/etc/nothing"))
    assert '"/etc/nothing": No such file' in message


def test_a_relative_path_is_refused(box: Sandbox) -> None:
    assert "'x' is relative" in refusal(InvalidError, lambda: box.filesystem.write_text("", "x"))


def test_a_write_beyond_the_disk_limit_is_no_space_and_leaves_no_half_file(box: Sandbox) -> None:
    assert box.exec("fallocate", "-l", f"{limits.DISK_DEFAULT_MIB - 8}M", "/root/full").wait() == 0
    try:
        write = lambda: box.filesystem.write_bytes(bytes(32 << 20), "/root/more")  # noqa: E731
        message = refusal(SandboxFilesystemNoSpaceError, write)
        assert '"/root/more": No space left' in message
        assert "free some space in the sandbox, or create it with a larger disk" in message
        assert [file.name for file in box.filesystem.list_files("/root") if "more" in file.name] == []
    finally:
        box.filesystem.remove("/root/full")
    box.filesystem.write_bytes(bytes(1 << 20), "/root/more")
    assert alive(box)


# Sandboxes that have ended


def test_a_sandbox_that_exits_at_once_has_its_code_and_its_output() -> None:
    sandbox = Sandbox.create("sh", "-c", "echo gone; exit 5", block_network=True)
    sandbox.wait()
    assert (sandbox.returncode, sandbox.poll()) == (5, 5)
    assert sandbox.stdout.read() == "gone\n"


def test_an_ended_sandbox_takes_nothing_more_and_says_how_it_ended() -> None:
    sandbox = Sandbox.create(block_network=True)
    sandbox.terminate(wait=True)
    uses: list[Callable[[], object]] = [
        lambda: sandbox.exec("true"),
        lambda: sandbox.filesystem.read_text("/etc/hostname"),
        lambda: sandbox.filesystem.write_text("x", "/root/x"),
        lambda: sandbox.filesystem.list_files("/"),
    ]
    for use in uses:
        message = refusal(SandboxEndedError, use)
        assert message == f"sandbox {sandbox.object_id} has ended (terminated); create a new one"
    with pytest.raises(SandboxTerminatedError, match=f"{sandbox.object_id} was ended from outside"):
        sandbox.wait()


@pytest.mark.parametrize("named", ["sb_0000000000000000zzzz", "sb_x", "../../etc", "", "\x1b[2J"])
def test_a_sandbox_that_never_was_is_not_found(named: str) -> None:
    message = refusal(NotFoundError, lambda: Sandbox.from_id(named))
    assert "there is no sandbox '" in message
    assert "\x1b" not in message


# What a guest may try against its own first process


@pytest.mark.parametrize("user", ["root", "user"])
def test_kill_9_of_the_first_process_inside_does_nothing(box: Sandbox, user: str) -> None:
    box.exec("sh", "-c", "kill -9 1; kill -9 -1; kill -STOP 1", user=user).wait()
    assert alive(box)
