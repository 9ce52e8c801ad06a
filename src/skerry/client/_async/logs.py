"""What the processes of a sandbox have written, for as long as it is kept."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any, Generic, TypeVar, cast

from skerry.client import logs
from skerry.client.client import Client
from skerry.client.logentry import LogEntry, LogSource
from skerry.model.errors import InvalidError
from skerry.wire.frames import STDERR, STDOUT

T = TypeVar("T", bound=LogEntry)

_CHANNELS = {None: (STDOUT, STDERR), "stdout": (STDOUT,), "stderr": (STDERR,)}


class SandboxLogs:
    """The log of a sandbox: of its entrypoint, or with `process` of an exec. It is there after the end too.

    Each call returns a `LogReader`, to iterate over.
    """

    def __init__(self, client: Client, sandbox: str) -> None:
        self._client = client
        self._sandbox = sandbox

    def fetch(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        source: LogSource | None = None,
        search_text: str = "",
        process: str | None = None,
    ) -> LogReader[LogEntry]:
        """Return what is kept, in the order of time, to the second: of a stretch of time, lines with a text in them."""
        wanted = self._wanted(process, source, since=_seconds(since, "since"))
        last = _seconds(until, "until")

        def fits(entry: LogEntry) -> bool:
            in_time = last is None or entry.timestamp.timestamp() <= last
            return in_time and (not search_text or search_text in entry.message)

        return LogReader(self._client, wanted, fits)

    def tail(
        self, entries: int = 100, *, source: LogSource | None = None, process: str | None = None
    ) -> LogReader[LogEntry]:
        """Return the last lines of stdout and as many of stderr."""
        if isinstance(entries, bool) or not isinstance(entries, int) or entries < 0:
            raise InvalidError(f"logs.tail: entries={entries!r}: give a number of lines, 0 or more")
        return LogReader(self._client, self._wanted(process, source, tail=entries))

    def stream(
        self,
        timeout: float | None = None,
        *,
        tail: int | None = None,
        since: datetime | None = None,
        source: LogSource | None = None,
        process: str | None = None,
    ) -> LogReader[LogEntry]:
        """Return what is kept, or its last lines, and then what comes, until the process has closed its output.

        With a `timeout` it ends when nothing has come for so many seconds. Following counts as a use of the sandbox.
        """
        return LogReader(
            self._client,
            self._wanted(process, source, tail=tail, since=_seconds(since, "since"), follow=True, silence_s=timeout),
        )

    def _wanted(self, process: str | None, source: LogSource | None, **options: Any) -> logs.Wanted:
        if source not in _CHANNELS:
            raise InvalidError(f"logs: source={source!r}: give 'stdout' or 'stderr', or leave it out for both")
        return logs.Wanted(
            sandbox=self._sandbox, process=process or logs.ENTRYPOINT, channels=_CHANNELS[source], **options
        )


class LogReader(Generic[T]):
    """Entries of a log: iterate, with `for` or `async for`. Each is given once."""

    def __init__(
        self, client: Client, wanted: logs.Wanted, fits: Callable[[LogEntry], bool] = lambda _entry: True
    ) -> None:
        self._client = client
        self._wanted = wanted
        self._fits = fits
        self._items: deque[LogEntry] = deque()
        self._source: AsyncIterator[list[LogEntry]] | None = None

    def __aiter__(self) -> LogReader[T]:
        return self

    async def __anext__(self) -> T:
        while (item := self._pop()) is None:
            if not await self._fill():
                raise StopAsyncIteration
        return item

    def _pop(self) -> T | None:
        return cast(T, self._items.popleft()) if self._items else None

    async def _fill(self) -> bool:
        """Fetch more entries; False at the end."""
        if self._source is None:
            self._source = logs.batches(self._client, self._wanted)
        while not self._items:
            try:
                self._items.extend(filter(self._fits, await anext(self._source)))
            except StopAsyncIteration:
                return False
        return True


def _seconds(when: datetime | None, name: str) -> float | None:
    if when is None:
        return None
    if not isinstance(when, datetime):
        raise InvalidError(f"logs: {name}={when!r}: give a datetime; one without a time zone is local time")
    return when.timestamp()
