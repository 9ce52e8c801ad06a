from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from skerry.model.errors import ImageBuildError, StartFailedError
from skerry.node.archives import CHUNK_BYTES, save_archive

MIB = 1 << 20


class Sentry:
    """Writes what it is told to, in a thread, as a process of its own would."""

    def __init__(self, write: Callable[[int], None]) -> None:
        self._write = write

    async def save_upper(self, archive_fd: int) -> None:
        await asyncio.to_thread(self._write_to, os.dup(archive_fd))  # a sentry gets a descriptor of its own

    def _write_to(self, own: int) -> None:
        try:
            self._write(own)
        finally:
            os.close(own)


def all_of(content: bytes) -> Callable[[int], None]:
    def write(descriptor: int) -> None:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)

    return write


async def saved(write: Callable[[int], None], path: Path, *, most: int = 64 * MIB, reserve: int = 0) -> None:
    async with asyncio.timeout(20):
        await save_archive(Sentry(write), path, most=most, reserve=reserve)  # type: ignore[arg-type]


async def test_what_the_sentry_writes_arrives_with_holes_for_its_zeros(tmp_path: Path) -> None:
    content = b"begin" + bytes(20 * MIB) + b"middle" * 50_000 + bytes(3 * MIB + 17)
    await saved(all_of(content), tmp_path / "archive")
    assert (tmp_path / "archive").read_bytes() == content
    assert (tmp_path / "archive").stat().st_blocks * 512 < 300_000 + 4 * CHUNK_BYTES


async def test_an_empty_stream_is_an_empty_file(tmp_path: Path) -> None:
    await saved(all_of(b""), tmp_path / "archive")
    assert (tmp_path / "archive").read_bytes() == b""


@pytest.mark.parametrize("filling", [b"\0", b"x"])
async def test_a_stream_that_does_not_end_is_left_at_the_bound(tmp_path: Path, filling: bytes) -> None:
    def endless(descriptor: int) -> None:
        while True:
            os.write(descriptor, filling * CHUNK_BYTES)  # ends with BrokenPipeError once nobody reads

    with pytest.raises(ImageBuildError, match="more than 3 MiB"):
        await saved(endless, tmp_path / "archive", most=3 * MIB)
    assert (tmp_path / "archive").stat().st_size <= 3 * MIB


async def test_nothing_is_written_where_the_disk_has_only_its_reserve(tmp_path: Path) -> None:
    with pytest.raises(ImageBuildError, match="stay for the server"):
        await saved(all_of(b"x" * MIB), tmp_path / "archive", reserve=1 << 60)
    assert (tmp_path / "archive").stat().st_size == 0


async def test_a_sentry_that_fails_is_told_of(tmp_path: Path) -> None:
    def fail(descriptor: int) -> None:
        os.write(descriptor, b"x")
        raise StartFailedError("its sentry has ended", stage="save_upper")

    with pytest.raises(StartFailedError, match="its sentry has ended"):
        await saved(fail, tmp_path / "archive")
