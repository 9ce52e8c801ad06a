"""The log of a process as it is read: what is kept in the order of time, then, if wanted, what comes.

The offsets are kept here, by a session of the process, so a server that is killed in the middle is read on at the right
byte by way of its successor.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from skerry.client._core import views
from skerry.client._core.loglines import LineCutter, Piece, plan
from skerry.client._core.streams import BULK_WINDOW
from skerry.client.client import Client
from skerry.client.connection import path
from skerry.client.logentry import LogEntry, LogSource, moment
from skerry.client.sessions import ProcessSession
from skerry.model.sandboxes import KeptOutput
from skerry.wire import native
from skerry.wire.frames import STDERR, STDOUT

RECENT_BYTES: Final = 256 << 10
ENTRYPOINT: Final = "entrypoint"
SOURCES: Final[dict[int, LogSource]] = {STDOUT: "stdout", STDERR: "stderr"}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be read: of which process, which channels, from where on, and whether also what is still to come.

    With `each` there is an entry for each line, which waits for its end; else one for many, and what is followed comes
    at once. `silence_s` bounds how long nothing may come.
    """

    sandbox: str
    process: str
    channels: Sequence[int] = (STDOUT, STDERR)
    tail: int | None = None
    since: float | None = None
    follow: bool = False
    each: bool = True
    silence_s: float | None = None


async def find(client: Client, wanted: Wanted) -> tuple[str, Sequence[KeptOutput]]:
    """Return the id of the process and what is kept of it; raises NotFoundError."""
    connection = await client.connection()
    target = path("sandboxes", wanted.sandbox, "processes", wanted.process, "output")
    since = None if wanted.since is None else repr(wanted.since)
    answer = await connection.call("GET", target, query={"tail": wanted.tail, "since": since})
    process, kept = views.output(answer)
    return process, [one for one in kept if one.channel in wanted.channels]


async def batches(client: Client, wanted: Wanted) -> AsyncIterator[list[LogEntry]]:
    """Yield the entries, some at a time."""
    process, kept = await find(client, wanted)
    starts = {one.channel: one.start for one in kept}
    opening = native.OpenProcess(
        sandbox=wanted.sandbox, process=process, offsets=(starts.get(STDOUT, 0), starts.get(STDERR, 0))
    )
    session = ProcessSession(client, opening)
    try:
        channels = {one.channel: _Channel(session, one, wanted, process) for one in kept}
        for one in kept:
            if told := channels[one.channel].told_before(one):
                yield told
        for segment in plan(kept):
            channel = channels[segment.channel]
            while batch := await channel.read(segment.end, segment.time):
                yield batch
        if wanted.follow:
            async for batch in _live(list(channels.values()), wanted.silence_s):
                yield batch
        for channel in channels.values():
            if rest := channel.rest():
                yield rest
    finally:
        session.close()


async def attached(client: Client, wanted: Wanted) -> ProcessSession:
    """Return a session of a process with its streams, from where what is wanted begins; raises NotFoundError."""
    process, kept = await find(client, wanted)
    begins = [one.start if wanted.tail is None else max(one.start, one.end - RECENT_BYTES) for one in kept]
    opening = native.OpenProcess(
        sandbox=wanted.sandbox, process=process, offsets=(begins[0], begins[1]), stdin=True, fresh=True
    )
    session = ProcessSession(client, opening)
    await session.start()
    return session


class _Channel:
    """One channel being read."""

    def __init__(self, session: ProcessSession, kept: KeptOutput, wanted: Wanted, process: str) -> None:
        self._session = session
        self._number = kept.channel
        self._at = kept.start
        self._taken: deque[bytes] = deque()
        self._dropped = 0
        self._lines = LineCutter(each=wanted.each, whole=wanted.each or not wanted.follow)
        self._moment = 0.0, moment(0.0)
        self._named = (wanted.sandbox, (process,))
        self._ended = False

    def told_before(self, kept: KeptOutput) -> list[LogEntry]:
        """Return what is to be said about what lies before the first byte."""
        name = SOURCES[self._number]
        if kept.cut:
            return [self._system(f"[{name} begins in the middle of a line]", kept.times[0][1])]
        if 0 < kept.base == kept.start:
            return [self._system(f"[{kept.base:,} bytes of {name} before this are not kept]", kept.times[0][1])]
        return []

    async def read(self, upto: int, when: float) -> list[LogEntry]:
        """Return some of what is kept before an offset, and nothing at that offset."""
        entries: list[LogEntry] = []
        while not entries and self._at < upto and await self._more():
            entries = self._lost(when)
            entries += self._cut(self._chunk(upto - self._at), when)
        return entries

    async def next(self) -> list[LogEntry] | None:
        """Return what came since, waiting for it; None at the end."""
        while await self._more():
            now = time.time()
            entries = self._lost(now)
            entries += self._cut(self._chunk(len(self._taken[0])), now)
            if entries:
                return entries
        return None

    def rest(self) -> list[LogEntry]:
        return self._entries(self._lines.rest())

    async def _more(self) -> bool:
        if not self._taken and not self._ended:
            self._taken.extend(await self._session.take(self._number, BULK_WINDOW))
            self._ended = not self._taken
        return bool(self._taken)

    def _chunk(self, most: int) -> bytes:
        """Return the next bytes that have come, a chunk at a time: its lines are many objects."""
        if most <= 0:
            return b""
        chunk = self._taken.popleft()
        if len(chunk) > most:
            self._taken.appendleft(chunk[most:])
        return chunk[:most]

    def _lost(self, when: float) -> list[LogEntry]:
        """Return the word about bytes that were dropped before they were read."""
        dropped = self._session.incoming[self._number].dropped
        size, self._dropped = dropped - self._dropped, dropped
        if not size:
            return []
        told = [*self.rest(), self._system(f"[{size:,} bytes of {SOURCES[self._number]} are lost]", when)]
        self._at += size
        return told

    def _cut(self, content: bytes, when: float) -> list[LogEntry]:
        offset, self._at = self._at, self._at + len(content)
        return self._entries(self._lines.feed(offset, when, content))

    def _entries(self, pieces: Iterable[Piece]) -> list[LogEntry]:
        sandbox, context = self._named
        source = SOURCES[self._number]
        return [
            LogEntry(
                data=piece.data,
                timestamp=self._at_moment(piece.time),
                source=source,
                object_id=sandbox,
                context_ids=context,
                offset=piece.offset,
            )
            for piece in pieces
        ]

    def _at_moment(self, seconds: float) -> datetime:
        """Return a time; nearly all entries have that of the one before."""
        if self._moment[0] != seconds:
            self._moment = seconds, moment(seconds)
        return self._moment[1]

    def _system(self, text: str, when: float) -> LogEntry:
        sandbox, context = self._named
        return LogEntry(
            data=f"{text}\n".encode(),
            timestamp=moment(when),
            source="system",
            object_id=sandbox,
            context_ids=context,
            offset=self._at,
        )


async def _live(channels: Sequence[_Channel], silence_s: float | None) -> AsyncIterator[list[LogEntry]]:
    """Yield what comes on any of the channels until all have ended, or nothing has come for long enough."""
    waiting = {asyncio.ensure_future(channel.next()): channel for channel in channels}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, timeout=silence_s, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                return
            for task in done:
                channel = waiting.pop(task)
                batch = task.result()
                if batch is not None:
                    yield batch
                    waiting[asyncio.ensure_future(channel.next())] = channel
                elif rest := channel.rest():
                    yield rest
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
