"""The two pipes to an agent on the event loop: bytes in, handed over in place, and frames out, never blocking.

asyncio has no BufferedProtocol for pipes (its pipe transport calls data_received with a fresh bytes for each read), so
the reader watches the descriptor itself and reads into a buffer that all links of the thread share.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from skerry.wire.frames import MAX_DATA

BUFFER_BYTES: Final = 2 << 20
"""A whole frame fits behind any unfinished one: 2 MiB is more than the largest payload and a full pipe of 1 MiB."""
BULK_BYTES: Final = 512 << 10
"""How many bytes of content may wait for the pipe."""
CONTROL_BYTES: Final = 4 << 20
"""How many bytes of control frames may wait; an agent that lets more pile up is given up."""
PATIENCE_S: Final = 0.01
"""How long a frame may wait for another with which it can go."""
_MANY: Final = 64
"""Buffers in one writev; well below IOV_MAX (1,024)."""

assert BUFFER_BYTES > MAX_DATA + (64 << 10)

_thread = threading.local()


def _scratch() -> memoryview:
    """Return this thread's receive buffer. It is only used within one callback, so one serves every link."""
    view: memoryview | None = getattr(_thread, "scratch", None)
    if view is None:
        view = _thread.scratch = memoryview(bytearray(BUFFER_BYTES))
    return view


class PipeReader:
    """Hands what arrives on a pipe to `take`, in place.

    `take` gets all bytes that are not yet used up and returns how many it used, and whether it stopped of its own
    accord; then it gets the rest in a later turn of the loop, so that one busy pipe does not keep the others waiting.
    `lost` is called once, with the reason, at the end of file or when reading fails.
    """

    def __init__(
        self,
        fd: int,
        *,
        take: Callable[[memoryview], tuple[int, bool]],
        lost: Callable[[str], None],
    ) -> None:
        self._fd = fd
        self._take = take
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._rest = b""
        self._at = 0
        self._paused = True
        self._closed = False
        os.set_blocking(fd, False)

    def resume(self) -> None:
        """Start, or go on after `pause`."""
        if self._paused and not self._closed:
            self._paused = False
            self._loop.call_soon(self._go_on)

    def pause(self) -> None:
        """Hand nothing over until `resume`; to be called from `take`, which then says that it has stopped."""
        self._paused = True

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._rest = b""

    def _go_on(self) -> None:
        """Hand over what was left, and read again once nothing is left that could be used."""
        if self._closed or self._paused:
            return
        used, stopped = self._take(memoryview(self._rest)[self._at :])
        self._at += used
        if self._closed:
            return
        if stopped:
            self._continue_later()
        else:
            self._rest, self._at = self._rest[self._at :], 0
            self._loop.add_reader(self._fd, self._readable)

    def _continue_later(self) -> None:
        if not self._paused:
            self._loop.call_soon(self._go_on)

    def _readable(self) -> None:
        view, kept = _scratch(), len(self._rest)
        view[:kept] = self._rest
        try:
            size = os.readv(self._fd, [view[kept:]])
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            self._lost(f"cannot read from the agent: {exc}")
            return
        if size == 0:
            self._lost("the agent has closed its pipe")
            return
        self._hand_over(view[: kept + size])

    def _hand_over(self, view: memoryview) -> None:
        used, stopped = self._take(view)
        if self._closed:
            return
        self._rest = bytes(view[used:])
        if stopped:
            self._loop.remove_reader(self._fd)
            self._continue_later()


