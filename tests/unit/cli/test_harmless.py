from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from skerry.cli.harmless import Harmless


def shown(*parts: bytes) -> str:
    harmless = Harmless()
    return (b"".join(map(harmless.feed, parts)) + harmless.feed(b"", last=True)).decode()


def test_text_stays_as_it_is_wherever_it_is_cut() -> None:
    text = "grün\tund\nüber\n"
    raw = text.encode()
    for at in range(len(raw)):
        assert shown(raw[:at], raw[at:]) == text


def test_control_sequences_and_turned_text_are_made_visible() -> None:
    assert shown(b"\x1b[2J\x1b]0;title\x07") == "\\x1b[2J\\x1b]0;title\\x07"
    assert shown("\x9b2J\u202e".encode()) == "\\x9b2J\\u202e"
    assert shown(b"\xff\xfe\x9b") == "\\xff\\xfe\\x9b"


def test_a_carriage_return_begins_the_next_line() -> None:
    assert shown(b"one\r\ntwo\r", b"\nthree 1%\rthree 2%\r") == "one\ntwo\nthree 1%\nthree 2%\n"


@given(st.lists(st.binary(max_size=12), max_size=8))
def test_nothing_but_printable_characters_newlines_and_tabs_comes_out(parts: list[bytes]) -> None:
    assert all(char.isprintable() or char in "\n\t" for char in shown(*parts))
