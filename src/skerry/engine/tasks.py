"""Tasks that somebody owns."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any

from skerry.engine.interfaces import Clock
from skerry.model.errors import Error
from skerry.model.events import Events

log = Events("skerry.engine")


async def repeat(
    work: Callable[[], Awaitable[object]], *, clock: Clock, every_s: float, log: Events, failed: str
) -> None:
    """Do the work now and every `every_s` seconds. A failure goes to `log` as the event `failed`."""
    while True:
        try:
            await work()
        except (Error, OSError) as exc:  # a full disk is when cleaning up is needed most: try again
            log.error(failed, exc=exc)
        await clock.sleep(every_s)


class Tasks:
    """A group of tasks that ends with its block. A task that fails is logged and does not end the others."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Tasks:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        ending = list(self._running)
        for task in ending:
            task.cancel()
        if ending:
            await asyncio.wait(ending)

    def start(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Run `work` until it returns or this group ends."""
        task = asyncio.get_running_loop().create_task(self._guarded(work, name), name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        task.add_done_callback(lambda _: work.close())  # one that was cancelled before its first step never ran
        return task

    async def _guarded(self, work: Coroutine[Any, Any, None], name: str) -> None:
        try:
            await work
        except Exception as exc:
            log.error("task.failed", exc=exc, task=name)
