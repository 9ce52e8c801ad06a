"""One open stream of an agent link: what the rest of the node waits for, sends and gets."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from skerry.node.agent_events import Result
from skerry.node.outcome import Outcome
from skerry.node.sinks import Sink
from skerry.wire.frames import MAX_WINDOW, SENT_DATA, Rule
from skerry.wire.messages import ErrorCode, Exit, Started

if TYPE_CHECKING:
    from skerry.node.agent_link import AgentLink


@dataclass(frozen=True)
class Lost:
    """Why a link is over: the agent broke `rule`, its pipes are gone, we closed it, or our own code failed."""

    reason: Literal["violation", "gone", "closed", "fault"]
    detail: str
    rule: Rule | None = None


class LinkLost(Exception):
    """The link to the agent is over; `lost` says why."""

    def __init__(self, lost: Lost) -> None:
        super().__init__(f"the link to the agent is over ({lost.rule or lost.reason}): {lost.detail}")
        self.lost = lost


class OtherWriter(Exception):
    """Somebody else has sent content on the channel."""


class StreamError(Exception):
    """The agent could not do what a stream asked for. `message` comes from inside the sandbox."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code: ErrorCode = code
        self.message = message


class AgentStream:
    """One process or file operation in the sandbox."""

    def __init__(self, link: AgentLink, number: int, sink: Sink) -> None:
        self._link = link
        self.sink = sink
        self._result: Outcome[Result] = Outcome()
        self._ended: dict[int, Outcome[int]] = {channel: Outcome() for channel in link.streams.channels(number)}
        self._granted = asyncio.Event()
        self._stdin_turn = asyncio.Lock()
        self._over = False
        self.number = number
        self.begun: Outcome[Started] = Outcome()
        """That the agent has begun, or why it could not."""
        self.exit: Outcome[Exit] = Outcome()
        """How the process ended, as soon as it was reaped; its channels may still go on."""

    async def started(self) -> Started:
        """Return once the agent has begun; raise StreamError if it could not."""
        return await self.begun

    async def result(self) -> Result:
        """Return the result of a file operation; raise StreamError if it failed."""
        return await self._result

    async def ended(self, channel: int) -> int:
        """Return how many bytes the channel carried, once all of them have been given to the sink."""
        return await self._ended[channel]

    @property
    def stdin_sent(self) -> int:
        """The offset that channel 0 has reached; content below it need not be sent again."""
        stdin = self._link.streams.stdin(self.number)
        return stdin.sent if stdin is not None else 0

    @property
    def stdin_acknowledged(self) -> int:
        """The offset below which the agent has everything, whatever becomes of this link."""
        stdin = self._link.streams.stdin(self.number)
        return stdin.acknowledged if stdin is not None else 0

    async def send_stdin(
        self, content: bytes | memoryview, offset: int | None = None, *, known: int | None = None
    ) -> None:
        """Send content on channel 0, waiting as long as the other side does not take it.

        `offset` makes a repetition harmless: what was sent before is skipped; a gap raises ValueError. More sent than
        the `known` bytes raises OtherWriter: somebody else sends too. Raises
        BrokenPipeError when nothing takes the content any more, LinkLost when it may be repeated after an attach.
        """
        async with self._stdin_turn:
            if known is not None and self.stdin_sent > known:
                raise OtherWriter(f"{self.stdin_sent - known} bytes behind {known} are somebody else's")
            rest = memoryview(content)[self._already_sent(offset, len(content)) :]
            while rest:
                size = min(await self._sendable(), len(rest))
                self._link.send_content(self.number, rest[:size])
                rest = rest[size:]

    def end_stdin(self) -> None:
        """Say that nothing more will come on channel 0. May be repeated."""
        self._link.end_content(self.number)
        self._granted.set()

    def signal(self, number: int) -> None:
        """Send a signal, 1 to 64, to the process group; nothing happens when the process is over."""
        self._link.write(self._link.streams.signal(self.number, number))

    def resize(self, rows: int, columns: int) -> None:
        """Resize the terminal, 1 to 65,535 each; nothing happens when the process is over or has none."""
        self._link.write(self._link.streams.resize(self.number, rows, columns))

    def close(self) -> None:
        """Give the stream up: a file operation is aborted, a process runs on without its output. May be repeated."""
        if not self._over:
            self._link.give_up(self.number)
            self.fail(StreamError("aborted", "the stream was closed"))

    def _already_sent(self, offset: int | None, size: int) -> int:
        if offset is None:
            return 0
        if offset > self.stdin_sent:
            raise ValueError(f"content at {offset} leaves a gap behind {self.stdin_sent}")
        return min(size, self.stdin_sent - offset)

    async def _sendable(self) -> int:
        """Return how many bytes may be sent now, at least 1, waiting for credit and for room in the pipe."""
        while True:
            self._link.check()
            stdin = self._link.streams.stdin(self.number)
            if stdin is None or stdin.ended or self._over:
                raise BrokenPipeError(f"stream {self.number} takes no more input")
            if stdin.limit == stdin.sent:
                self._granted.clear()
                await self._granted.wait()
            elif not (room := self._link.content_room()):
                await self._link.wait_content_room()
            else:
                return min(room, stdin.limit - stdin.sent, SENT_DATA)

    async def stdin_mostly_acknowledged(self) -> None:
        """Return once less than half a window is open: the agent acknowledges that much only when it is due.

        Who sends through us learns what is acknowledged with each piece, and so always gets room for the next.
        """
        while True:
            self._link.check()
            stdin = self._link.streams.stdin(self.number)
            if stdin is None or stdin.ended or self._over or stdin.sent - stdin.acknowledged < MAX_WINDOW // 2:
                return
            self._granted.clear()
            await self._granted.wait()

    # What the link tells

    def on_started(self, started: Started) -> None:
        self.begun.resolve(started)

    def on_exit(self, told: Exit) -> None:
        self.exit.resolve(told)

    def on_ended(self, channel: int, end: int) -> None:
        self.sink.end(channel)
        self._ended[channel].resolve(end)

    def on_granted(self) -> None:
        self._granted.set()

    def on_result(self, result: Result) -> None:
        self._result.resolve(result)
        self.finish()

    def on_error(self, code: ErrorCode, message: str) -> None:
        self.fail(StreamError(code, message))

    def finish(self) -> None:
        """The last word has come."""
        self._over = True
        self._granted.set()

    def fail(self, error: Exception) -> None:
        """End every wait with an error."""
        self.finish()
        outcomes: list[Outcome[Any]] = [self.begun, self.exit, self._result, *self._ended.values()]
        for outcome in outcomes:
            outcome.reject(error)
        self.sink.fail(error)

    def is_stored(self) -> bool:
        """Tell whether the sink has safely stored all that the ended channels carried."""
        return all(self.sink.stored(channel) == end.result() for channel, end in self._ended.items() if end.done())
