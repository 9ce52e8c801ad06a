"""A result that comes once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Outcome(Generic[T]):
    """What any number of callers wait for, each of which may be cancelled alone.

    A shielded future would be the same, a turn of the event loop later for each time that it is passed on. Nobody need
    ask for an error.
    """

    def __init__(self) -> None:
        self._value: T | None = None
        self._error: BaseException | None = None
        self._done = False
        self._waiters: list[asyncio.Future[None]] = []
        self._calls: list[Callable[[Outcome[T]], object]] = []

    def done(self) -> bool:
        return self._done

    @property
    def error(self) -> BaseException | None:
        return self._error

    def result(self) -> T:
        """Return the value or raise the error, once it is done."""
        if not self._done:
            raise asyncio.InvalidStateError("the outcome is not known yet")
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]  # done, and so a T

    def resolve(self, value: T) -> bool:
        """Take the value, unless it is done; return whether this was the first."""
        if self._done:
            return False
        self._value = value
        self._finish()
        return True

    def reject(self, error: BaseException) -> bool:
        """Take an error in place of the value."""
        if self._done:
            return False
        self._error = error
        self._finish()
        return True

    def then(self, call: Callable[[Outcome[T]], object]) -> None:
        """Call something when it is done, before any waiter goes on; at once if it is."""
        if self._done:
            call(self)
        else:
            self._calls.append(call)

    def __await__(self) -> Generator[Any, None, T]:
        if not self._done:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                yield from waiter
            finally:
                if not self._done:
                    self._waiters.remove(waiter)
        return self.result()

    def _finish(self) -> None:
        self._done = True
        calls, self._calls = self._calls, []
        for call in calls:
            call(self)
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
