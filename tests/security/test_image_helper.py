"""The program that reads what hostile builds have written: what it may do while it reads."""

from __future__ import annotations

import asyncio
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from skerry.apps.binaries import IMAGE_HELPER, binary
from skerry.images.erofs import File, pack_tree, xattrs_path
from skerry.images.merge import merge
from skerry.model.errors import ImageBuildError

NOBODY = ["65534"] * 4
DEADLINE_S = 60.0


@pytest.fixture
def base(tmp_path: Path) -> Path:
    pack_tree({"file": File(content=b"base")}, tmp_path / "base.erofs")
    return tmp_path / "base.erofs"


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """An archive of zeros that takes a while to read and no space."""
    path = tmp_path / "upper.tar"
    with path.open("wb") as file:
        entry = tarfile.TarInfo("./zeros")
        entry.size = 8 << 30
        file.write(entry.tobuf(tarfile.PAX_FORMAT))
        file.truncate(file.tell() + entry.size + 1024)
    return path


def helpers() -> Iterator[int]:
    """The pids of image helpers that this process has started."""
    program = binary(IMAGE_HELPER).name.encode()
    for children in Path("/proc/self/task").glob("*/children"):
        for pid in children.read_text().split():
            try:
                if program in Path(f"/proc/{pid}/cmdline").read_bytes():
                    yield int(pid)
            except OSError:
                continue


def threads(pid: int) -> list[dict[str, str]]:
    found = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        lines = (thread / "status").read_text().splitlines()
        found.append({key: value.strip() for key, _, value in (line.partition(":") for line in lines)})
    return found


async def test_it_is_nobody_without_rights_behind_a_filter_while_it_reads(
    base: Path, large: Path, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: what is given up has to be there")
    merging = asyncio.ensure_future(merge(binary(IMAGE_HELPER), base=base, upper=large, into=tmp_path / "out.erofs"))
    try:
        seen = await asyncio.wait_for(seen_confined(merging, large), DEADLINE_S)
    finally:
        merging.cancel()
        await asyncio.gather(merging, return_exceptions=True)
    for thread in seen:
        assert thread["Uid"].split() == NOBODY
        assert thread["Gid"].split() == NOBODY
        assert thread["Groups"] == ""
        assert {thread[kind] for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
        assert thread["NoNewPrivs"] == "1"
        assert thread["Seccomp"] == "2"


def position(pid: int, file: Path) -> int:
    """Return how far a process has read a file."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        if os.readlink(link) == str(file):
            return int(Path(f"/proc/{pid}/fdinfo/{link.name}").read_text().split()[1])
    return 0


async def seen_confined(merging: asyncio.Future[object], upper: Path) -> list[dict[str, str]]:
    """Return the threads of the helper once it has begun to read; it opens its files as root before."""
    while not merging.done():
        for pid in helpers():
            try:
                reading = position(pid, upper) > 0
                seen = threads(pid)
            except OSError:
                continue
            if reading:
                return seen
        await asyncio.sleep(0.001)
    raise AssertionError("it ended before it was seen at work")


async def test_what_failed_leaves_no_file(base: Path, tmp_path: Path) -> None:
    upper, into = tmp_path / "upper.tar", tmp_path / "out.erofs"
    upper.write_bytes(b"no archive" * 1000)
    with pytest.raises(ImageBuildError):
        await merge(binary(IMAGE_HELPER), base=base, upper=upper, into=into)
    assert not into.exists()
    assert not xattrs_path(into).exists()
