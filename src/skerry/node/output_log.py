"""One output channel of a process as a file, in which the offset of a byte is its offset in the channel.

Everything that a successor must know is in the file itself: its length is what is stored, the bytes before its first
data are those that were dropped (a hole punched into it, so that offsets stay what they are), and the sticky bit, which
means nothing on a regular file, says that the channel has ended. A channel that carried nothing has no file. What was
just written is read from the page cache, so a reader that keeps up costs no second copy in memory, and one that lags
costs none at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Self

from skerry.node.output_times import OutputTimes

CHUNK_BYTES: Final = 256 << 10
"""What a reader gets at once."""
CHANNEL_BYTES: Final = 8 << 40
"""What a channel may carry in all: ext4 ends a file of 4 KiB blocks at 16 TiB."""
BLOCK: Final = 4096
NEAR_BYTES: Final = 4 << 20
"""What was written this short a time ago is in the page cache; older bytes may come from a slow disk, in a thread."""
CHUNKS_A_TURN: Final = 4
"""Chunks that a reader gets before the others on the event loop have their turn."""
_MODE: Final = 0o600

_PUNCH_HOLE: Final = 0x02 | 0x01  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, linux/falloc.h
_fallocate = ctypes.CDLL(None, use_errno=True).fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong)


class OutputLog:
    """Bytes from `base` to `end`, appended by one writer and followed by any number of readers.

    Opening it again after the server was killed finds what was stored before; where it is `fresh`, nothing was.
    `on_read` is called whenever a reader has read on or gone away. `began` is when its first byte can have come, in
    Unix seconds.
    """

    def __init__(
        self,
        path: Path,
        *,
        began: float = 0.0,
        on_read: Callable[[], None] = lambda: None,
        fresh: bool = False,
    ) -> None:
        self._path = path
        self._times = OutputTimes(path.with_name(f"{path.name}.times"), began=began)
        self._on_read = on_read
        self._fd = -1
        self._followers: set[Follower] = set()
        self._pending: list[bytes] = []
        self._ending = False
        self.base = 0
        """The oldest offset that is kept; as many bytes were dropped."""
        self.end = 0
        """The offset up to which everything is stored."""
        self.ended = False
        if not fresh:
            self._find()

    def _find(self) -> None:
        """Take up what an earlier server has stored."""
        try:
            fd = self._file(os.O_RDWR)
        except FileNotFoundError:
            return
        found = os.fstat(fd)
        self.end = found.st_size
        self.ended = self._ending = bool(found.st_mode & stat.S_ISVTX)
        self.base = _first_data(fd, self.end)
        self._close_if_idle()

    @property
    def kept(self) -> int:
        """How many bytes are kept."""
        return self.end - self.base

    @property
    def attached(self) -> bool:
        """Whether a reader has it open."""
        return bool(self._followers)

    @property
    def pending(self) -> int:
        """How many bytes could not be stored yet, because the disk is full; they wait in memory."""
        return sum(map(len, self._pending))

    def append(self, parts: Sequence[memoryview]) -> OSError | None:
        """Store bytes behind `end`. What the disk does not take waits in memory for `retry`; the error is returned."""
        if self._ending:
            raise ValueError(f"the output {self._path.name} has ended; nothing can be appended to it")
        self._times.note(self.end + self.pending, time.time())
        if self._pending:
            self._pending.extend(map(bytes, parts))
            return None
        return self._store(parts)

    def retry(self) -> OSError | None:
        """Store what is pending; return the error if the disk still does not take all of it."""
        waiting, self._pending = self._pending, []
        return self._store([memoryview(part) for part in waiting]) if waiting else None

    def finish(self) -> None:
        """Nothing more will be appended. Readers come to the end once everything is stored. May be repeated."""
        self._ending = True
        self._end_if_stored()

    def read(self, offset: int, limit: int) -> tuple[int, bytes]:
        """Return what is kept at `offset`, or at `base` if that is later, and the offset at which it begins."""
        start, size = self._range(offset, limit)
        if not size:
            return start, b""
        try:
            return start, os.pread(self._file(os.O_RDWR), size, start)
        except FileNotFoundError:
            return self._forgotten()
        finally:
            self._close_if_idle()

    async def read_old(self, offset: int, limit: int) -> tuple[int, bytes]:
        """Return what `read` does, without holding up the event loop while the disk works."""
        start, size = self._range(offset, limit)
        if not size:
            return start, b""
        try:
            fd = os.dup(self._file(os.O_RDWR))  # the thread's own: ours may be closed meanwhile
        except FileNotFoundError:
            return self._forgotten()
        return start, await asyncio.get_running_loop().run_in_executor(None, _pread_and_close, fd, size, start)

    def times(self, offset: int) -> list[tuple[int, float]]:
        """Return when the bytes from `offset` on came: where the time is another one, and which, to the second."""
        return [(at, when) for at, when in self._times.since(offset) if at < self.end or at == offset]

    def offset_at(self, when: float) -> int:
        """Return where the bytes begin that came at a time or later, to the second."""
        found = self._times.at(when)
        return self.end if found is None else max(self.base, min(found, self.end))

    def follow(self, offset: int = 0) -> Follower:
        """Return a reader that is attached from now on: iterate over it, and close it."""
        follower = Follower(self, max(offset, 0))
        self._followers.add(follower)
        return follower

    def droppable(self) -> int:
        """Return how many of the oldest bytes no attached reader still has to read; all of them if there is none."""
        limit = min((follower.position for follower in self._followers), default=self.end)
        return max(0, _blocks(min(limit, self.end)) - self.base)

    def drop(self, size: int) -> int:
        """Forget about `size` of the oldest bytes and give their disk space back; return how many went."""
        upto = _blocks(min(self.base + size + BLOCK - 1, self.end))
        if upto <= self.base or not self._punch(upto):
            return 0
        dropped, self.base = upto - self.base, upto
        self._close_if_idle()
        return dropped

    def skip_to(self, offset: int) -> None:
        """Give up the bytes up to `offset`, which are neither here nor with the agent any more."""
        if offset > self.end:
            os.ftruncate(self._file(os.O_RDWR | os.O_CREAT), offset)
            self.base = self.end = offset

    def close(self) -> None:
        """Close the file. It stays where it is."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def remove(self) -> None:
        """Delete the file; readers come to the end."""
        self.close()
        self._path.unlink(missing_ok=True)
        self._times.remove()
        self.base = self.end
        self.ended = self._ending = True
        self._wake_readers()

    def detach(self, follower: Follower) -> None:
        """Let a reader go."""
        if follower in self._followers:
            self._followers.remove(follower)
            self._close_if_idle()
            self._on_read()

    def tell_read(self) -> None:
        self._on_read()

    def _forgotten(self) -> tuple[int, bytes]:
        """Nothing is kept any more: the sandbox of an ended process was forgotten while somebody still had it."""
        self.base = self.end
        return self.end, b""

    def _range(self, offset: int, limit: int) -> tuple[int, int]:
        start = max(offset, self.base)
        return start, max(0, min(limit, self.end - start))

    def _store(self, parts: Sequence[memoryview]) -> OSError | None:
        """Write parts behind `end`; keep the rest in memory where the file system refuses them."""
        failure = None
        left = list(parts)
        try:
            while left:
                _drop_front(left, self._write(left))
        except OSError as exc:
            failure = exc
            self._pending = [bytes(part) for part in left]
        self._end_if_stored()
        self._wake_readers()
        return failure

    def _write(self, parts: list[memoryview]) -> int:
        written = os.pwritev(self._file(os.O_RDWR | os.O_CREAT), parts, self.end)
        self.end += written
        return written

    def _end_if_stored(self) -> None:
        if self._ending and not self._pending and not self.ended:
            # Nothing is made for a channel that carried nothing: a successor hears of its end again, or that of its
            # sandbox. Most are like that, and two files cost an exec more than anything else that the server does.
            if self.end:
                with contextlib.suppress(OSError):  # of a broken disk; without the mark a successor hears again, too
                    os.fchmod(self._file(os.O_RDWR), _MODE | stat.S_ISVTX)
            self.ended = True
            self._close_if_idle()
            self._wake_readers()

    def _punch(self, upto: int) -> bool:
        """Make a hole of everything up to an offset; tell whether the file system can."""
        if _fallocate(self._file(os.O_RDWR), _PUNCH_HOLE, 0, upto) == 0:
            return True
        failure = ctypes.get_errno()
        if failure in (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOSPC):
            return False
        raise OSError(failure, os.strerror(failure), str(self._path))

    def _file(self, flags: int) -> int:
        if self._fd < 0:
            self._fd = os.open(self._path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE)
        return self._fd

    def _close_if_idle(self) -> None:
        """Keep no descriptor for output that has ended and that nobody reads."""
        if self.ended and not self._followers:
            self.close()

    def _wake_readers(self) -> None:
        for follower in self._followers:
            follower.wake()


