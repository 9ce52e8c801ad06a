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
