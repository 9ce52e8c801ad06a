"""Every process of a sandbox as the machine sees it: who it is, what it may do, what it can reach."""

from __future__ import annotations

import json
import os
import resource
import secrets
import shutil
import stat
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from guest import Guest, hello
from realbackend import BIN, RealBackend, small_claim

from skerry.isolation.gvisor.logs import LOG_BYTES
from skerry.isolation.gvisor.members import GvisorMember
from skerry.isolation.gvisor.sentry import ENVIRONMENT, FLAGS

pytestmark = pytest.mark.root
NOBODY = 65534
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
OURS = ("cgroup",)  # the machine's own: its control groups are what limits the sandbox
FILTERED = 2  # SECCOMP_MODE_FILTER


@dataclass(frozen=True)
class Seen:
    """One process, from /proc."""

    pid: int
    name: str
    status: dict[str, str]

    @property
    def ids(self) -> set[str]:
        return set(self.status["Uid"].split()) | set(self.status["Gid"].split())

    @property
    def capabilities(self) -> set[str]:
        return {self.status[kind] for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}

    @property
    def seccomp(self) -> int:
        return int(self.status["Seccomp"])


def see(pid: int) -> Seen:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return Seen(pid, status["Name"], status)


def namespace(pid: int | str, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def processes_of(sentry: int) -> list[Seen]:
    """All processes in the sentry's pid namespace, each with the state of every one of its threads looked at."""
    wanted = namespace(sentry, "pid")
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and namespace(entry.name, "pid") == wanted:
                found.append(see(int(entry.name)))
        except OSError:  # it has ended
            continue
    return found


@pytest_asyncio.fixture
async def busy(real: RealBackend, base_image: Path) -> AsyncIterator[GvisorMember]:
    """A sandbox in which programs have run."""
    member = await real.backend.boot(real.spec())
    async with Guest(await member.claim(small_claim(base_image))) as guest:
        await guest.greet(hello())
        assert (await guest.shell("sleep 60 > /dev/null 2>&1 & python3 -c 'print(1)'")).text == "1\n"
        yield member
    await member.destroy()


async def test_every_process_of_a_sandbox_is_nobody_without_capabilities_behind_a_filter(busy: GvisorMember) -> None:
    processes = processes_of(busy.record.pid)
    assert len(processes) > 1, "the sentry and the stubs in which the guest's code runs"
    for process in processes:
        assert process.ids == {str(NOBODY)}, process
        assert process.capabilities == {"0" * 16}, process
        assert process.seccomp == FILTERED, process
        assert process.status["NoNewPrivs"] == "1", process
        assert process.status["Groups"] == "", process


async def test_every_thread_of_the_sentry_is_behind_the_filter(busy: GvisorMember) -> None:
    for thread in Path(f"/proc/{busy.record.pid}/task").iterdir():
        status = (thread / "status").read_text()
        assert "Seccomp:\t2" in status
        assert "CapEff:\t0000000000000000" in status


async def test_no_process_of_the_machine_belongs_to_a_sandbox_without_being_confined(
    busy: GvisorMember, real: RealBackend
) -> None:
    inside = {process.pid for process in processes_of(busy.record.pid)}
    mark = str(real.state)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in inside:
            try:
                arguments = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            assert mark not in arguments, f"process {entry.name} stayed outside: {arguments}"


async def test_the_sentry_shares_no_namespace_with_the_machine_but_its_control_groups(busy: GvisorMember) -> None:
    for kind in NAMESPACES:
        shared = namespace(busy.record.pid, kind) == namespace("self", kind)
        assert shared == (kind in OURS), kind


@pytest.fixture
def favoured() -> Iterator[None]:
    """Let this process, as a server may be, be spared when memory runs out and leave cores when it crashes."""
    score = Path("/proc/self/oom_score_adj")
    before, cores = score.read_text(), resource.getrlimit(resource.RLIMIT_CORE)
    with suppress(PermissionError):  # in a container that may not; then its server may not either
        score.write_text("-500")
    resource.setrlimit(resource.RLIMIT_CORE, (cores[1], cores[1]))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, cores)
    with suppress(PermissionError):
        score.write_text(before)


async def test_a_sandbox_neither_leaves_cores_nor_is_spared_when_memory_runs_out(
    favoured: None, busy: GvisorMember
) -> None:
    processes = processes_of(busy.record.pid)
    assert len(processes) > 1
    for process in processes:
        assert resource.prlimit(process.pid, resource.RLIMIT_CORE) == (0, 0)
        assert int(Path(f"/proc/{process.pid}/oom_score_adj").read_text()) >= 0


async def test_two_sandboxes_share_no_namespace(busy: GvisorMember, real: RealBackend) -> None:
    other = await real.backend.boot(real.spec())
    for kind in NAMESPACES:
        if kind not in OURS:
            assert namespace(busy.record.pid, kind) != namespace(other.record.pid, kind), kind


async def test_the_sentrys_root_is_empty_and_sealed(busy: GvisorMember) -> None:
    root = Path(f"/proc/{busy.record.pid}/root")
    assert {path.name for path in root.iterdir()} == {"proc"}
    assert list((root / "proc").iterdir()) == [], "/proc is taken away before the guest runs"
    mounts = Path(f"/proc/{busy.record.pid}/mountinfo").read_text().splitlines()
    assert len(mounts) == 1
    assert set(mounts[0].split()[5].split(",")) >= {"ro", "nosuid", "nodev", "noexec"}


