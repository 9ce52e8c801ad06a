"""The event loop in a thread behind every synchronous call."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import os
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

CANCEL_S: Final = 10.0
JOIN_S: Final = 5.0


class LoopThread:
    """A loop that runs in a daemon thread until `stop`."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="skerry", daemon=True)
        self._thread.start()

    @property
    def is_current(self) -> bool:
        return threading.current_thread() is self._thread

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(JOIN_S)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()


class _Call(Generic[T]):
    """A coroutine on the loop, whose outcome is awaited elsewhere.

    It is made there as well, where no interrupt can come between its making and its first step.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, make: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self.outcome: concurrent.futures.Future[T] = concurrent.futures.Future()
        self.outcome.set_running_or_notify_cancel()  # whoever waits may give up, but only we settle it
        self._loop = loop
        self._make = make
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self._loop.call_soon_threadsafe(self._start)

    def cancel(self) -> None:
        """Cancel it, also where an interrupt came before `begin`; the outcome is known soon after."""
        self._loop.call_soon_threadsafe(self._cancel)

    def _start(self) -> None:
        self._task = self._loop.create_task(self._settle())
        self._task.add_done_callback(lambda _: self._give_up())

    async def _settle(self) -> None:
        # In the task itself: a callback at its end would come a turn of the loop later, and the caller waits.
        try:
            result = await self._make()
        except asyncio.CancelledError:
            self._give_up()
            raise
        except BaseException as error:
            self.outcome.set_exception(error)
        else:
            self.outcome.set_result(result)

    def _cancel(self) -> None:
        if self._task is None:
            self._give_up()
        else:
            self._task.cancel()

    def _give_up(self) -> None:
        """Settle a call that was cancelled, if it was before its task had run at all."""
        if not self.outcome.done():
            self.outcome.set_exception(concurrent.futures.CancelledError())


_current: LoopThread | None = None
_lock = threading.Lock()
_exit_hooks: list[Callable[[], None]] = []


def run(make: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what the coroutine function returns. An interrupt cancels it, and waits until it has cleaned up."""
    thread = _thread()
    if thread.is_current:
        raise RuntimeError("a synchronous call inside skerry's own event loop would wait for itself; use skerry.aio")
    call = _Call(thread.loop, partial(make, *args, **kwargs))
    try:
        call.begin()
        return call.outcome.result()
    except (KeyboardInterrupt, SystemExit):
        call.cancel()
        concurrent.futures.wait([call.outcome], CANCEL_S)
        raise


async def bridge(make: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what the coroutine function returns, run on the background loop, to a caller on another loop."""
    thread = _thread()
    if thread.is_current:
        return await make(*args, **kwargs)
    call = _Call(thread.loop, partial(make, *args, **kwargs))
    call.begin()
    try:
        return await asyncio.wrap_future(call.outcome)
    except asyncio.CancelledError:
        call.cancel()
        raise


def call(function: Callable[[], T]) -> T:
    """Return what `function` returns when it is called on the background loop."""

    async def work() -> T:
        return function()

    return run(work)


def at_exit(hook: Callable[[], None]) -> None:
    """Call `hook` at the interpreter's exit while the loop still runs, if it ever ran."""
    _exit_hooks.append(hook)


def _thread() -> LoopThread:
    global _current
    with _lock:
        if _current is None:
            _current = LoopThread()
        return _current


def _at_exit() -> None:
    global _current
    if _current is None:
        return
    for hook in _exit_hooks:
        hook()
    _current.stop()
    _current = None


def _after_fork() -> None:
    # The thread does not exist in the child, and the lock may have been held by one that does not either.
    global _current, _lock
    if _current is not None:
        _forgotten.append(_current)
    _current, _lock = None, threading.Lock()


_forgotten: list[LoopThread] = []
atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork)
