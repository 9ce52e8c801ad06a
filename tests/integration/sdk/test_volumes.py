"""Volumes through the SDK, in real sandboxes."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from realserver import Server, wait_for
from volume_user import content, fails, gofers_of, mount, sh

import skerry
from skerry.exception import (
    ConflictError,
    InvalidError,
    NotFoundError,
    SandboxFilesystemNotADirectoryError,
    SandboxFilesystemNotFoundError,
    SandboxFilesystemNotRegularError,
)

pytestmark = pytest.mark.root


@pytest.fixture
def volume(shared: Server, request: pytest.FixtureRequest) -> Iterator[skerry.Volume]:
    made = skerry.Volume.from_name(f"v-{abs(hash(request.node.name))}", create_if_missing=True)
    yield made
    for sandbox in skerry.Sandbox.list():
        sandbox.terminate(wait=True)
    skerry.Volume.delete(made.name, allow_missing=True)


def test_what_a_sandbox_writes_the_next_one_reads(volume: skerry.Volume) -> None:
    with mount(volume) as first:
        sh(first, "mkdir -p /data/a && echo kept > /data/a/b && chmod 640 /data/a/b && ln -s a/b /data/link")
    with mount(volume) as second:
        assert sh(second, "cat /data/link; stat -c '%a %u' /data/a/b") == "kept\n640 0\n"
        assert sh(second, "ls /data") == "a\nlink\n"


def test_two_sandboxes_write_to_one_volume_and_see_each_other_at_once(volume: skerry.Volume) -> None:
    with mount(volume) as one, mount(volume, at="/other/place") as two:
        sh(one, "echo one > /data/x")
        assert sh(two, "cat /other/place/x") == "one\n"
        sh(two, "echo two >> /other/place/x")
        assert sh(one, "cat /data/x") == "one\ntwo\n"
        sh(two, "rm /other/place/x")
        fails(one, "cat /data/x")


def test_a_volume_mounted_read_only_takes_nothing_and_shows_what_others_write(volume: skerry.Volume) -> None:
    with mount(volume) as writer, mount(volume.read_only()) as reader:
        sh(writer, "echo x > /data/x")
        assert sh(reader, "cat /data/x") == "x\n"
        assert "Read-only" in fails(reader, "echo y > /data/y")
        assert "Read-only" in fails(reader, "rm /data/x")


def test_a_guest_makes_no_device_on_a_volume_and_runs_no_program_as_another_user(volume: skerry.Volume) -> None:
    with mount(volume) as sandbox:
        fails(sandbox, "mknod /data/null c 1 3")
        sh(sandbox, "cp /usr/bin/id /data/id && chmod 4755 /data/id")
        process = sandbox.exec("/data/id", "-u", user="nobody")
        assert process.stdout.read() == "65534\n"


def test_programs_on_a_volume_run(volume: skerry.Volume) -> None:
    with mount(volume) as sandbox:
        assert sh(sandbox, "cp /bin/echo /data/say && /data/say hi") == "hi\n"


def test_a_full_volume_is_enospc_in_its_sandboxes_and_costs_nothing_else(shared: Server, volume: skerry.Volume) -> None:
    with mount(volume) as one, mount(volume, at="/v") as two:
        size = int(sh(one, "df --output=size -B1 /data | tail -1"))
        assert 0.9 * (10 << 30) < size <= 10 << 30
        sh(one, "fallocate -l 9G /data/big 2>/dev/null || truncate -s 9G /data/big")
        free = int(sh(one, "df --output=avail -B1 /data | tail -1"))
        assert free <= 10 << 30
        assert sh(two, "rm /v/big && echo ok > /v/x && cat /v/x") == "ok\n"


def test_a_commit_stays_readable_as_it_was(volume: skerry.Volume) -> None:
    with mount(volume) as sandbox:
        sh(sandbox, "mkdir /data/d && echo old > /data/d/x && echo same > /data/same")
        first = volume.commit()
        sh(sandbox, "echo new > /data/d/x && rm /data/same && echo more > /data/y")
        second = volume.commit()
        sh(sandbox, "rm -r /data/*")
        volume.reload()
    assert [one.id for one in volume.commits()] == [second, first]
    assert content(volume, "/d/x", first) == b"old\n"
    assert content(volume, "/same", first) == b"same\n"
    assert content(volume, "/d/x", second) == b"new\n"
    assert [one.path for one in volume.listdir("/", recursive=True, commit=second)] == ["/d", "/d/x", "/y"]
    assert volume.listdir("/") == []
    with pytest.raises(SandboxFilesystemNotFoundError):
        content(volume, "/same", second)
    with pytest.raises(NotFoundError, match="has no commit"):
        content(volume, "/same", "vc_00000000000000000000")
    volume.delete_commit(first)
    assert [one.id for one in volume.commits()] == [second]
    assert content(volume, "/d/x", second) == b"new\n"


def test_files_go_in_and_out_without_a_sandbox(volume: skerry.Volume) -> None:
    data = os.urandom(3 << 20)
    assert volume.write_file("/in/a", data) == len(data)
    assert content(volume, "/in/a") == data
    assert volume.write_file("in/a", b"less", mode=0o600) == 4
    (one,) = volume.listdir("/in")
    assert (one.path, one.size, one.permissions, one.owner) == ("/in/a", 4, "0600", "0")
    with mount(volume) as sandbox:
        assert sh(sandbox, "cat /data/in/a") == "less"
    with pytest.raises(ConflictError, match="not empty"):
        volume.remove_file("/in")
    volume.remove_file("/in", recursive=True)
    assert volume.listdir("/") == []


def test_a_hostile_tree_leads_nowhere(volume: skerry.Volume) -> None:
    with mount(volume) as sandbox:
        sh(
            sandbox,
            "cd /data; ln -s /etc/passwd out; ln -s ../../../../etc up; ln -s . loop; mkdir sub; "
            "ln -s /etc sub/etc; printf x > \"$(printf 'a\\377b')\"; printf y > \"$(printf '\\033[2J')\"",
        )
    for path in ("/out", "/up/passwd", "/loop/out", "/sub/etc/passwd"):
        with pytest.raises(SandboxFilesystemNotRegularError):
            content(volume, path)
    with pytest.raises(InvalidError, match=r"holds '\.\.'"):
        content(volume, "/sub/../../../etc/passwd")
    names = {one.path for one in volume.listdir("/", recursive=True)}
    assert names == {"/out", "/up", "/loop", "/sub", "/sub/etc", "/a\udcffb", "/\x1b[2J"}
    assert content(volume, "/a\udcffb") == b"x"
    with pytest.raises(SandboxFilesystemNotADirectoryError):
        volume.write_file("/sub/etc/passwd", b"root::0:0::/:/bin/sh")
    volume.write_file("/out", b"replaced")  # the link itself, never where it leads
    assert content(volume, "/out") == b"replaced"
    commit = volume.commit()
    assert {one.path for one in volume.listdir("/", recursive=True, commit=commit)} == names
    with pytest.raises(SandboxFilesystemNotRegularError):
        content(volume, "/up", commit)


@pytest.mark.parametrize(
    ("paths", "complaint"),
    [
        (["/"], "cannot be mounted at `/`"),
        (["data"], "is relative"),
        (["/data", "/data/inner"], "side by side"),
        (["/data/inner", "/data"], "side by side"),
        (["/data", "/data/"], "side by side|mounted twice"),
        (["/proc"], "the sandbox's own"),
        (["/dev/shm"], "the sandbox's own"),
        (["/.skerry"], "the sandbox's own"),
        (["/etc"], "the sandbox's own"),
        (["/a\0b"], "NUL"),
    ],
)
def test_a_path_where_no_volume_can_lie_is_refused(volume: skerry.Volume, paths: list[str], complaint: str) -> None:
    other = skerry.Volume.from_name("other", create_if_missing=True)
    with pytest.raises(InvalidError, match=complaint):
        skerry.Sandbox.create(volumes=dict(zip(paths, [volume, other], strict=False)))
    skerry.Volume.delete("other", allow_missing=True)


def test_a_volume_mounted_twice_in_one_sandbox_is_refused(volume: skerry.Volume) -> None:
    with pytest.raises(InvalidError, match="mounted twice"):
        skerry.Sandbox.create(volumes={"/a": volume, "/b": volume.read_only()})


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", "x" * 65, "ä", "a\n", "-\x1b"])
def test_an_unusable_name_is_refused(shared: Server, name: str) -> None:
    if name == "..":
        skerry.Volume.from_name(name, create_if_missing=True).hydrate()  # a name, and no path: volumes lie by their ids
        skerry.Volume.delete(name)
        return
    with pytest.raises(InvalidError, match="name"):
        skerry.Volume.from_name(name, create_if_missing=True).hydrate()


def test_what_is_no_volume_is_refused_by_name(shared: Server) -> None:
    for wrong in ({"/data": "x"}, {1: skerry.Volume.from_name("x")}, ["/data"]):
        with pytest.raises(InvalidError, match="volumes="):
            skerry.Sandbox.create(volumes=wrong)  # type: ignore[arg-type]
    with pytest.raises(NotFoundError, match="there is no volume 'nope'"):
        skerry.Sandbox.create(volumes={"/data": skerry.Volume.from_name("nope")})


def test_a_volume_in_use_is_not_deleted(volume: skerry.Volume) -> None:
    with mount(volume) as sandbox:
        with pytest.raises(ConflictError, match=f"is mounted in sandbox {sandbox.object_id}"):
            skerry.Volume.delete(volume.name)
        assert sh(sandbox, "echo x > /data/x && cat /data/x") == "x\n"
    skerry.Volume.delete(volume.name)
    with pytest.raises(NotFoundError):
        skerry.Volume.delete(volume.name)
    skerry.Volume.delete(volume.name, allow_missing=True)
    again = skerry.Volume.from_name(volume.name, create_if_missing=True)
    assert again.listdir("/") == []


def test_a_dead_gofer_costs_the_volume_and_not_the_sandbox_and_is_told(shared: Server, volume: skerry.Volume) -> None:
    with mount(volume) as sandbox, mount(volume, at="/v") as other:
        sh(sandbox, "echo x > /data/x")
        record = (shared.runtime / "records" / f"{sandbox.object_id}.json").read_text()
        pid = next(one for one in gofers_of(shared) if str(one) in record)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: skerry.Sandbox.from_id(sandbox.object_id).view.volumes_lost, "the loss to be told")
        assert "Input/output error" in fails(sandbox, "cat /data/x")
        assert sh(sandbox, "echo alive") == "alive\n"
        assert sh(other, "cat /v/x") == "x\n"
        assert not skerry.Sandbox.from_id(other.object_id).view.volumes_lost
        assert "sandbox.volumes_lost" in shared.settings.log.read_text()


def test_a_gofer_is_in_its_sandboxs_control_group(shared: Server, volume: skerry.Volume) -> None:
    with mount(volume):
        (gofer,), (sentry,) = gofers_of(shared), shared.sentries()
        own, its = (Path(f"/proc/{pid}/cgroup").read_text() for pid in (gofer, sentry))
        assert own == its
        assert own != Path("/proc/self/cgroup").read_text()


def test_volumes_are_the_servers_alone_on_the_machine(shared: Server, volume: skerry.Volume) -> None:
    with mount(volume):
        folder = shared.data / "volumes"
        for path in (folder, folder / "mounted", folder / str(volume.object_id)):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
        (line,) = [line for line in Path("/proc/mounts").read_text().splitlines() if str(folder) in line]
        assert {"nosuid", "nodev"} <= set(line.split()[3].split(","))
