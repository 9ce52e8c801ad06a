"""The node's end of the two pipes to an agent.

`AgentLink` owns the pipes and one `AgentStream` for each open stream. It does what `Streams` decides: what arrives goes
to the streams' sinks in place, in batches, and credit follows what the sinks have stored. There is no task and no log
line for a frame. When the agent breaks a rule, or the pipe ends, `lost` tells why and every wait ends with LinkLost.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from skerry.node.agent_events import (
    ChannelEnded,
    ContentCame,
    Event,
    ExitTold,
    OperationDone,
    OperationFailed,
    PongCame,
    ReadyTold,
    StartedTold,
    StdinGranted,
)
from skerry.node.agent_stream import AgentStream, LinkLost, Lost
from skerry.node.outcome import Outcome
from skerry.node.pipes import PipeReader, PipeWriter
from skerry.node.sinks import Discard, Sink
from skerry.node.streams import WINDOW, Streams, hello_frame
from skerry.wire.frames import (
    HEADER_SIZE,
    STDERR,
    STDOUT,
    TO_HOST,
    ProtocolViolation,
    encode_shutdown,
    parse_header,
)
from skerry.wire.messages import Hello, Open, OpenContent, OpenExec, Ready, Started, StreamState

FRAMES_A_TURN: Final = 512
"""Frames taken from one pipe before the others have their turn; also below IOV_MAX, for a sink that writes them."""
PINGS: Final = 16
"""Pings on their way at once; a further one waits."""


class AgentLink:
    """The session with one agent, over pipes that it owns from here on.

    A new link says nothing and hears nothing until `hello`.
    """

    def __init__(self, reader_fd: int, writer_fd: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.streams = Streams()
        self.lost: asyncio.Future[Lost] = self.loop.create_future()
        """Done when the link is over. It never has an exception, so it may be ignored."""
        self._reader = PipeReader(reader_fd, take=self._take, lost=self._on_gone)
        self._writer = PipeWriter(writer_fd, lost=self._on_gone)
        self._ready: Outcome[Ready] = Outcome()
        self._pings: deque[Outcome[None]] = deque()
        self._ping_slots = asyncio.Semaphore(PINGS)
        self._ping_numbers = itertools.count(1)
        self._streams: dict[int, AgentStream] = {}
        self._unstored: dict[int, AgentStream] = {}
        self._batch: dict[tuple[int, int], list[memoryview]] = {}

    async def hello(self, hello: Hello, *, deadline: float, sent: bool = False) -> Ready:
        """Greet the agent and return its READY; `sent` where it has the HELLO already.

        `deadline` is a time of the event loop. Where READY tells streams, nothing more is read until `resume`.
        """
        self.streams.begin(hello)
        if not sent:
            self.write(hello_frame(hello))
        self._reader.resume()
        async with asyncio.timeout_at(deadline):
            return await self._ready

    def resume(self, sinks: Mapping[int, Sink]) -> dict[int, AgentStream]:
        """Go on after an attach: return a stream for each sink, and close the streams that have none.

        A sink must have stored at least what READY says is acknowledged, and no more than the agent has read.
        """
        ready, streams = self._ready.result(), dict[int, AgentStream]()
        self._writer.hold()
        try:
            for told in ready.streams:
                if told.stream in sinks:
                    streams[told.stream] = self._take_up(told, sinks[told.stream])
                else:
                    self.write(self.streams.close(told.stream))
        except ProtocolViolation as violation:
            self._on_violation(violation)
        self._writer.release()
        self._reader.resume()
        return streams

    async def ping(self) -> None:
        """Return when the agent has answered; raise LinkLost if it never will."""
        await self._ping_slots.acquire()  # released by the PONG, so that pings given up still count
        if self.lost.done():
            self._ping_slots.release()
            self.check()
        answer: Outcome[None] = Outcome()
        self._pings.append(answer)
        self.write(self.streams.ping(next(self._ping_numbers).to_bytes(8, "little")))
        await answer

    def open(self, op: Open, *, sink: Sink | None = None) -> AgentStream:
        """Begin a process or a file operation. Its content goes to `sink`, whose room is the first limit.

        Returns at once; the stream's waits raise StreamError if the agent refuses it.
        """
        self.check()
        sink = sink if sink is not None else Discard()
        number, frame = self.streams.open(_with_limits(op, sink))
        stream = self._new_stream(number, sink)
        self.write(frame)
        return stream

    def shutdown(self, grace_ms: int) -> None:
        """Ask the agent to end everything: SIGTERM, and SIGKILL after the grace. The link is lost when it has."""
        self.write(encode_shutdown(grace_ms))

    def close(self) -> None:
        """Close the pipes. The agent keeps running, and may be attached to again."""
        self._lose(Lost("closed", "the node has closed it"))

    def check(self) -> None:
        """Raise LinkLost if the link is over."""
        if self.lost.done():
            raise LinkLost(self.lost.result())

    # For the streams

    def write(self, frame: bytes) -> None:
        self._writer.control(frame)

    def send_content(self, number: int, content: memoryview) -> None:
        self._writer.content(self.streams.send(number, len(content)), content)

    def end_content(self, number: int) -> None:
        frame = self.streams.end_stdin(number)
        if frame:
            self._writer.content(frame, memoryview(b""))

    def content_room(self) -> int:
        return self._writer.content_room()

    async def wait_content_room(self) -> None:
        await self._writer.wait_room()

    def give_up(self, number: int) -> None:
        self._streams.pop(number, None)
        self.write(self.streams.close(number))

    # What arrives

    def _take(self, view: memoryview) -> tuple[int, bool]:
        """Use the whole frames in `view`, as many as one turn may; see PipeReader."""
        self._writer.hold()
        try:
            return self._take_frames(view)
        except ProtocolViolation as violation:
            self._on_violation(violation)
            return len(view), False
        except Exception as exc:
            self._lose(Lost("fault", f"{type(exc).__name__}: {exc}"))
            raise
        finally:
            self._writer.release()

    def _take_frames(self, view: memoryview) -> tuple[int, bool]:
        at, end, left = 0, len(view), FRAMES_A_TURN
        feed = self.streams.feed
        was_ready = self._ready.done()
        while end - at >= HEADER_SIZE:
            header = parse_header(view, at, TO_HOST)
            start = at + HEADER_SIZE
            if start + header.length > end:
                break
            if not left or self._ready.done() != was_ready:
                self._store_batch()
                return at, True
            at = start + header.length
            left -= 1
            event = feed(header, view[start:at])
            if event is not None:
                self._on_event(event)
        self._store_batch()
        return at, self._ready.done() != was_ready

    def _on_event(self, event: Event) -> None:
        if type(event) is ContentCame:
            self._batch.setdefault((event.stream, event.channel), []).append(event.content)
            return
        self._store_batch()
        _HANDLERS[type(event)](self, event)

    def _store_batch(self) -> None:
        """Give what has gathered to the sinks, and grant what is then due."""
        if not self._batch:
            return
        for (number, channel), parts in self._batch.items():
            stream = self._streams.get(number)
            if stream is not None:
                stream.sink.store(channel, parts)
        numbers = list(self._batch)
        self._batch.clear()
        for number, channel in numbers:
            self._acknowledge(number, channel)

    def _acknowledge(self, number: int, channel: int) -> None:
        """Send the credit that is due for a channel, or the CLOSE that waited for its sink."""
        if number in self._unstored:
            self._forget_if_stored(number)
            return
        stream = self._streams.get(number)
        if stream is None or channel not in self.streams.channels(number):
            return
        room = stream.sink.room(channel, self.streams.window(number, channel))
        self.write(self.streams.acknowledge(number, channel, stream.sink.stored(channel), room))

    def _on_ready(self, event: ReadyTold) -> None:
        if event.ready.streams:
            self._reader.pause()
        self._ready.resolve(event.ready)

    def _on_pong(self, _event: PongCame) -> None:
        self._pings.popleft().resolve(None)
        self._ping_slots.release()

    def _on_started(self, event: StartedTold) -> None:
        self._streams[event.stream].on_started(event.started)

    def _on_ended(self, event: ChannelEnded) -> None:
        stream = self._streams[event.stream]
        stream.on_ended(event.channel, event.end)
        self._acknowledge(event.stream, event.channel)
        if event.last:
            self._end_process(event.stream)

    def _on_granted(self, event: StdinGranted) -> None:
        self._streams[event.stream].on_granted()

    def _on_exit(self, event: ExitTold) -> None:
        self._streams[event.stream].on_exit(event.exit)
        if event.last:
            self._end_process(event.stream)

    def _on_error(self, event: OperationFailed) -> None:
        self._end(event.stream).on_error(event.error.code, event.error.message)

    def _on_result(self, event: OperationDone) -> None:
        self._end(event.stream).on_result(event.result)

    def _end(self, number: int) -> AgentStream:
        """Let go of a stream whose last word has come."""
        stream = self._streams.pop(number)
        stream.finish()
        self.write(self.streams.forget(number))
        return stream

    def _end_process(self, number: int) -> None:
        """Let go of a process, but only once its output is stored: at CLOSE the agent forgets it."""
        stream = self._streams.pop(number)
        stream.finish()
        self._unstored[number] = stream
        self._forget_if_stored(number)

    def _forget_if_stored(self, number: int) -> None:
        if self._unstored[number].is_stored():
            del self._unstored[number]
            self._writer.patient(self.streams.forget(number))

    def _new_stream(self, number: int, sink: Sink) -> AgentStream:
        stream = self._streams[number] = AgentStream(self, number, sink)
        sink.on_room(lambda channel: self._acknowledge(number, channel))
        return stream

    def _take_up(self, told: StreamState, sink: Sink) -> AgentStream:
        """Make the stream of an earlier link go on, from what its sink has stored."""
        stream = self._new_stream(told.stream, sink)
        for channel in self.streams.channels(told.stream):
            self._acknowledge(told.stream, channel)
        if told.pid is not None:
            stream.on_started(Started(told.pid))
        if told.exit is not None:
            stream.on_exit(told.exit)
            if self.streams.drop_if_over(told.stream):
                self._end_process(told.stream)
        return stream

    def _on_violation(self, violation: ProtocolViolation) -> None:
        self._lose(Lost("violation", violation.detail, violation.rule))

    def _on_gone(self, detail: str) -> None:
        self._lose(Lost("gone", detail))

    def _lose(self, lost: Lost) -> None:
        if self.lost.done():
            return
        self.lost.set_result(lost)
        self._reader.close()
        self._writer.close()
        self._batch.clear()
        error = LinkLost(lost)
        self._ready.reject(error)
        for ping in self._pings:
            ping.reject(error)
            self._ping_slots.release()
        streams, self._streams = list(self._streams.values()), {}
        for stream in streams:
            stream.fail(error)


_HANDLERS: Final[dict[type, Callable[[AgentLink, Any], None]]] = {
    ReadyTold: AgentLink._on_ready,
    PongCame: AgentLink._on_pong,
    StartedTold: AgentLink._on_started,
    ChannelEnded: AgentLink._on_ended,
    StdinGranted: AgentLink._on_granted,
    ExitTold: AgentLink._on_exit,
    OperationFailed: AgentLink._on_error,
    OperationDone: AgentLink._on_result,
}


def _with_limits(op: Open, sink: Sink) -> Open:
    """Return the operation with the limits that its sink has room for."""
    if isinstance(op, OpenExec):
        return msgspec.structs.replace(op, limits=(sink.room(STDOUT, WINDOW), sink.room(STDERR, WINDOW)))
    if isinstance(op, OpenContent):
        return msgspec.structs.replace(op, limit=sink.room(STDOUT, WINDOW))
    return op