class Follower:
    """A reader of one log: yields `(offset, bytes)` until the channel has ended.

    It is attached, and so holds a process back at the bound of its log, from its creation until it is closed. Bytes
    count as read when the next ones are asked for.
    """

    def __init__(self, log: OutputLog, offset: int) -> None:
        self._log = log
        self._next = offset
        self._news = asyncio.Event()
        self._turns = 0
        self.position = offset
        """Everything before it has been read."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[int, bytes]:
        self._read_on()
        content = b""
        while not content:
            await self._wait_for_more()
            start, content = await self._read_next()
            self._next = start + len(content)
        return start, content

    def wake(self) -> None:
        self._news.set()

    def close(self) -> None:
        """Stop reading; the log's bound no longer waits for this reader. May be repeated."""
        self._log.detach(self)

    async def aclose(self) -> None:
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    async def _wait_for_more(self) -> None:
        while self._next >= self._log.end:
            if self._log.ended:
                self.close()
                raise StopAsyncIteration
            self._turns = 0
            self._news.clear()
            await self._news.wait()

    async def _read_next(self) -> tuple[int, bytes]:
        if self._log.end - self._next > NEAR_BYTES:
            return await self._log.read_old(self._next, CHUNK_BYTES)
        self._turns += 1
        if self._turns % CHUNKS_A_TURN == 0:
            await asyncio.sleep(0)
        return self._log.read(self._next, CHUNK_BYTES)

    def _read_on(self) -> None:
        if self._next > self.position:
            self.position = self._next
            self._log.tell_read()


def _first_data(fd: int, end: int) -> int:
    """Return where the data of a file begin: everything before was dropped."""
    try:
        return os.lseek(fd, 0, os.SEEK_DATA)
    except OSError as exc:
        if exc.errno == errno.ENXIO:  # no data at all
            return end
        raise


def _pread_and_close(fd: int, size: int, offset: int) -> bytes:
    try:
        return os.pread(fd, size, offset)
    finally:
        os.close(fd)


def _drop_front(parts: list[memoryview], size: int) -> None:
    """Take `size` bytes off the front of parts."""
    while parts and size >= len(parts[0]):
        size -= len(parts.pop(0))
    if size:
        parts[0] = parts[0][size:]


def _blocks(offset: int) -> int:
    """Return an offset rounded down to a whole block."""
    return offset - offset % BLOCK
