"""`skerry cp` and the SDK's copies against a real server with real sandboxes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from command_line import skerry, start
from realserver import Server, wait_for

from skerry import Sandbox
from skerry.exception import SandboxFilesystemError, SandboxFilesystemIsADirectoryError

HOSTILE = """
mkdir -p /srv/tree/d; cd /srv/tree; echo kept > kept; ln -s /etc/passwd absolute; ln -s ../../../etc up; ln -s d in
ln -s d/../../x chain; mkfifo pipe; mknod device c 1 3; python3 -c "import socket; socket.socket(1).bind('socket')"
printf x > "$(printf '\\377\\033[2Jname')"; chmod 6755 kept
"""


@pytest.fixture(scope="module", autouse=True)
def served(shared: Server) -> Server:
    return shared


@pytest.fixture(scope="module")
def box(served: Server) -> Iterator[Sandbox]:
    with Sandbox.create(block_network=True, timeout=600) as made:
        yield made


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "d").mkdir(parents=True)
    (folder / "tool").write_text("#!/bin/sh\necho run\n")
    (folder / "tool").chmod(0o750)
    (folder / "d/link").symlink_to("../tool")
    (folder / "d/data").write_bytes(os.urandom(1_500_000))
    return folder


def same(one: Path, other: Path) -> bool:
    return subprocess.run(["diff", "-r", "--no-dereference", one, other], check=False).returncode == 0


class Done(NamedTuple):
    stdout: bytes
    stderr: str
    returncode: int


def cp(served: Server, *arguments: object, stdin: bytes | None = None) -> Done:
    return Done(*skerry(served, "cp", *map(str, arguments), stdin=stdin))


def test_a_tree_goes_in_and_comes_back_with_modes_and_links(
    served: Server, box: Sandbox, project: Path, tmp_path: Path
) -> None:
    done = cp(served, project, f"{box.object_id}:/srv")
    assert done.returncode == 0, done.stderr
    assert f"{box.object_id}:/srv/project: 5 entries, 1.5 MB" in done.stderr
    assert box.exec("/srv/project/tool").stdout.read() == "run\n"
    assert cp(served, f"{box.object_id}:/srv/project", tmp_path / "back").returncode == 0
    assert same(project, tmp_path / "back")
    assert (tmp_path / "back/tool").stat().st_mode & 0o777 == 0o750
    again = cp(served, f"{box.object_id}:/srv/project", tmp_path / "back", "--json")
    told = json.loads(again.stdout)
    assert told == {
        "target": str(tmp_path / "back/project"), "entries": 5, "size": told["size"], "left_out": 0, "named": []
    }  # fmt: skip


def test_one_file_goes_through_stdin_and_stdout(served: Server, box: Sandbox) -> None:
    data = os.urandom(3_000_000)
    assert cp(served, "-", f"{box.object_id}:/root/new/file", stdin=data).returncode == 0
    done = cp(served, f"{box.object_id}:/root/new/file", "-")
    assert (done.returncode, done.stdout, done.stderr) == (0, data, "")


def test_a_slash_at_the_end_means_into_a_folder(served: Server, box: Sandbox, project: Path, tmp_path: Path) -> None:
    assert cp(served, project / "tool", f"{box.object_id}:/made/here/").returncode == 0
    assert cp(served, f"{box.object_id}:/made/here/tool", f"{tmp_path}/also/made/").returncode == 0
    assert (tmp_path / "also/made/tool").read_text() == (project / "tool").read_text()


def test_a_hostile_tree_writes_nothing_outside_and_what_is_left_out_is_named(
    served: Server, box: Sandbox, tmp_path: Path
) -> None:
    assert box.exec("sh", "-c", HOSTILE).wait() == 0
    done = cp(served, f"{box.object_id}:/srv/tree", tmp_path / "got")
    assert done.returncode == 1
    told = done.stderr
    assert "\x1b" not in told
    for name in ("absolute", "up", "chain", "pipe", "device", "socket"):
        assert f"not copied: {name}: " in told
    found = {os.fsencode(path.name) for path in (tmp_path / "got").iterdir()}
    assert found == {b"kept", b"in", b"d", b"\xff\x1b[2Jname"}
    assert (tmp_path / "got/kept").stat().st_mode & 0o7777 == 0o755
    with pytest.raises(SandboxFilesystemError, match="6 of the tree's entries were not copied"):
        box.filesystem.copy_to_local("/srv/tree", tmp_path / "again")


def test_a_file_that_grows_and_a_tree_that_changes_come_to_an_end(served: Server, box: Sandbox, tmp_path: Path) -> None:
    script = (
        "mkdir -p /tmp/busy/d; cd /tmp/busy; (while :; do head -c 10000 /dev/zero; sleep 0.01; done >> grows) & "
        "while :; do echo x > d/f; mv d e; ln -s /etc d; rm d; mv e d; sleep 0.001; done"
    )
    busy = box.exec("timeout", "20", "sh", "-c", script)
    wait_for(lambda: box.filesystem.exists("/tmp/busy/grows"), "the busy tree")
    for number in range(5):
        target = tmp_path / str(number)
        assert cp(served, f"{box.object_id}:/tmp/busy", target).returncode in (0, 1)
        assert {path.name for path in target.iterdir()} <= {"grows", "d", "e"}
        assert not [path for path in target.rglob("*") if path.is_symlink()]
    assert busy.poll() is None
    box.exec("pkill", "-f", "timeout").wait()


def test_ctrl_c_leaves_no_half_file_on_either_side(served: Server, box: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "pipe").mkdir()
    with (tmp_path / "big").open("wb") as big:
        big.truncate(400 << 20)
    process = start(served, "cp", str(tmp_path / "big"), f"{box.object_id}:/tmp/in/big")
    wait_for(lambda: box.exec("sh", "-c", "ls -A /tmp/in").stdout.read().startswith(".skerry-"), "the copy's beginning")
    process.send_signal(signal.SIGINT)
    assert b"skerry: interrupted" in process.communicate(timeout=60)[1]
    assert process.returncode == 130
    wait_for(lambda: box.exec("ls", "-A", "/tmp/in").stdout.read() == "", "nothing to be left")

    box.exec("truncate", "-s", "2G", "/tmp/sparse").wait()
    process = start(served, "cp", f"{box.object_id}:/tmp/sparse", str(tmp_path / "out"))
    wait_for(lambda: list(tmp_path.glob(".skerry-*")), "the copy's beginning")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.glob(".skerry-*")) == []


def test_a_full_disk_is_told_on_either_side(served: Server, box: Sandbox, tmp_path: Path) -> None:
    with (tmp_path / "big").open("wb") as big:
        big.truncate(600 << 20)
    done = cp(served, tmp_path / "big", f"{box.object_id}:/tmp/full/big")
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "create it with a larger disk" in done.stderr
    assert box.exec("ls", "-A", "/tmp/full").stdout.read() == ""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "skerry-test", small], check=True)
    try:
        box.exec("sh", "-c", "mkdir -p /srv/large; head -c 3000000 /dev/urandom > /srv/large/file").wait()
        done = cp(served, f"{box.object_id}:/srv/large", small / "got")
        assert done.returncode == 1
        assert f"No space left on device: '{small}/got/file'" in done.stderr
        assert list((small / "got").iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)


def test_what_cannot_be_is_refused_with_the_next_step(served: Server, box: Sandbox, tmp_path: Path) -> None:
    for arguments, code, said in (
        ((tmp_path, tmp_path), 2, "one of SOURCE and TARGET is in a sandbox"),
        (("a:/x", "b:/x"), 2, "one of SOURCE and TARGET is in a sandbox"),
        (("sb_x:root", tmp_path), 2, "a path in a sandbox is absolute"),
        ((tmp_path / "none", f"{box.object_id}:/x"), 1, "No such file or directory"),
        ((f"{box.object_id}:/none", tmp_path), 1, "No such file or directory"),
        ((f"{box.object_id}:/dev/zero", tmp_path), 1, "it is no regular file"),
        ((f"{box.object_id}:/", tmp_path), 1, "has no name to be copied under"),
        (("sb_nowhere:/x", tmp_path), 1, "there is no sandbox 'sb_nowhere'"),
    ):
        done = cp(served, *arguments)
        assert (done.returncode, said in done.stderr) == (code, True), done.stderr


def test_a_program_copies_files_and_trees(box: Sandbox, project: Path, tmp_path: Path) -> None:
    files = box.filesystem
    files.copy_from_local(project, "/work/project")
    files.copy_from_local(project / "tool", "/work/tool")
    files.copy_to_local("/work/project", tmp_path / "a/b/project")
    files.copy_to_local("/work/tool", tmp_path / "tool")
    assert same(project, tmp_path / "a/b/project")
    assert (tmp_path / "tool").read_bytes() == (project / "tool").read_bytes()
    with pytest.raises(SandboxFilesystemIsADirectoryError):
        files.copy_from_local(project / "tool", "/work")
    with pytest.raises(FileNotFoundError):
        files.copy_from_local(tmp_path / "none", "/work/none")
    with pytest.raises(IsADirectoryError):
        files.copy_to_local("/work/tool", tmp_path)
    assert not files.exists("/work/none")
