"""The idle clock of one sandbox: it runs while nobody uses the sandbox, and ends it when it has run for long enough.

A use is whatever somebody else counts: a running exec, an open stream, a file operation. Deciding and refusing are one
step of the event loop: a use that comes before it keeps the sandbox, one that comes after it finds it ending.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class IdleClock:
    """Runs from `begin` on, whenever there is no use.

    `note` is told what a successor must know, at each change: since when it runs, or None while it stands. `on_over`
    is called once, when it has run for `timeout_s`. Without that it only tells the time, and notes nothing: that would
    cost each exec two writes for what ends nobody.
    """

    def __init__(
        self,
        timeout_s: float | None,
        *,
        now: Callable[[], float],
        note: Callable[[float | None], None],
        on_over: Callable[[], None],
    ) -> None:
        self._timeout_s = timeout_s
        self._now = now
        self._note = note
        self._on_over = on_over
        self._uses = 0
        self._begun = False
        self._timer: asyncio.TimerHandle | None = None
        self.over = False
        self.since: float | None = None
        """Since when nobody uses it, in Unix seconds; None while somebody does."""

    def begin(self, since: float | None = None) -> None:
        """Let it run, from an earlier time if it has run since then already."""
        self._begun = True
        self._run(self._now() if since is None else since)

    def stop(self) -> None:
        """Let it stand for good."""
        self._begun = False
        self._stand()

    def enter(self) -> None:
        """One more use."""
        self._uses += 1
        if self._uses == 1 and self._begun:
            self._stand()
            self._tell_successor(None)

    def leave(self) -> None:
        """One use less."""
        self._uses -= 1
        if not self._uses and self._begun:
            self._run(self._now())

    @contextmanager
    def use(self) -> Iterator[None]:
        self.enter()
        try:
            yield
        finally:
            self.leave()

    def _run(self, since: float) -> None:
        if self._uses:
            self._tell_successor(None)
            return
        self.since = since
        self._tell_successor(since)
        if self._timeout_s is not None:
            left_s = max(0.0, since + self._timeout_s - self._now())
            self._timer = asyncio.get_running_loop().call_later(left_s, self._ring)

    def _tell_successor(self, since: float | None) -> None:
        if self._timeout_s is not None:
            self._note(since)

    def _stand(self) -> None:
        self.since = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        self._begun = False
        self.over = True
        self._on_over()
