from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterator

import pytest
from waiting import until

from skerry.node.pipes import PipeWriter


@contextlib.contextmanager
def written() -> Iterator[tuple[PipeWriter, int]]:
    """Yield a writer, and the end of its pipe from which to read."""
    reader, fd = os.pipe()
    writer = PipeWriter(fd, lost=lambda reason: pytest.fail(reason))
    try:
        yield writer, reader
    finally:
        writer.close()
        os.close(reader)


def has_come(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


async def test_a_patient_frame_goes_before_the_next_one_in_the_same_write() -> None:
    with written() as (writer, fd):
        writer.patient(b"a")
        writer.patient(b"b")
        assert not has_come(fd)
        writer.control(b"c")
        assert os.read(fd, 99) == b"abc"


async def test_a_patient_frame_goes_along_with_content_too() -> None:
    with written() as (writer, fd):
        writer.patient(b"a")
        writer.content(b"head", memoryview(b"body"))
        assert os.read(fd, 99) == b"aheadbody"


async def test_a_patient_frame_goes_alone_when_nothing_follows() -> None:
    with written() as (writer, fd):
        writer.patient(b"a")
        await until(lambda: has_come(fd))
        assert os.read(fd, 99) == b"a"
        writer.patient(b"b")
        await until(lambda: has_come(fd))


async def test_a_patient_frame_of_a_writer_that_is_closed_goes_nowhere() -> None:
    with written() as (writer, fd):
        writer.patient(b"a")
        writer.close()
        assert os.read(fd, 99) == b""
