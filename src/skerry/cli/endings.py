"""The signals that end this program, taken by one owner from its first step to its last."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, TypeVar

T = TypeVar("T")

ENDING: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
GRACE_S: Final = 5.0
"""How long what must still be done may take once a signal has come."""


class Ended(BaseException):
    """A signal came; what was under way has been given up."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number


class Endings:
    """The first of these signals is kept, and told to whoever listens; the others change nothing."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[int], None]] = []
        self.number: int | None = None

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Take the signals while the block lasts."""
        loop = asyncio.get_running_loop()
        for number in ENDING:
            loop.add_signal_handler(number, self._take, number)
        try:
            yield
        finally:
            for number in ENDING:
                loop.remove_signal_handler(number)

    @contextlib.contextmanager
    def told(self, listener: Callable[[int], None]) -> Iterator[None]:
        """Tell `listener` while the block lasts, at once if a signal has come already."""
        self._listeners.append(listener)
        try:
            if self.number is not None:
                listener(self.number)
            yield
        finally:
            self._listeners.remove(listener)

    async def bound(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what `work` returns; at a signal cancel it, wait for what it then does, and raise Ended."""
        task = asyncio.ensure_future(work)

        def give_up(_number: int) -> None:
            task.cancel()

        with self.told(give_up):
            try:
                return await task
            except asyncio.CancelledError:
                if self.number is None:
                    raise
                raise Ended(self.number) from None

    async def finished(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Return what `work` returns, signals or not; once there is one only within five seconds, else None."""
        task = asyncio.ensure_future(work)
        came = asyncio.Event()
        with self.told(lambda _number: came.set()):
            waiting = asyncio.ensure_future(came.wait())
            try:
                await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
                done, _ = await asyncio.wait((task,), timeout=GRACE_S)
                return task.result() if done else None
            finally:
                waiting.cancel()
                task.cancel()
                await asyncio.gather(task, waiting, return_exceptions=True)

    def _take(self, number: int) -> None:
        if self.number is None:
            self.number = number
            for listener in list(self._listeners):
                listener(number)
