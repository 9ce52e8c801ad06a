"""A build's answer: events as lines while it goes on, then the image or the error."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

import msgspec
from starlette.responses import StreamingResponse

from skerry.doors.native import payloads, rendering
from skerry.doors.native.calls import Call, error_body
from skerry.doors.native.errors import tell
from skerry.engine.interfaces import BuildEvent, BuildStep
from skerry.model.sandboxes import ImageView

WAITING_MAX = 1000  # events that a slow reader has not taken; beyond it the oldest go, and their number is told


class Waiting:
    """Events on their way to one reader. Putting one in never blocks the build."""

    def __init__(self) -> None:
        self._events: deque[BuildEvent] = deque()
        self._dropped = 0
        self._news = asyncio.Event()

    def put(self, event: BuildEvent) -> None:
        if len(self._events) == WAITING_MAX:
            self._events.popleft()
            self._dropped += 1
        self._events.append(event)
        self._news.set()

    async def news(self) -> None:
        """Return when there is something to take."""
        await self._news.wait()

    def take(self) -> list[payloads.BuildLine]:
        """Return what waits, as lines."""
        lines: list[payloads.BuildLine] = []
        if self._dropped:
            lines.append(payloads.LogLine(text=f"[{self._dropped} events left out: this reader was slow]\n"))
        lines += [_line(event) for event in self._events]
        self._events.clear()
        self._dropped = 0
        self._news.clear()
        return lines


async def resolve_image(call: Call) -> StreamingResponse:
    """Return the lines of a build. A caller that goes away leaves the build to the others."""
    body: payloads.ImageBody = call.body
    access = rendering.host_access(body.host_access, call.engine.trust)
    waiting = Waiting()
    resolving = asyncio.ensure_future(
        call.engine.images.resolve(body.definition, access, body.force_build, waiting.put)
    )
    return StreamingResponse(_lines(resolving, waiting), media_type="application/x-ndjson")


async def _lines(resolving: asyncio.Future[ImageView], waiting: Waiting) -> AsyncIterator[bytes]:
    encode = msgspec.json.Encoder().encode_lines
    try:
        while not resolving.done():
            news = asyncio.ensure_future(waiting.news())
            await asyncio.wait((news, resolving), return_when=asyncio.FIRST_COMPLETED)
            news.cancel()
            yield encode(waiting.take())
        yield encode([*waiting.take(), await _last_line(resolving)])
    finally:
        resolving.cancel()


async def _last_line(resolving: asyncio.Future[ImageView]) -> payloads.BuildLine:
    try:
        return payloads.ImageLine(image=rendering.image(await resolving))
    except Exception as exc:
        return payloads.ErrorLine(error=error_body(tell(exc, path="/v1/images")))


def _line(event: BuildEvent) -> payloads.BuildLine:
    if isinstance(event, BuildStep):
        return payloads.StepLine(index=event.index, count=event.count, title=event.title)
    return payloads.LogLine(text=event.text)
