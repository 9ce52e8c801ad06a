"""What a build changed, taken from its sentry: a stream whose length a guest decides on, into a file that has a bound.

A guest's sparse file costs it no disk, but its zeros come through the stream. They become holes again here.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Sequence
from io import BufferedWriter, FileIO
from pathlib import Path
from typing import Final

from skerry.images.merge import DROPPED, merge
from skerry.model.errors import ImageBuildError, StartFailedError
from skerry.model.nodes import Launch
from skerry.node.interfaces import Member
from skerry.node.output_quota import RESERVE_BYTES

HEADERS_BYTES: Final = 256 << 20
"""What an archive may have on top of the files in it."""
PIPE_BYTES: Final = 1 << 20
CHUNK_BYTES: Final = 64 << 10
TURN_CHUNKS: Final = 128
"""What a thread copies before it comes back: 8 MiB, so that whoever gives up does not wait for long."""
ZEROS: Final = bytes(CHUNK_BYTES)


async def pack_build(member: Member, launch: Launch, into: Path, *, helper: Path) -> Sequence[str]:
    """Write the image of a build with what its member changed to an EROFS file; return what was left out."""
    assert launch.build_disk_mib is not None
    archive = into.with_name(into.name + ".tar")
    most = archive_bound(launch.build_disk_mib)
    try:
        await _save_build(member, launch, archive, most)
        return await merge(helper, base=launch.image.file, upper=archive, into=into, drop=DROPPED, most=most)
    finally:
        archive.unlink(missing_ok=True)


async def _save_build(member: Member, launch: Launch, archive: Path, most: int) -> None:
    try:
        await save_archive(member, archive, most=most)
    except StartFailedError as exc:
        memory = launch.spec.resources.memory_limit_mib
        # The collector lets go of a file only after it has made room for the next ones: with 512 MiB, files of
        # 256 MiB end the sentry and files of 170 MiB do not.
        raise ImageBuildError(
            f"its changes were not saved: {exc.message}. A file is read whole into the {memory} MiB of a build's "
            f"memory: files of up to {memory // 4} MiB fit, sparse ones with their full size"
        ) from exc


def archive_bound(disk_mib: int) -> int:
    """Return how many bytes the archive of a build with such a disk may have."""
    return (disk_mib << 20) + HEADERS_BYTES


async def save_archive(member: Member, path: Path, *, most: int, reserve: int = RESERVE_BYTES) -> None:
    """Write what a member's container changed to a new file, holes for its zeros.

    Raises ImageBuildError once there are more than `most` bytes, or the disk has no more than `reserve` free.
    """
    reader_fd, writer_fd = os.pipe2(os.O_CLOEXEC)
    with FileIO(reader_fd, "rb") as reader, FileIO(writer_fd, "wb") as writer:
        os.set_blocking(reader_fd, False)
        with contextlib.suppress(OSError):
            fcntl.fcntl(writer_fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        with path.open("xb") as file:
            taking = asyncio.create_task(_take_all(reader.fileno(), _Archive(file, most=most, reserve=reserve)))
            saving = asyncio.create_task(_save(member, writer))
            try:
                done, _ = await asyncio.wait((taking, saving), return_when=asyncio.FIRST_EXCEPTION)
                for task in (taking, saving):
                    if task in done:
                        task.result()
            finally:
                taking.cancel()
                saving.cancel()
                await asyncio.gather(taking, saving, return_exceptions=True)


async def _save(member: Member, writer: FileIO) -> None:
    try:
        await member.save_upper(writer.fileno())
    finally:
        writer.close()  # the sentry's own end is closed by now, so the reader comes to the end


async def _take_all(reader: int, archive: _Archive) -> None:
    while not archive.ended:
        await _readable(reader)
        turn = asyncio.ensure_future(asyncio.to_thread(archive.take, reader))
        try:
            await asyncio.shield(turn)
        finally:
            await asyncio.wait((turn,))  # the descriptors are in use until then


async def _readable(descriptor: int) -> None:
    """Return when something can be read, the end included."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)


class _Archive:
    """The file while it is being written."""

    def __init__(self, file: BufferedWriter, *, most: int, reserve: int) -> None:
        self._file = file
        self._most = most
        self._reserve = reserve
        self._size = 0
        self.ended = False

    def take(self, reader: int) -> None:
        """Write what can be read from a pipe without waiting, up to a bound."""
        self._check_room()
        for _ in range(TURN_CHUNKS):
            try:
                piece = os.read(reader, CHUNK_BYTES)
            except BlockingIOError:
                return
            if not piece:
                self._end()
                return
            self._put(piece)

    def _put(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self._most:
            raise ImageBuildError(
                f"its changes are more than {self._most >> 20:,} MiB, which a build may have, sparse files with "
                "their full size: remove large files in the step that makes them"
            )
        if piece == ZEROS[: len(piece)]:
            self._file.seek(len(piece), os.SEEK_CUR)
            return
        try:
            self._file.write(piece)
        except OSError as exc:
            raise ImageBuildError(f"its changes could not be written to {self._file.name}: {exc.strerror}") from exc

    def _end(self) -> None:
        self._file.flush()
        os.ftruncate(self._file.fileno(), self._size)
        self.ended = True

    def _check_room(self) -> None:
        found = os.fstatvfs(self._file.fileno())
        free = found.f_bavail * found.f_frsize
        if free <= self._reserve:
            raise ImageBuildError(
                f"{self._file.name}: its disk has {free >> 20:,} MiB free, of which {self._reserve >> 20:,} MiB stay "
                "for the server: make room there, or set SKERRY_DATA_DIR to a larger disk"
            )
