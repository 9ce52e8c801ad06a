"""Which control groups are found and refused, and what is written into them."""

from __future__ import annotations

from pathlib import Path

import pytest

from skerry.model.errors import ConflictError, InternalError, IsolationUnavailableError
from skerry.model.ids import SANDBOX, SandboxId, encode
from skerry.model.limits import MIB
from skerry.node.cgroups import CgroupsV1, CgroupV1, MountedCgroups, detect, look

ONE, TWO = SandboxId(encode(SANDBOX, 1)), SandboxId(encode(SANDBOX, 2))

SEPARATE = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
"""
TOGETHER = """\
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:8 master:2 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
39 31 0:36 / /odd\\040place/pids rw - cgroup cgroup rw,pids
"""


def mountinfo(folder: Path, text: str) -> Path:
    file = folder / "mountinfo"
    file.write_text(text)
    return file


def test_controllers_are_found_each_in_its_own_hierarchy(tmp_path: Path) -> None:
    found = look(mountinfo(tmp_path, SEPARATE))
    assert found.v1 == {name: Path("/sys/fs/cgroup") / name for name in ("cpu", "cpuacct", "memory", "pids")}
    assert found.v2 is None


def test_controllers_that_are_mounted_together_share_a_folder(tmp_path: Path) -> None:
    found = look(mountinfo(tmp_path, TOGETHER))
    assert found.v1["cpu"] == found.v1["cpuacct"] == Path("/sys/fs/cgroup/cpu,cpuacct")
    assert found.v1["pids"] == Path("/odd place/pids")
    group = CgroupV1({name: path / "x" for name, path in found.v1.items()})
    assert len(group.procs) == 3, "a process joins each hierarchy once"


def unified(folder: Path, *controllers: str) -> str:
    (folder / "v2").mkdir()
    (folder / "v2" / "cgroup.controllers").write_text(" ".join(controllers))
    return f"41 31 0:38 / {folder}/v2 rw - cgroup2 cgroup2 rw\n"


def test_a_hybrid_whose_version_2_holds_nothing_that_we_need_is_taken(tmp_path: Path) -> None:
    groups = detect("skerry", mountinfo=mountinfo(tmp_path, SEPARATE + unified(tmp_path, "hugetlb")))
    assert isinstance(groups, CgroupsV1)


def test_version_2_alone_is_refused_with_what_was_found_and_what_to_do(tmp_path: Path) -> None:
    text = unified(tmp_path, "cpu", "memory", "pids")
    with pytest.raises(IsolationUnavailableError) as caught:
        detect("skerry", mountinfo=mountinfo(tmp_path, text))
    said = str(caught.value)
    assert f"version 2 at {tmp_path}/v2 with cpu, memory, pids" in said
    assert "systemd.unified_cgroup_hierarchy=0" in said


def test_a_hybrid_that_keeps_memory_in_version_2_is_refused(tmp_path: Path) -> None:
    text = SEPARATE.replace("rw,memory", "rw,freezer") + unified(tmp_path, "memory")
    with pytest.raises(IsolationUnavailableError, match=r"need the control groups memory in version 1.*not supported"):
        detect("skerry", mountinfo=mountinfo(tmp_path, text))


def test_a_machine_without_control_groups_is_told_how_to_mount_them(tmp_path: Path) -> None:
    with pytest.raises(IsolationUnavailableError, match=r"this machine has none; .*mount -t cgroup -o cpu"):
        detect("skerry", mountinfo=mountinfo(tmp_path, "1 2 0:1 / / rw - ext4 /dev/vda rw\n"))


@pytest.fixture
def groups(tmp_path: Path) -> CgroupsV1:
    """Hierarchies of plain folders: made, found and removed as the real ones."""
    v1 = {name: tmp_path / name for name in ("cpu", "cpuacct", "memory", "pids")}
    for folder in v1.values():
        folder.mkdir()
    return CgroupsV1(MountedCgroups(v1), "skerry-test")


def test_a_group_is_made_once_and_found_until_it_is_removed(groups: CgroupsV1) -> None:
    assert groups.find(ONE) is None
    made = groups.make(ONE)
    found = groups.find(ONE)
    assert found is not None
    assert found.procs == made.procs
    with pytest.raises(ConflictError, match="already"):
        groups.make(ONE)
    assert groups.find(ONE) is not None, "the group that was there is another's"
    made.remove()
    made.remove()
    assert groups.find(ONE) is None


def test_a_group_that_cannot_be_made_whole_is_not_made_at_all(groups: CgroupsV1) -> None:
    groups.found.v1["memory"].rmdir()
    groups.found.v1["memory"].write_text("in the way")
    with pytest.raises(NotADirectoryError):
        groups.make(ONE)
    assert groups.find(ONE) is None


def test_a_sweep_removes_half_made_groups_and_keeps_what_is_kept_and_what_is_not_ours(groups: CgroupsV1) -> None:
    groups.make(ONE)
    groups.make(TWO)
    half = groups.found.v1["pids"] / "skerry-test" / "0"
    half.mkdir()
    (groups.found.v1["cpu"] / "skerry-test" / TWO.split("_")[1]).rmdir()
    assert groups.sweep([ONE]) == [f"cgroups: removed the control group of {TWO}"]
    assert groups.sweep([ONE]) == []
    assert groups.find(ONE) is not None
    assert half.exists()


def test_closing_removes_our_folders_unless_a_sandbox_is_left(groups: CgroupsV1) -> None:
    group = groups.make(ONE)
    groups.close()
    assert groups.find(ONE) is not None
    group.remove()
    groups.close()
    assert not any((folder / "skerry-test").exists() for folder in groups.found.v1.values())


def kernel_files(group: CgroupV1, *, swap: int | None) -> tuple[Path, Path]:
    memory = next(folder for folder in group.folders if folder.parent.parent.name == "memory")
    limit, both = memory / "memory.limit_in_bytes", memory / "memory.memsw.limit_in_bytes"
    if swap is not None:
        both.write_text(str(swap))
    return limit, both


@pytest.mark.parametrize("swap", [2**63 - 4096, 64 * MIB, 100 * MIB, 200 * MIB])
def test_memory_and_swap_together_get_the_limit_of_memory(groups: CgroupsV1, swap: int) -> None:
    group = groups.make(ONE)
    limit, both = kernel_files(group, swap=swap)
    group.limit(memory_mib=100, cpus=1.5, processes=50)
    assert limit.read_text() == both.read_text() == str(100 * MIB)


def test_without_an_account_of_swap_memory_alone_is_limited(groups: CgroupsV1) -> None:
    group = groups.make(ONE)
    limit, both = kernel_files(group, swap=None)
    group.limit(memory_mib=100, cpus=1.5, processes=50)
    assert limit.read_text() == str(100 * MIB)
    assert not both.exists()


@pytest.mark.parametrize(("cpus", "quota"), [(1.5, 150_000), (0.125, 12_500), (0.001, 1000), (64.0, 6_400_000)])
def test_cpus_become_a_share_of_each_tenth_of_a_second(groups: CgroupsV1, cpus: float, quota: int) -> None:
    group = groups.make(ONE)
    group.limit(memory_mib=100, cpus=cpus, processes=50)
    cpu = groups.found.v1["cpu"] / "skerry-test" / ONE.split("_")[1]
    assert (cpu / "cpu.cfs_quota_us").read_text() == str(quota)
    assert (cpu / "cpu.cfs_period_us").read_text() == "100000"


def test_a_limit_that_the_kernel_refuses_is_named(groups: CgroupsV1) -> None:
    group = groups.make(ONE)
    limit, _ = kernel_files(group, swap=None)
    limit.mkdir()
    with pytest.raises(InternalError, match=r"memory\.limit_in_bytes"):
        group.limit(memory_mib=100, cpus=1, processes=50)
