from __future__ import annotations

import click
import pytest

from skerry.cli.keys import DEFAULT, DetachKeys, parse

DETACH = parse(DEFAULT)


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("ctrl-p,ctrl-q", b"\x10\x11"),
        ("ctrl-],d", b"\x1dd"),
        ("Ctrl-A", b"\x01"),
        ("ctrl-@,ctrl-[,ctrl-\\,ctrl-^,ctrl-_,~", b"\x00\x1b\x1c\x1e\x1f~"),
        ("none", b""),
    ],
)
def test_keys_are_written_as_they_are_typed(text: str, keys: bytes) -> None:
    assert parse(text) == keys


@pytest.mark.parametrize("text", ["", "ctrl-", "ctrl-1", "escape", "a,,b", "ctrl-p ctrl-q", "ä", " "])
def test_what_is_no_key_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(click.BadParameter, match="ctrl-p,ctrl-q"):
        parse(text)


def test_the_sequence_detaches_however_it_comes_and_what_follows_is_dropped() -> None:
    assert DetachKeys(DETACH).feed(b"ab\x10\x11cd") == (b"ab", True)
    keys = DetachKeys(DETACH)
    assert keys.feed(b"ab\x10") == (b"ab", False)
    assert keys.holds
    assert keys.feed(b"\x11") == (b"", True)


def test_a_beginning_that_does_not_go_on_is_passed_on() -> None:
    keys = DetachKeys(DETACH)
    assert keys.feed(b"\x10") == (b"", False)
    assert keys.feed(b"x") == (b"\x10x", False)
    assert keys.feed(b"\x10\x10") == (b"\x10", False)
    assert keys.release() == b"\x10"
    assert not keys.holds
    assert keys.feed(b"\x11") == (b"\x11", False)


def test_a_sequence_that_overlaps_itself_is_found() -> None:
    keys = DetachKeys(b"aab")
    assert keys.feed(b"aa") == (b"", False)
    assert keys.feed(b"a") == (b"a", False)
    assert keys.feed(b"b") == (b"", True)


def test_without_a_sequence_everything_passes() -> None:
    assert DetachKeys(b"").feed(b"\x10\x11") == (b"\x10\x11", False)


def test_whatever_is_typed_arrives_once_in_its_order() -> None:
    """Every text of up to seven keys that does not hold the sequence, typed one by one."""
    alphabet = b"aab"
    for size in range(8):
        for number in range(3**size):
            text = bytes(alphabet[number // 3**place % 3] for place in range(size))
            keys, passed = DetachKeys(b"abab"), b""
            for key in text:
                through, detached = keys.feed(bytes((key,)))
                passed += through
                if detached:
                    break
            else:
                assert passed + keys.release() == text
                continue
            assert passed + b"abab" == text[: len(passed) + 4]
