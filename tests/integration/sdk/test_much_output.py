"""Output that nobody reads, up to the bound and beyond it; and a reader that is slower than its process."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Iterator

import pytest
from realserver import Server, wait_for

from skerry import ContainerProcess, OutputDroppedWarning, Sandbox
from skerry.model.limits import GIB, MIB

# Every byte of a MiB tells which MiB it is, so that a hole, a repetition or a shift changes the hash.
WRITER = """
import hashlib, os, sys
size, told = int(sys.argv[1]), hashlib.sha256()
for number in range(size >> 20):
    block = number.to_bytes(4, "little") * (1 << 18)
    told.update(block)
    at = 0
    while at < len(block):
        at += os.write(1, block[at:])
print(told.hexdigest(), file=sys.stderr)
"""
MORE = GIB + 128 * MIB


@pytest.fixture
def box(shared: Server) -> Iterator[Sandbox]:
    with Sandbox.create(block_network=True) as sandbox:
        sandbox.filesystem.write_text(WRITER, "/root/writer.py")
        yield sandbox


class Told:
    """What is remembered of bytes that came, so that a GiB need not be."""

    def __init__(self) -> None:
        self.size, self.first, self.last = 0, b"", b""
        self.hash = hashlib.sha256()

    def take(self, chunks: Iterable[bytes]) -> None:
        for chunk in chunks:
            self.first = self.first or chunk[:4]
            self.last = chunk[-4:]
            self.size += len(chunk)
            self.hash.update(chunk)


def writer(box: Sandbox, size: int) -> ContainerProcess[bytes]:
    return box.exec("python3", "/root/writer.py", str(size), text=False)


def test_1_gib_that_nobody_reads_neither_blocks_the_process_nor_loses_a_byte(box: Sandbox) -> None:
    process = writer(box, GIB)
    assert process.wait() == 0
    told = Told()
    told.take(process.stdout)
    assert (told.size, process.stdout.dropped) == (GIB, 0)
    assert told.hash.hexdigest() == process.stderr.read().decode().strip()


def test_beyond_the_bound_without_a_reader_the_oldest_bytes_go_and_their_number_is_told(box: Sandbox) -> None:
    process = writer(box, MORE)
    assert process.wait() == 0
    told = Told()
    with pytest.warns(OutputDroppedWarning, match="bytes of stdout are lost"):
        told.take(process.stdout)
    dropped = process.stdout.dropped
    assert dropped + told.size == MORE
    assert MORE - GIB <= dropped < MORE - GIB + 96 * MIB
    assert int.from_bytes(told.first, "little") == dropped >> 20
    assert int.from_bytes(told.last, "little") == (MORE >> 20) - 1


def test_beyond_the_bound_an_attached_reader_makes_the_process_wait_and_nothing_is_lost(
    shared: Server, box: Sandbox
) -> None:
    process = writer(box, MORE)
    chunks = iter(process.stdout)
    told = Told()
    told.take([next(chunks)])  # attached from here on, and in no hurry
    stored = lambda: sum(file.stat().st_size for file in (shared.data / "output" / box.object_id).glob("*.1"))  # noqa: E731
    highest = 0

    def stands() -> bool:
        nonlocal highest
        before, highest = highest, stored()
        return highest >= GIB - 64 * MIB and highest == before

    wait_for(stands, lambda: f"the process to wait; {stored()} bytes are stored", seconds=100)
    assert process.poll() is None
    assert box.exec("echo", "alive").stdout.read() == "alive\n"  # its sandbox does not wait with it
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told.take(chunks)
    assert process.wait() == 0
    assert (told.size, process.stdout.dropped) == (MORE, 0)
    assert told.hash.hexdigest() == process.stderr.read().decode().strip()
