"""The gofer that serves volumes, seen from the machine: confined as runsc's own, and nothing of it left."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import stat
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import pytest_asyncio
from guest import Guest, hello
from realbackend import BIN, RealBackend, small_claim

from skerry.isolation.gvisor.members import GvisorMember
from skerry.isolation.gvisor.sentry import ENVIRONMENT, FLAGS
from skerry.model.members import MountedVolume

pytestmark = pytest.mark.root
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
FIELDS = ("Uid", "Gid", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters")


def status(path: Path) -> dict[str, str]:
    lines = (path / "status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def confinement(pid: int, volume: Path) -> dict[str, object]:
    """All that sets a gofer apart from the machine."""
    process = Path(f"/proc/{pid}")
    threads = {tuple(status(thread)[field] for field in FIELDS) for thread in (process / "task").iterdir()}
    mounts = [line.split(" - ") for line in (process / "mountinfo").read_text().splitlines()]
    return {
        "threads": threads,
        "users": (process / "uid_map").read_text().split(),
        "groups": (process / "gid_map").read_text().split(),
        "namespaces": {
            kind: os.readlink(process / "ns" / kind) == os.readlink(f"/proc/self/ns/{kind}") for kind in NAMESPACES
        },
        "alone in its pid namespace": status(process)["NSpid"].split()[1:],
        "mounts": [(before.split()[4], set(before.split()[5].split(",")) - {"relatime"}) for before, _ in mounts],
        "root": sorted(path.name for path in (process / "root").iterdir()),
        "root of the volume": (process / "root" / "data").stat().st_ino == volume.stat().st_ino,
        "session": os.getsid(pid) == pid,
        "devices": [line for line in (process / "net" / "dev").read_text().splitlines() if ":" in line],
    }


async def mounted(volume: Path) -> tuple[MountedVolume, ...]:
    return (MountedVolume(folder=volume, target="/data"),)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    folder = tmp_path / "volume"
    folder.mkdir()
    return folder


@pytest_asyncio.fixture
async def served(real: RealBackend, base_image: Path, volume: Path) -> AsyncIterator[GvisorMember]:
    """A sandbox with a volume, in which programs have used it."""
    member = await real.backend.boot(real.spec(), mounted(volume))
    async with Guest(await member.claim(small_claim(base_image))) as guest:
        await guest.greet(hello())
        assert (await guest.shell("echo x > /data/x; cat /data/x")).text == "x\n"
        yield member
    await member.destroy()


@pytest.fixture
def by_runsc(real: RealBackend, base_image: Path, volume: Path, tmp_path: Path) -> Iterator[int]:
    """The gofer of a sandbox with the same volume that runsc's own command line has started."""
    (tmp_path / "bundle").mkdir()
    spec = {
        "ociVersion": "1.2.0",
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["/bin/sleep", "60"], "cwd": "/", "env": ["PATH=/bin"]},
        "root": {"path": str(tmp_path), "readonly": False},
        "mounts": [
            {
                "destination": "/data",
                "type": "bind",
                "source": str(volume),
                "options": ["rbind", "rw", "nosuid", "nodev"],
            }
        ],
        "annotations": {
            "dev.gvisor.spec.rootfs.source": str(base_image),
            "dev.gvisor.spec.rootfs.type": "erofs",
            "dev.gvisor.spec.rootfs.overlay": "memory",
        },
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]},
    }
    (tmp_path / "bundle" / "config.json").write_text(json.dumps(spec))
    name, root = f"cf{secrets.token_hex(9)}", tmp_path / "root"
    runsc = [BIN / "runsc", f"--root={root}", *FLAGS]
    with ExitStack() as files:
        own = [files.enter_context((tmp_path / f"std{number}").open("w+")) for number in range(3)]

        def call(*words: str) -> None:
            subprocess.run([*runsc, *words], stdin=own[0], stdout=own[1], stderr=own[2], check=True)

        call("create", f"--bundle={tmp_path}/bundle", name)
        try:
            call("start", name)
            yield next(pid for pid in gofers() if f"--root={root}" in arguments(pid))
        finally:
            call("delete", "--force", name)
            subprocess.run(["umount", root / "null-netns"], stderr=subprocess.DEVNULL)  # runsc keeps it for the next
    shutil.rmtree(root)


