"""A process's streams to and from one client, until its exit and the end of its channels are told.

What most processes never have (input, signals, output that somebody reads) gets a task when it comes. To make four
for each exec, only to cancel them, cost the server a fifth of its time for a short command.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeAlias

from skerry.doors.native.streams import Stream, ended
from skerry.doors.native.windows import FirstUse, ReceiveWindow
from skerry.engine.interfaces import ProcessHandle
from skerry.model.errors import ConflictError
from skerry.model.text import escaped
from skerry.wire import native
from skerry.wire.frames import FrameType

Work: TypeAlias = Callable[[], Coroutine[Any, Any, None]]


async def follow(handle: ProcessHandle, stream: Stream, *, stdin: bool, fresh: bool = False) -> None:
    """Carry a process's streams until its exit and the end of its channels are told.

    A client that is `fresh` has sent nothing before, and begins behind what others have.
    """
    await Following(handle, stream, fresh=fresh).run(stdin=stdin)


class Following:
    """One client that follows one process."""

    def __init__(self, handle: ProcessHandle, stream: Stream, *, fresh: bool) -> None:
        self._handle = handle
        self._stream = stream
        self._known = handle.stdin_sent
        self._taken = self._known if fresh else handle.stdin_acknowledged
        self._tasks = asyncio.TaskGroup()
        self._uses: list[FirstUse] = []
        self._listeners: list[asyncio.Task[None]] = []
        self._carried = asyncio.Event()
        self._unended = set(stream.outputs)

    async def run(self, *, stdin: bool) -> None:
        await self._tell_started(stdin=stdin)
        async with self._tasks:
            try:
                self._serve_first_uses()
                await self._tell_exit()
                if self._unended:
                    await self._carried.wait()
            finally:
                for use in self._uses:
                    use.forget()
                for listener in self._listeners:
                    listener.cancel()

    async def _tell_started(self, *, stdin: bool) -> None:
        window = self._stream.input = ReceiveWindow(offset=self._taken) if stdin else None
        limit = window.limit if window else 0
        started = native.ProcessStarted(process=self._handle.view.id, stdin=self._taken, stdin_limit=limit)
        await self._stream.say(FrameType.STARTED, started)

    def _serve_first_uses(self) -> None:
        self._listen(self._stream.signalled, self._pass_signals)
        if self._stream.input is not None:
            self._listen(self._stream.input.used, partial(self._feed, self._stream.input))
        if self._handle.view.terminal:
            self._listen(self._stream.resized, self._pass_sizes)
        for channel, window in self._stream.outputs.items():
            output = self._handle.output(channel)
            if output.ended and output.end <= window.sent:
                window.granted.note()  # nothing needs credit: there is only the end to tell
            self._at(window.granted, partial(self._pump, channel))

    def _at(self, use: FirstUse, work: Work) -> None:
        """Begin `work` at the first use."""
        self._uses.append(use)
        use.serve(lambda: self._begin(work()))

    def _listen(self, use: FirstUse, work: Work) -> None:
        """Begin `work` at the first use, and end it when everything is told."""
        self._uses.append(use)
        use.serve(lambda: self._listeners.extend(self._begin(work())))

    def _begin(self, work: Coroutine[Any, Any, None]) -> list[asyncio.Task[None]]:
        """Return the task, if there is still one to be had: another may have failed, and all are ending."""
        try:
            return [self._tasks.create_task(work)]
        except RuntimeError:
            work.close()
            return []

    async def _tell_exit(self) -> None:
        end = await self._handle.wait()
        told = native.Exit(code=end.code, signal=end.signal, reason=end.reason.value, evidence=escaped(end.evidence))
        await self._stream.say(FrameType.EXIT, told)

    async def _pump(self, channel: int) -> None:
        """Carry one output channel to its END. Begun when there is credit: a handle alone is no reader."""
        window = self._stream.outputs[channel]
        output = self._handle.output(channel)
        async with ended(output.follow(window.sent)) as chunks:
            async for offset, content in chunks:
                if offset > window.sent:
                    window.jump(offset)
                await self._stream.send(channel, content)
        if output.end > window.sent:
            window.jump(output.end)
        await self._stream.send_end(channel)
        self._unended.discard(channel)
        if not self._unended:
            self._carried.set()

    async def _feed(self, window: ReceiveWindow) -> None:
        """Carry stdin to the process; what it cannot take any more is acknowledged and dropped.

        What a client has written before a lost connection it sends again. Beyond that all bytes are this stream's own,
        or somebody else writes too, and who comes second is told.
        """
        known, closed = self._known, False
        while (chunk := await window.take()) is not None:
            taken = window.taken
            if not closed:
                try:
                    taken = await self._handle.write_stdin(window.taken - len(chunk), memoryview(chunk), known=known)
                    known = max(known, window.taken)
                except ConflictError as exc:
                    if "writer" in exc.details:
                        raise
                    closed = True
            await self._stream.acknowledge(min(taken, window.taken))
        if not closed:
            await self._handle.end_stdin()

    async def _pass_signals(self) -> None:
        while True:
            for number in await self._stream.next_signals():
                await self._handle.signal(number)

    async def _pass_sizes(self) -> None:
        while True:
            rows, columns = await self._stream.next_size()
            await self._handle.resize(rows, columns)