class PipeWriter:
    """Writes frames to a pipe without ever blocking: control frames first, content behind them.

    `lost` is called once, with the reason, when the pipe is gone or more than CONTROL_BYTES of control frames wait.
    """

    def __init__(self, fd: int, *, lost: Callable[[str], None]) -> None:
        self._fd = fd
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._control: deque[bytes] = deque()
        self._control_bytes = 0
        self._patient: list[bytes] = []
        self._bulk: deque[tuple[bytes, memoryview]] = deque()
        self._bulk_bytes = 0
        self._begun: list[memoryview] = []  # taken from the queues; nothing may come between its parts
        self._held = False
        self._waiting = False
        self._closed = False
        self._patience: asyncio.TimerHandle | None = None
        self._room: asyncio.Future[None] | None = None
        os.set_blocking(fd, False)

    def control(self, frame: bytes) -> None:
        """Queue a frame ahead of all content."""
        if not frame or self._closed:
            return
        self._take_along()
        self._queue(frame)
        if self._control_bytes > CONTROL_BYTES:
            self._lost("the agent does not read what it is sent")
            return
        self._write_soon()

    def patient(self, frame: bytes) -> None:
        """Queue a frame that nobody waits for: each write wakes a sentry that sleeps, so it goes with the next one."""
        if not frame or self._closed:
            return
        self._patient.append(frame)
        if self._patience is None:
            self._patience = self._loop.call_later(PATIENCE_S, self._end_patience)

    def content(self, header: bytes, content: memoryview) -> None:
        """Queue a header and its content, which must not change any more, behind what is queued."""
        if self._closed:
            return
        self._take_along()
        self._bulk.append((header, content))
        self._bulk_bytes += len(content)
        self._write_soon()

    def content_room(self) -> int:
        """Return how many bytes of content may be queued now."""
        return max(0, BULK_BYTES - self._bulk_bytes)

    async def wait_room(self) -> None:
        """Return when content may be queued again, or when the pipe is gone."""
        while self.content_room() == 0 and not self._closed:
            if self._room is None:
                self._room = self._loop.create_future()
            await asyncio.shield(self._room)

    def hold(self) -> None:
        """Gather what is queued until `release`, to write it at once."""
        self._held = True

    def release(self) -> None:
        self._held = False
        self._write_soon()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._take_along()
        self._loop.remove_writer(self._fd)
        os.close(self._fd)
        self._control.clear()
        self._bulk.clear()
        self._begun.clear()
        self._tell_room()

    def _queue(self, frame: bytes) -> None:
        self._control.append(frame)
        self._control_bytes += len(frame)

    def _take_along(self) -> None:
        """Queue what was patient: something is about to be written."""
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
            for frame in self._patient:
                self._queue(frame)
            self._patient.clear()

    def _end_patience(self) -> None:
        self._take_along()
        self._write_soon()

    def _write_soon(self) -> None:
        if not self._held and not self._waiting and not self._closed:
            self._write()

    def _write(self) -> None:
        """Write until nothing is left or the pipe is full; then be called again when it is not."""
        try:
            while self._begin():
                self._drop_written(os.writev(self._fd, self._begun[:_MANY]))
        except (BlockingIOError, InterruptedError):
            self._wait(True)
            return
        except OSError as exc:
            self._lost(f"cannot write to the agent: {exc}")
            return
        self._wait(False)

    def _begin(self) -> bool:
        """Take what comes next from the queues, control frames first; tell whether there is anything."""
        if not self._begun:
            while self._control and len(self._begun) < _MANY:
                frame = self._control.popleft()
                self._control_bytes -= len(frame)
                self._begun.append(memoryview(frame))
            if self._bulk and len(self._begun) < _MANY:
                header, content = self._bulk.popleft()
                self._bulk_bytes -= len(content)
                self._begun += (memoryview(header), content) if content else (memoryview(header),)
                self._tell_room()
        return bool(self._begun)

    def _drop_written(self, size: int) -> None:
        done = 0
        for part in self._begun:
            if size < len(part):
                self._begun[done] = part[size:]
                break
            size -= len(part)
            done += 1
        del self._begun[:done]

    def _wait(self, waiting: bool) -> None:
        if waiting != self._waiting:
            self._waiting = waiting
            if waiting:
                self._loop.add_writer(self._fd, self._write)
            else:
                self._loop.remove_writer(self._fd)

    def _tell_room(self) -> None:
        if self._room is not None and (self._closed or self.content_room()):
            self._room.set_result(None)
            self._room = None
