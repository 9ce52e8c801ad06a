"""Members of gVisor with programs in them: what they see, what they may fill, and what is left when they are gone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import tarfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from guest import NEXT_SECRET, SECRET, Guest, hello
from realbackend import RealBackend, new_sandbox, small_claim

from skerry.images.erofs import File, pack_tree
from skerry.isolation.gvisor.members import GvisorMember
from skerry.isolation.gvisor.processes import all_arguments
from skerry.model.errors import StartFailedError
from skerry.model.members import Claim, ExtraImage, MemberSpec, Upper
from skerry.node.cgroups import detect

pytestmark = pytest.mark.root
SECONDS = 20.0
MANY_FILES = """
try:
    for i in range(10**5):
        with open(f'/root/{i}', 'w') as file:
            file.write('x')
except OSError as error:
    print(error)
"""


@asynccontextmanager
async def sandbox(real: RealBackend, claim: Claim) -> AsyncIterator[tuple[GvisorMember, Guest]]:
    member = await real.backend.boot(real.spec())
    async with Guest(await member.claim(claim)) as guest:
        await guest.greet(hello())
        yield member, guest


def processes_of(real: RealBackend) -> list[int]:
    return [pid for pid, arguments in all_arguments() if any(str(real.state) in word for word in arguments)]


@pytest.mark.parametrize(
    ("place", "size_mib"), [("/root", 16), ("/tmp", 8), ("/dev/shm", 4), ("/run", 64), ("/var/tmp", 16)]
)
async def test_a_full_place_says_so_and_the_sandbox_lives(
    real: RealBackend, base_image: Path, place: str, size_mib: int
) -> None:
    async with sandbox(real, small_claim(base_image)) as (member, guest):
        filled = await guest.shell(f"dd if=/dev/zero of={place}/fill bs=64k; stat -c %s {place}/fill")
        assert "No space left on device" in filled.text
        size = int(filled.text.split()[-1])
        assert 0.9 * (size_mib << 20) < size <= size_mib << 20
        assert member.alive()
        again = await guest.shell(f"rm {place}/fill && echo hi > {place}/small && cat {place}/small")
        assert again.text == "hi\n"


async def test_many_small_files_fill_the_upper_layer_and_the_sandbox_lives(real: RealBackend, base_image: Path) -> None:
    async with sandbox(real, small_claim(base_image, upper=Upper(size_mib=1))) as (member, guest):
        said = await guest.run("python3", "-c", MANY_FILES)
        assert "No space left on device" in said.text
        assert member.alive()


async def test_device_files_work_and_none_can_be_made_to_grow(real: RealBackend, base_image: Path) -> None:
    async with sandbox(real, small_claim(base_image)) as (_, guest):
        said = await guest.shell(
            "echo x > /dev/null && head -c 3 /dev/zero | wc -c && head -c 5 /dev/urandom | wc -c; "
            "touch /dev/new; mknod /dev/new2 c 1 3; ls /dev/fd /dev/stdin /dev/ptmx /dev/tty /dev/full > /dev/null"
        )
        lines = said.text.splitlines()
        assert lines[:2] == ["3", "5"]
        assert len(lines) == 4
        assert all("Read-only file system" in line for line in lines[2:])


async def test_programs_find_what_they_expect_of_a_container(real: RealBackend, base_image: Path) -> None:
    async with sandbox(real, small_claim(base_image)) as (_, guest):
        said = await guest.shell(
            "script -qec tty /dev/null; python3 -c 'import multiprocessing as m; m.Lock()' && id -u"
        )
        assert said.text.split() == ["/dev/pts/0", "0"]
        modes = await guest.shell(
            "stat -c '%a %n' /tmp /dev/shm /run /dev /proc /sys; cat /proc/self/mountinfo | wc -l"
        )
        assert "1777 /tmp\n1777 /dev/shm\n755 /run\n755 /dev\n555 /proc\n" in modes.text
        caps = await guest.shell("grep -h CapBnd /proc/self/status; cat /proc/1/fd/0; touch /.skerry/x")
        assert "CapBnd:\t00000000a80405fb" in caps.text
        assert "Permission denied" in caps.text
        assert "Read-only file system" in caps.text


async def test_an_upper_layer_on_disk_is_bounded_and_leaves_no_file(
    real: RealBackend, base_image: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "builds"
    folder.mkdir()
    claim = small_claim(base_image, upper=Upper(size_mib=20, disk_folder=folder))
    async with sandbox(real, claim) as (member, guest):
        assert list(folder.iterdir()) == [], "the file has no name from the start"
        filled = await guest.shell("dd if=/dev/urandom of=/root/fill bs=64k; md5sum /root/fill; md5sum /root/fill")
        assert "No space left on device" in filled.text
        first, second = filled.text.splitlines()[-2:]
        assert first == second
        assert member.alive()
        await member.destroy()
    assert list(folder.iterdir()) == []


async def test_extra_images_are_mounted_where_they_are_asked_for(
    real: RealBackend, base_image: Path, tmp_path: Path
) -> None:
    images = []
    for name in ("one", "two"):
        pack_tree({"name": File(content=name.encode())}, tmp_path / f"{name}.erofs")
        images.append(tmp_path / f"{name}.erofs")
    extra = (ExtraImage(image=images[0], target="/.skerry/trust"), ExtraImage(image=images[1], target="/srv/new/deep"))
    async with sandbox(real, small_claim(base_image, extra_images=extra)) as (_, guest):
        said = await guest.shell("cat /.skerry/trust/name /srv/new/deep/name; touch /srv/new/deep/x")
        assert said.text.startswith("onetwo")
        assert "Read-only file system" in said.text


async def test_the_upper_layer_is_saved_with_what_was_written_and_without_tmp(
    real: RealBackend, base_image: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "upper.tar"
    async with sandbox(real, small_claim(base_image)) as (member, guest):
        await guest.shell("echo saved > /root/kept; echo lost > /tmp/lost; rm /etc/hostname")
        with archive.open("wb") as file:
            await member.save_upper(file.fileno())
    with tarfile.open(archive) as saved:
        names = saved.getnames()
    assert any(name.endswith("root/kept") for name in names)
    assert not any("lost" in name for name in names)


async def test_output_survives_an_attach_and_the_old_pipes_end(real: RealBackend, base_image: Path) -> None:
    async with sandbox(real, small_claim(base_image)) as (member, guest):
        await guest.shell("echo 1 > /root/state")
        again = hello(generation=1, proof=SECRET, secret=NEXT_SECRET)
        async with Guest(await member.attach(again)) as second:
            ready = await second.greet(None)
            assert ready.last_stream == 1
            assert (await second.shell("cat /root/state")).text == "1\n"
            guest.ready = None
            with pytest.raises(EOFError):
                await guest.greet(None)


async def test_a_killed_sentry_ends_everything_of_its_sandbox(real: RealBackend, base_image: Path) -> None:
    async with sandbox(real, small_claim(base_image)) as (member, guest):
        children = _pid_namespace_of(member.record.pid)
        assert len(children) > 1, "the sentry and its stubs"
        os.kill(member.record.pid, signal.SIGKILL)
        async with asyncio.timeout(SECONDS):
            await member.wait_ended()
        assert not member.alive()
        for pid in children:
            assert not Path(f"/proc/{pid}").exists() or _is_zombie(pid)
        guest.ready = None
        with pytest.raises(EOFError):
            await guest.greet(None)
        await member.destroy()


async def test_the_keeper_ends_the_sandbox_while_no_node_is_there(real: RealBackend, base_image: Path) -> None:
    async with sandbox(real, small_claim(base_image)) as (member, _):
        await member.set_lifetime(0.2)
        record = member.record
        # Nothing of this member is used from here on, as if its node had gone.
        async with asyncio.timeout(SECONDS):
            while Path(f"/proc/{record.pid}").exists() and not _is_zombie(record.pid):  # noqa: ASYNC110 - /proc
                await asyncio.sleep(0.01)
    assert await real.another().adopt(record) is None


async def test_nothing_is_left_of_what_was_destroyed(real: RealBackend, base_image: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        async with sandbox(real, small_claim(base_image)) as (member, _guest):
            await member.destroy()
    assert processes_of(real) == []
    assert sorted(path.name for path in real.state.rglob("*")) == ["member.json", "members", "sockets"]
    # The agent's image stays open for the next claim.
    assert len(os.listdir("/proc/self/fd")) <= before + 1


async def test_a_sweep_ends_what_a_crashed_node_left(real: RealBackend, base_image: Path) -> None:
    async with sandbox(real, small_claim(base_image)) as (member, _):
        (line,) = await real.another().sweep([])
        assert member.record.sandbox in line
        assert str(member.record.pid) in line
        assert not member.alive()
    assert processes_of(real) == []


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


async def test_a_sweep_ends_no_process_that_has_got_the_pid_of_one_it_found(
    real: RealBackend, stranger: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {new_sandbox(): [stranger.pid]}
    monkeypatch.setattr(real.backend, "_running", lambda: found)
    await real.backend.sweep([])
    stranger.terminate()
    assert stranger.wait() == -signal.SIGTERM  # and not of a signal before


async def test_a_sweep_leaves_the_sandboxes_of_another_server_alone(real: RealBackend, tmp_path: Path) -> None:
    member = await real.backend.boot(real.spec())
    other = replace(real, state=tmp_path / "other").another()
    assert await other.sweep([]) == []
    assert member.alive()


async def test_a_pid_that_was_given_to_another_process_is_not_adopted_and_not_harmed(real: RealBackend) -> None:
    member = await real.backend.boot(real.spec())
    with subprocess.Popen(["sleep", "60"]) as stranger:  # noqa: ASYNC220
        try:
            record = replace(member.record, pid=stranger.pid)
            await member.destroy()
            assert await real.another().adopt(record) is None
            assert stranger.poll() is None
        finally:
            stranger.kill()


async def test_every_process_joins_the_control_groups_before_it_runs(real: RealBackend) -> None:
    groups = detect(f"skerry-test-{secrets.token_hex(4)}")
    try:
        group = groups.make(new_sandbox())
        member = await real.backend.boot(real.spec(cgroup_procs=group.procs))
        # The launcher joins and forks the sentry: what it starts is born in the group.
        assert set(processes_of(real)) <= set(group.members())
        assert member.record.pid in group.members()
        await member.destroy()
        group.remove()
    finally:
        groups.sweep([])
        groups.close()


async def test_a_group_that_cannot_be_joined_is_named_and_nothing_is_left(real: RealBackend, tmp_path: Path) -> None:
    gone = tmp_path / "no" / "cgroup.procs"
    with pytest.raises(StartFailedError, match=f"cannot join {gone}") as caught:
        await real.backend.boot(real.spec(cgroup_procs=(gone,)))
    assert caught.value.details["stage"] == "boot"
    assert processes_of(real) == []
    assert await real.backend.sweep([]) == []


async def test_an_image_that_is_none_fails_the_claim_and_says_why(real: RealBackend, tmp_path: Path) -> None:
    image = tmp_path / "bad.erofs"
    image.write_bytes(bytes(1 << 16))
    member = await real.backend.boot(real.spec())
    with pytest.raises(StartFailedError, match="unknown magic") as caught:
        await member.claim(small_claim(image))
    assert caught.value.details["stage"] == "claim"
    await member.destroy()
    assert processes_of(real) == []


@pytest.mark.parametrize("delay", [0.0, 0.002, 0.01, 0.03])
async def test_giving_up_a_boot_at_any_moment_leaves_nothing(real: RealBackend, delay: float) -> None:
    boot = asyncio.create_task(real.backend.boot(MemberSpec(sandbox=new_sandbox())))
    await asyncio.sleep(delay)
    boot.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await (await boot).destroy()
    assert processes_of(real) == []
    assert await real.backend.sweep([]) == []


async def test_twenty_sandboxes_side_by_side(real: RealBackend) -> None:
    async def life() -> str:
        member = await real.backend.boot(real.spec())
        await member.set_lifetime(60)
        async with Guest(await member.claim(small_claim(real.agent_image))) as guest:
            ready = await guest.greet(hello())
        await member.destroy()
        return ready.agent

    agents = await asyncio.gather(*(life() for _ in range(20)))
    assert len(agents) == 20
    assert processes_of(real) == []


def _pid_namespace_of(pid: int) -> list[int]:
    namespace = os.readlink(f"/proc/{pid}/ns/pid")
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and os.readlink(entry / "ns" / "pid") == namespace:
                found.append(int(entry.name))
    return found


def _is_zombie(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    return True
