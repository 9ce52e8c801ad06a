"""Logs that have lost bytes: what is not there is told, and what is there is read whole."""

from __future__ import annotations

import pytest

import skerry
from skerry.testing.outputs import BOUND

pytestmark = pytest.mark.usefixtures("client")


def test_bytes_that_are_not_kept_are_told_before_those_that_are() -> None:
    size = 2 * BOUND
    box = skerry.Sandbox.create()
    process = box.exec("spew", str(size))
    process.wait()
    told, *entries = box.logs.fetch(process=process.object_id)
    kept = b"".join(entry.data for entry in entries)
    assert 0 < len(kept) <= BOUND
    assert (told.source, told.message) == (
        "system",
        f"[{size - len(kept):,} bytes of stdout before this are not kept]\n",
    )
    assert entries[0].offset == size - len(kept)
    assert kept == (bytes(range(256)) * (size // 256))[-len(kept) :]
    (last,) = box.logs.tail(1, process=process.object_id)
    assert last.data == kept[-len(last.data) :]


def test_lines_are_made_a_chunk_at_a_time_however_many_there_are() -> None:
    box = skerry.Sandbox.create()
    process = box.exec("spew", str(BOUND // 2))
    process.wait()
    reader = box.logs.fetch(process=process.object_id)
    assert next(reader).data.endswith(b"\n")
    assert 0 < len(reader._inner._items) <= 256 << 2  # a line of 256 bytes each, of a chunk of 256 KiB
    assert sum(1 for _ in reader) == BOUND // 2 // 256  # and what is behind the last newline