def arguments(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def gofers() -> list[int]:
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and "gofer" in arguments(int(entry.name))
    ]


def gofer_of(member: GvisorMember) -> int:
    return int(member.record.extra["gofer"].split()[0])


async def test_a_gofer_of_ours_is_confined_as_one_that_runsc_starts(
    served: GvisorMember, volume: Path, request: pytest.FixtureRequest
) -> None:
    theirs = request.getfixturevalue("by_runsc")
    assert confinement(gofer_of(served), volume) == confinement(theirs, volume)
    assert status(Path(f"/proc/{gofer_of(served)}"))["Groups"] == "", "runsc's keeps those of whoever started it"


async def test_a_gofer_is_behind_a_filter_with_six_capabilities_and_no_way_to_more(
    served: GvisorMember, volume: Path
) -> None:
    # CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID, SYS_CHROOT
    six = sum(1 << number for number in (0, 1, 2, 3, 4, 18))
    for thread in Path(f"/proc/{gofer_of(served)}/task").iterdir():
        seen = status(thread)
        assert {int(seen[kind], 16) for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {six}
        assert (seen["Seccomp"], seen["NoNewPrivs"]) == ("2", "1")


async def test_a_gofer_sees_its_volumes_and_nothing_else_of_the_machine(served: GvisorMember, volume: Path) -> None:
    pid = gofer_of(served)
    assert [path.name for path in Path(f"/proc/{pid}/root").iterdir()] == ["data"]
    (mount,) = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    assert {"nosuid", "nodev"} <= set(mount.split()[5].split(","))
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        kind = fd.stat().st_mode
        if stat.S_ISDIR(kind):
            inside = fd.stat().st_dev == volume.stat().st_dev and os.readlink(fd).startswith("/root/data")
            assert inside or not os.listdir(fd) or os.readlink(fd) == "/", os.readlink(fd)
    environment = Path(f"/proc/{pid}/environ").read_bytes().decode()
    assert tuple(environment.rstrip("\0").split("\0")) == ENVIRONMENT


async def test_the_sentry_of_a_sandbox_with_a_volume_is_confined_like_any_other(served: GvisorMember) -> None:
    sentry = served.record.pid
    seen = status(Path(f"/proc/{sentry}"))
    assert set(seen["Uid"].split()) == {"65534"}
    assert seen["CapEff"] == "0" * 16
    assert {path.name for path in Path(f"/proc/{sentry}/root").iterdir()} == {"proc"}
    folders = [os.readlink(fd) for fd in Path(f"/proc/{sentry}/fd").iterdir() if stat.S_ISDIR(fd.stat().st_mode)]
    assert folders == [], "the gofer opens, and gives the descriptors of files alone"


async def test_a_gofer_ends_with_its_sentry_and_is_swept_when_that_failed(
    real: RealBackend, base_image: Path, volume: Path
) -> None:
    member = await real.backend.boot(real.spec(), mounted(volume))
    pid = gofer_of(member)
    os.kill(pid, signal.SIGSTOP)  # it cannot end by itself
    os.kill(member.record.pid, signal.SIGKILL)
    await member.wait_ended()
    assert await real.another().adopt(member.record) is None
    assert not Path(f"/proc/{pid}").exists() or status(Path(f"/proc/{pid}"))["State"].startswith("Z")


async def test_a_member_with_a_volume_is_found_again_with_its_gofer(
    real: RealBackend, base_image: Path, volume: Path
) -> None:
    member = await real.backend.boot(real.spec(), mounted(volume))
    async with Guest(await member.claim(small_claim(base_image))) as guest:
        await guest.greet(hello())
    successor = real.another()
    again = await successor.adopt(member.record)
    assert again is not None
    assert again.record == member.record
    os.kill(gofer_of(member), signal.SIGKILL)
    await again.wait_volumes_lost()
    assert again.alive()
    await again.destroy()
    successor.close()
