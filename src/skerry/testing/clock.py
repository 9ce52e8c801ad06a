"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import heapq
import itertools

_TURNS = 20  # of the loop, for what woke up to go on until it waits again


class VirtualClock:
    """Time that passes only in `advance`."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._now = now
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now

    @property
    def sleepers(self) -> int:
        """How many wait for the clock to be moved."""
        return len(self._sleepers)

    async def sleep(self, seconds: float) -> None:
        """Return once the clock was moved this far."""
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), future))
        await future

    async def advance(self, seconds: float) -> None:
        """Move the clock, waking each sleeper at its own time and letting it go on before the next."""
        end = self._now + seconds
        while self._sleepers and self._sleepers[0][0] <= end:
            self._now, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)
            await settle()
        self._now = end
        await settle()


async def settle() -> None:
    """Let everything that can go on without waiting do so."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)
