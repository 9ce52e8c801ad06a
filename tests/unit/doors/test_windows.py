from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.doors.native.windows import FirstUse, ReceiveWindow, SendWindow
from skerry.wire.frames import SENT_DATA, ProtocolViolation
from skerry.wire.native import STDIN_WINDOW, WINDOW


def rule(call: object, *arguments: object) -> str:
    with pytest.raises(ProtocolViolation) as caught:
        call(*arguments)  # type: ignore[operator]
    return caught.value.rule


# First uses


def test_the_first_use_calls_once() -> None:
    use, calls = FirstUse(), list[int]()
    use.serve(lambda: calls.append(1))
    assert not calls
    use.note()
    use.note()
    assert calls == [1]


def test_a_use_that_was_before_is_told_at_once() -> None:
    use, calls = FirstUse(), list[int]()
    use.note()
    use.serve(lambda: calls.append(1))
    assert calls == [1]


def test_who_is_forgotten_is_not_called() -> None:
    use, calls = FirstUse(), list[int]()
    use.serve(lambda: calls.append(1))
    use.forget()
    use.note()
    assert not calls


def test_a_window_is_used_when_there_is_room() -> None:
    calls: list[str] = []
    granted, later = SendWindow(offset=0, limit=1), SendWindow(offset=0, limit=0)
    granted.granted.serve(lambda: calls.append("granted"))
    later.granted.serve(lambda: calls.append("later"))
    assert calls == ["granted"]
    later.grant(0, 0)
    assert calls == ["granted"]
    later.grant(0, 1)
    assert calls == ["granted", "later"]


@pytest.mark.parametrize("use", ["put", "finish"])
def test_input_is_used_by_its_first_bytes_or_its_end(use: str) -> None:
    window, calls = ReceiveWindow(), list[int]()
    window.used.serve(lambda: calls.append(1))
    window.put(0, memoryview(b"x")) if use == "put" else window.finish(0)
    assert calls == [1]


# To the client


def test_what_was_granted_may_be_sent() -> None:
    window = SendWindow(offset=0, limit=100)
    window.sent = 60
    assert window.room == 40
    window.grant(60, 160)
    assert window.room == 100


def test_a_window_that_starts_later_counts_from_there() -> None:
    assert SendWindow(offset=1000, limit=1100).room == 100
    assert SendWindow(offset=1000, limit=0).room < 0
    assert rule(lambda: SendWindow(offset=1000, limit=1001 + WINDOW)) == "bad_credit"


@pytest.mark.parametrize(("acknowledged", "limit"), [(9, 100), (10, 99), (51, 100), (10, 10 + WINDOW + 1)])
def test_credit_that_goes_back_or_too_far_breaks_a_rule(acknowledged: int, limit: int) -> None:
    window = SendWindow(offset=0, limit=100)
    window.sent = 50
    window.grant(10, 100)
    assert rule(window.grant, acknowledged, limit) == "bad_credit"


def test_the_widest_window_is_within_the_rules() -> None:
    window = SendWindow(offset=0, limit=WINDOW)
    window.sent = 50
    window.grant(50, 50 + WINDOW)
    assert window.room == WINDOW


def test_dropped_bytes_need_no_credit() -> None:
    window = SendWindow(offset=0, limit=100)
    window.jump(5000)
    assert (window.sent, window.room) == (5000, 100)


def test_credit_that_crossed_a_gap_on_its_way_lies_further_on_by_the_gap() -> None:
    window = SendWindow(offset=0, limit=100)
    window.sent = 100
    window.jump(5100)
    assert window.room == 0
    window.grant(50, 150)  # said before the client saw the gap
    assert window.room == 50
    window.sent += 50
    window.grant(5150, 5250)
    assert window.room == 100


async def test_waiting_ends_with_the_credit() -> None:
    window = SendWindow(offset=0, limit=0)
    waiting = asyncio.ensure_future(window.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    window.grant(0, 10)
    assert await waiting == 10


@dataclass
class Client:
    """A client by the rules: acknowledges what it received and grants a window from there."""

    window: int
    received: int = 0
    acknowledged: int = 0

    def credit(self) -> tuple[int, int]:
        self.acknowledged = self.received
        return self.acknowledged, self.acknowledged + self.window


@given(st.integers(1, 64), st.lists(st.sampled_from(["send", "grant", "deliver", "jump"]), max_size=200))
def test_credit_never_runs_dry_and_never_exceeds_the_clients_window(size: int, acts: list[str]) -> None:
    """Frames and credits cross each other in any order, with gaps in between."""
    client = Client(size)
    window = SendWindow(offset=0, limit=size)
    to_client: list[tuple[int, int]] = []
    to_server: list[tuple[int, int]] = []
    carried = acknowledged_bytes = 0
    received_bytes = 0

    def deliver_to_client() -> None:
        nonlocal received_bytes
        offset, length = to_client.pop(0)
        client.received = offset + length
        received_bytes += length

    for act in acts:
        if act == "send" and window.room > 0:
            to_client.append((window.sent, 1))
            window.sent += 1
            carried += 1
            assert carried - acknowledged_bytes <= size
        elif act == "jump":
            window.jump(window.sent + 7)
        elif act == "deliver" and to_client:
            deliver_to_client()
            acknowledged_bytes = received_bytes
            to_server.append(client.credit())
        elif act == "grant" and to_server:
            window.grant(*to_server.pop(0))
    while to_client:
        deliver_to_client()
    to_server.append(client.credit())
    for credit in to_server:
        window.grant(*credit)
    assert window.room == size


# From the client


async def test_many_small_frames_become_few_chunks() -> None:
    window = ReceiveWindow()
    for offset in range(1000):
        window.put(offset, memoryview(b"x"))
    assert await window.take() == b"x" * 1000
    assert window.taken == 1000


async def test_a_chunk_has_at_most_the_size_of_a_frame() -> None:
    window = ReceiveWindow()
    window.put(0, memoryview(b"x" * SENT_DATA))
    window.put(SENT_DATA, memoryview(b"y"))
    assert len(await window.take() or b"") == SENT_DATA
    assert await window.take() == b"y"


async def test_the_end_comes_after_the_bytes() -> None:
    window = ReceiveWindow(offset=5)
    window.put(5, memoryview(b"ab"))
    window.finish(7)
    assert await window.take() == b"ab"
    assert await window.take() is None


def test_each_wrong_offset_breaks_its_rule() -> None:
    window = ReceiveWindow(offset=5)
    assert rule(window.put, 4, memoryview(b"x")) == "offset_jumped"
    assert rule(window.put, 6, memoryview(b"x")) == "offset_jumped"
    assert rule(window.finish, 6) == "offset_jumped"
    window.finish(5)
    assert rule(window.put, 5, memoryview(b"x")) == "channel_ended"
    assert rule(window.finish, 5) == "channel_ended"


def test_bytes_up_to_the_limit_are_taken_and_one_more_breaks_a_rule() -> None:
    window = ReceiveWindow(limit=3)
    window.put(0, memoryview(b"abc"))
    assert rule(window.put, 3, memoryview(b"d")) == "over_credit"


async def test_credit_is_worth_a_frame_when_a_quarter_is_used_or_nothing_waits() -> None:
    window = ReceiveWindow()
    window.put(0, memoryview(b"x" * SENT_DATA))
    window.put(SENT_DATA, memoryview(b"y"))
    await window.take()
    assert not window.extend(10)
    assert window.extend(STDIN_WINDOW // 4)
    assert window.limit == STDIN_WINDOW // 4 + STDIN_WINDOW
    await window.take()
    assert window.extend(STDIN_WINDOW // 4 + 1)