async def test_the_sentry_holds_no_folder_and_no_file_of_the_machine_that_it_was_not_given(
    busy: GvisorMember, real: RealBackend, base_image: Path
) -> None:
    given = {real.member_image, real.agent_image, base_image}
    given |= {path for path in real.state.rglob("*") if path.is_file() or path.is_fifo()}
    for fd in Path(f"/proc/{busy.record.pid}/fd").iterdir():
        target = os.readlink(fd)
        status = fd.stat()
        if stat.S_ISCHR(status.st_mode):
            assert status.st_rdev == os.stat("/dev/null").st_rdev, target
        elif target.startswith("/") and not target.startswith("/memfd:"):
            assert Path(target) in given, target
            assert not stat.S_ISDIR(status.st_mode)


def write_without_end(path: Path) -> None:
    with path.open("r+b", buffering=0) as file:
        while True:
            file.write(bytes(4096))


async def test_nothing_that_the_sentry_can_write_to_takes_space_on_the_machines_disk(busy: GvisorMember) -> None:
    sealed = 0
    for fd in Path(f"/proc/{busy.record.pid}/fd").iterdir():
        flags = Path(f"/proc/{busy.record.pid}/fdinfo/{fd.name}").read_text().split("flags:\t")[1].split()[0]
        if int(flags, 8) & os.O_ACCMODE == os.O_RDONLY or not stat.S_ISREG(fd.stat().st_mode):
            continue
        target = os.readlink(fd)
        assert target.startswith("/memfd:"), target
        if target.startswith("/memfd:skerry-"):
            sealed += 1
            with pytest.raises(PermissionError):
                write_without_end(fd)
            assert fd.stat().st_size == LOG_BYTES
    assert sealed == 3, "the logs of sentry, keeper and agent; all else is the guest's memory, which is counted"


async def test_a_successor_reads_what_was_said_before_it_came(busy: GvisorMember, real: RealBackend) -> None:
    links = Path(f"/proc/{busy.record.pid}/fd").iterdir()
    log = next(link for link in links if "memfd:skerry-sentry" in os.readlink(link))
    with log.open("r+b", buffering=0) as file:
        file.write(b"said by the sentry\n")
    successor = real.another()
    member = await successor.adopt(busy.record)
    assert member is not None
    assert "said by the sentry" in member.last_words()
    await member.destroy()
    successor.close()


async def test_images_are_open_for_reading_only(busy: GvisorMember, real: RealBackend, base_image: Path) -> None:
    seen = 0
    for fd in Path(f"/proc/{busy.record.pid}/fd").iterdir():
        if os.readlink(fd) in {str(real.member_image), str(real.agent_image), str(base_image)}:
            flags = Path(f"/proc/{busy.record.pid}/fdinfo/{fd.name}").read_text().split("flags:\t")[1].split()[0]
            assert int(flags, 8) & os.O_ACCMODE == os.O_RDONLY
            seen += 1
    assert seen == 3


async def test_nothing_of_the_servers_environment_reaches_the_sandbox(busy: GvisorMember) -> None:
    environment = Path(f"/proc/{busy.record.pid}/environ").read_bytes().decode()
    assert tuple(environment.rstrip("\0").split("\0")) == ENVIRONMENT


async def test_what_a_member_has_on_the_machine_is_the_servers_alone(busy: GvisorMember, real: RealBackend) -> None:
    for path in (real.state, *real.state.rglob("*")):
        status = path.lstat()
        assert status.st_uid == 0, path
        if path.is_dir():
            assert stat.S_IMODE(status.st_mode) == 0o700, path


@pytest.fixture
def by_runsc(real: RealBackend, tmp_path: Path) -> Iterator[int]:
    """The sentry of a sandbox that runsc's own command line has started from the same spec."""
    spec = json.loads(real.state.joinpath("member.json").read_text())
    spec["annotations"] |= {
        "dev.gvisor.spec.rootfs.source": str(real.member_image),
        "dev.gvisor.spec.rootfs.type": "erofs",
    }
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "config.json").write_text(json.dumps(spec))
    name, root, pid_file = f"cf{secrets.token_hex(9)}", tmp_path / "root", tmp_path / "pid"
    runsc = [BIN / "runsc", f"--root={root}", *FLAGS, "--overlay2=none"]
    with ExitStack() as files:
        # It gives its standard files to the sandbox, owner and all.
        own = [files.enter_context((tmp_path / f"std{number}").open("w+")) for number in range(3)]

        def call(*words: str) -> None:
            subprocess.run([*runsc, *words], stdin=own[0], stdout=own[1], stderr=own[2], check=True)

        call("create", f"--bundle={tmp_path}/bundle", f"--pid-file={pid_file}", name)
        try:
            call("start", name)
            yield int(pid_file.read_text())
        finally:
            call("delete", "--force", name)
    shutil.rmtree(root)


def confinement(pid: int) -> dict[str, object]:
    """All that sets a sentry apart from the machine."""
    processes = processes_of(pid)
    fields = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")
    mounts = [line.split(" - ") for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    return {
        "processes": {tuple(process.status[field] for field in fields) for process in processes},
        "filters of the sentry": see(pid).status["Seccomp_filters"],
        "users": Path(f"/proc/{pid}/uid_map").read_text().split(),
        "groups": Path(f"/proc/{pid}/gid_map").read_text().split(),
        "namespaces": {kind: namespace(pid, kind) == namespace("self", kind) for kind in NAMESPACES},
        "mounts": [(before.split()[3:5], after.split()[0]) for before, after in mounts],
        "session": os.getsid(pid) == pid,
        "devices": [line for line in Path(f"/proc/{pid}/net/dev").read_text().splitlines() if ":" in line],
    }


async def test_a_sentry_of_ours_is_confined_as_one_that_runsc_starts(
    real: RealBackend, request: pytest.FixtureRequest
) -> None:
    member = await real.backend.boot(real.spec())
    theirs = confinement(request.getfixturevalue("by_runsc"))
    assert confinement(member.record.pid) == theirs
