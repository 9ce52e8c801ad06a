from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from skerry.client._core.loglines import LINE_BYTES, LineCutter, Segment, plan
from skerry.model.sandboxes import KeptOutput


def test_the_channels_are_read_in_the_order_of_time() -> None:
    kept = [
        KeptOutput(channel=1, base=0, start=10, end=90, ended=False, times=((10, 5.0), (40, 7.0))),
        KeptOutput(channel=2, base=0, start=0, end=30, ended=True, times=((0, 6.0), (20, 7.0))),
    ]
    assert plan(kept) == [Segment(1, 40, 5.0), Segment(2, 20, 6.0), Segment(1, 90, 7.0), Segment(2, 30, 7.0)]


@given(st.lists(st.binary(max_size=20)), st.booleans(), st.booleans())
def test_lines_are_the_bytes_that_came_with_the_offset_of_each(parts: list[bytes], each: bool, whole: bool) -> None:
    cutter, at, pieces = LineCutter(each=each, whole=whole), 100, []
    for part in parts:
        pieces += cutter.feed(at, 1.0, part)
        at += len(part)
    pieces += cutter.rest()
    content = b"".join(parts)
    assert b"".join(piece.data for piece in pieces) == content
    assert all(content[piece.offset - 100 :].startswith(piece.data) for piece in pieces)
    if each:
        assert all(b"\n" not in piece.data[:-1] for piece in pieces)
    if whole:
        assert all(piece.data.endswith(b"\n") for piece in pieces[:-1])


def test_a_line_without_an_end_comes_in_pieces_of_a_bounded_size() -> None:
    cutter = LineCutter()
    pieces = cutter.feed(0, 1.0, b"x" * (3 * LINE_BYTES + 5)) + cutter.rest()
    assert [len(piece.data) for piece in pieces] == [LINE_BYTES, LINE_BYTES, LINE_BYTES, 5]
    assert [piece.offset for piece in pieces] == [0, LINE_BYTES, 2 * LINE_BYTES, 3 * LINE_BYTES]


def test_a_line_has_the_time_of_its_first_byte() -> None:
    cutter = LineCutter()
    assert cutter.feed(0, 1.0, b"be") == []
    assert [(piece.time, piece.data) for piece in cutter.feed(2, 2.0, b"gun\nnext\n")] == [
        (1.0, b"begun\n"),
        (1.0, b"next\n"),
    ]


def test_many_lines_may_be_one_piece() -> None:
    cutter = LineCutter(each=False)
    assert [piece.data for piece in cutter.feed(0, 1.0, b"one\ntwo\nthr")] == [b"one\ntwo\n"]
    assert [(piece.offset, piece.data) for piece in cutter.rest()] == [(8, b"thr")]
