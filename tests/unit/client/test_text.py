from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.client._core.text import LineSplitter, TextDecoder
from skerry.exception import InvalidError


@given(text=st.text(), cuts=st.lists(st.integers(0, 200)))
def test_chunk_borders_may_split_characters(text: str, cuts: list[int]) -> None:
    data = text.encode()
    borders = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    parts = [data[start:end] for start, end in itertools.pairwise(borders)]
    decoder = TextDecoder("stdout")
    decoded = "".join(decoder.decode([part]) for part in parts)
    assert decoded + decoder.decode((), final=True) == text


@pytest.mark.parametrize("data", [b"ok\xff", b"half \xe2\x82"])
def test_what_is_no_text_is_an_error_that_names_the_way_out(data: bytes) -> None:
    with pytest.raises(InvalidError, match=r"stderr is not UTF-8.*text=False"):
        TextDecoder("stderr").decode([data], final=True)


@given(pieces=st.lists(st.text(alphabet="ab\n\r\x85\u2028", max_size=8)))
def test_lines_end_at_newlines_only_and_keep_them(pieces: list[str]) -> None:
    splitter = LineSplitter()
    lines = [line for piece in pieces for line in splitter.feed(piece)]
    assert all(line.endswith("\n") and line.count("\n") == 1 for line in lines)
    rest = splitter.flush()
    assert "\n" not in rest
    assert "".join(lines) + rest == "".join(pieces)
    assert splitter.flush() == ""
