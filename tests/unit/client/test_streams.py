from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.client._core.streams import STDIN_BUFFER, Incoming, Outgoing
from skerry.wire.frames import ProtocolViolation

chunks = st.lists(st.binary(min_size=1, max_size=20), max_size=12)


def granted(window: int = 1 << 20) -> Incoming:
    incoming = Incoming()
    incoming.grant(window)
    return incoming


@given(content=st.binary(max_size=400), cuts=st.lists(st.integers(0, 400)), back=st.lists(st.integers(0, 50)))
def test_bytes_sent_again_after_a_reconnection_are_taken_once(content: bytes, cuts: list[int], back: list[int]) -> None:
    incoming = granted()
    got = b""
    for cut, repeated in zip(sorted(cuts), back, strict=False):
        start = max(0, incoming.received - repeated)
        if start < cut <= len(content):
            incoming.feed(start, content[start:cut])
        got += b"".join(incoming.take())
    if incoming.received < len(content):
        incoming.feed(incoming.received, content[incoming.received :])
    assert got + b"".join(incoming.take()) == content
    assert incoming.dropped == 0


def test_a_gap_is_counted_and_needs_no_credit() -> None:
    incoming = granted(100)
    incoming.feed(1000, b"x" * 100)
    assert (incoming.dropped, incoming.received, incoming.take()) == (1000, 1100, [b"x" * 100])
    incoming.end(1150)
    assert (incoming.dropped, incoming.ended) == (1050, True)


def test_bytes_beyond_the_credit_break_the_protocol() -> None:
    incoming = granted(10)
    with pytest.raises(ProtocolViolation, match="over_credit"):
        incoming.feed(0, b"x" * 11)


def test_nothing_is_granted_before_something_is_taken() -> None:
    incoming = Incoming()
    assert incoming.reopen() == (0, 0)
    assert incoming.grant(100) == 100
    incoming.feed(0, b"x" * 100)
    assert incoming.grant(100) is None
    incoming.take()
    assert incoming.grant(100) == 200


def test_credit_is_granted_in_batches_of_half_a_window() -> None:
    incoming = granted(100)
    incoming.feed(0, b"x" * 49)
    incoming.take()
    assert incoming.grant(100) is None
    incoming.feed(49, b"x")
    incoming.take()
    assert incoming.grant(100) == 150


def test_an_ended_channel_grants_nothing() -> None:
    incoming = Incoming()
    incoming.end(0)
    assert incoming.grant(100) is None


@given(writes=chunks, limits=st.lists(st.integers(1, 60), min_size=1, max_size=20))
def test_stdin_goes_out_in_order_within_the_credit(writes: list[bytes], limits: list[int]) -> None:
    outgoing = Outgoing()
    for data in writes:
        outgoing.write(data)
    outgoing.close()
    sent, limit = b"", 0
    for step in [*limits, 10_000]:
        limit += step
        outgoing.credit(len(sent), limit)
        while (piece := outgoing.next_data()) is not None:
            offset, data = piece
            assert offset == len(sent)
            assert offset + len(data) <= limit
            sent += data
    assert sent == b"".join(writes)
    assert outgoing.next_end() == len(sent)
    assert outgoing.next_end() is None
    assert outgoing.flushed


@given(writes=chunks, acknowledged=st.integers(0, 100))
def test_a_new_connection_goes_on_at_what_was_acknowledged(writes: list[bytes], acknowledged: int) -> None:
    content = b"".join(writes)
    acknowledged = min(acknowledged, len(content))
    outgoing = Outgoing()
    for data in writes:
        outgoing.write(data)
    outgoing.close()
    outgoing.restart(0, 1000)
    while outgoing.next_data():
        pass
    outgoing.next_end()
    outgoing.restart(acknowledged, 1000)
    again = b""
    while (piece := outgoing.next_data()) is not None:
        again += piece[1]
    assert again == content[acknowledged:]
    assert outgoing.next_end() == len(content)


def test_a_writer_that_runs_ahead_is_told_to_drain() -> None:
    outgoing = Outgoing()
    outgoing.write(bytes(STDIN_BUFFER))
    with pytest.raises(BufferError, match="drain"):
        outgoing.write(b"x")
    outgoing.credit(1, 1)
    outgoing.write(b"x")
