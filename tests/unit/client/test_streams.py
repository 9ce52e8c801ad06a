from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.client._core.streams import STDIN_BUFFER, Inbox, Outbox
from skerry.wire.frames import ProtocolViolation

chunks = st.lists(st.binary(min_size=1, max_size=20), max_size=12)


def granted(window: int = 1 << 20) -> Inbox:
    inbox = Inbox()
    inbox.grant(window)
    return inbox


@given(content=st.binary(max_size=400), cuts=st.lists(st.integers(0, 400)), back=st.lists(st.integers(0, 50)))
def test_bytes_sent_again_after_a_reconnection_are_taken_once(content: bytes, cuts: list[int], back: list[int]) -> None:
    inbox = granted()
    got = b""
    for cut, repeated in zip(sorted(cuts), back, strict=False):
        start = max(0, inbox.received - repeated)
        if start < cut <= len(content):
            inbox.feed(start, content[start:cut])
        got += b"".join(inbox.take())
    if inbox.received < len(content):
        inbox.feed(inbox.received, content[inbox.received :])
    assert got + b"".join(inbox.take()) == content
    assert inbox.dropped == 0


def test_a_gap_is_counted_and_needs_no_credit() -> None:
    inbox = granted(100)
    inbox.feed(1000, b"x" * 100)
    assert (inbox.dropped, inbox.received, inbox.take()) == (1000, 1100, [b"x" * 100])
    inbox.end(1150)
    assert (inbox.dropped, inbox.ended) == (1050, True)


def test_bytes_beyond_the_credit_break_the_protocol() -> None:
    inbox = granted(10)
    with pytest.raises(ProtocolViolation, match="over_credit"):
        inbox.feed(0, b"x" * 11)


def test_nothing_is_granted_before_something_is_taken() -> None:
    inbox = Inbox()
    assert inbox.reopen() == (0, 0)
    assert inbox.grant(100) == 100
    inbox.feed(0, b"x" * 100)
    assert inbox.grant(100) is None
    inbox.take()
    assert inbox.grant(100) == 200


def test_credit_is_granted_in_batches_of_half_a_window() -> None:
    inbox = granted(100)
    inbox.feed(0, b"x" * 49)
    inbox.take()
    assert inbox.grant(100) is None
    inbox.feed(49, b"x")
    inbox.take()
    assert inbox.grant(100) == 150


def test_an_ended_channel_grants_nothing() -> None:
    inbox = Inbox()
    inbox.end(0)
    assert inbox.grant(100) is None


@given(writes=chunks, limits=st.lists(st.integers(1, 60), min_size=1, max_size=20))
def test_stdin_goes_out_in_order_within_the_credit(writes: list[bytes], limits: list[int]) -> None:
    outbox = Outbox()
    for data in writes:
        outbox.write(data)
    outbox.close()
    sent, limit = b"", 0
    for step in [*limits, 10_000]:
        limit += step
        outbox.credit(len(sent), limit)
        while (piece := outbox.next_data()) is not None:
            offset, data = piece
            assert offset == len(sent)
            assert offset + len(data) <= limit
            sent += data
    assert sent == b"".join(writes)
    assert outbox.next_end() == len(sent)
    assert outbox.next_end() is None
    assert outbox.flushed


@given(writes=chunks, acknowledged=st.integers(0, 100))
def test_a_new_connection_goes_on_at_what_was_acknowledged(writes: list[bytes], acknowledged: int) -> None:
    content = b"".join(writes)
    acknowledged = min(acknowledged, len(content))
    outbox = Outbox()
    for data in writes:
        outbox.write(data)
    outbox.close()
    outbox.restart(0, 1000)
    while outbox.next_data():
        pass
    outbox.next_end()
    outbox.restart(acknowledged, 1000)
    again = b""
    while (piece := outbox.next_data()) is not None:
        again += piece[1]
    assert again == content[acknowledged:]
    assert outbox.next_end() == len(content)


def test_a_writer_that_runs_ahead_is_told_to_drain() -> None:
    outbox = Outbox()
    outbox.write(bytes(STDIN_BUFFER))
    with pytest.raises(BufferError, match="drain"):
        outbox.write(b"x")
    outbox.credit(1, 1)
    outbox.write(b"x")
