"""A signal that wakes everyone who waits for it now."""

from __future__ import annotations

import asyncio


class Pulse:
    """`beat` wakes the waiters; each then looks for itself whether what it waits for has come."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    def beat(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)
