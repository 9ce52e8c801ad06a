from __future__ import annotations

import random

from skerry.cli.modes import RESET, Modes

NOTHING = b"\x1b[0m"


def undone(*shown: bytes) -> bytes:
    modes = Modes()
    for part in shown:
        modes.see(part)
    return modes.undo()


def test_what_was_switched_on_and_not_off_is_switched_off() -> None:
    assert undone(b"\x1b[?1049h text \x1b[?25l") == b"\x1b[?1049l\x1b[?25h" + NOTHING
    assert undone(b"\x1b[?2004h text \x1b[?2004l") == NOTHING


def test_several_modes_in_one_switch_are_seen() -> None:
    assert undone(b"\x1b[?1000;1006;25h") == b"\x1b[?1000l\x1b[?1006l" + NOTHING


def test_a_switch_may_be_cut_anywhere() -> None:
    whole = b"\x1b[?1002;2004h"
    for at in range(len(whole) + 1):
        assert undone(whole[:at], whole[at:]) == b"\x1b[?1002l\x1b[?2004l" + NOTHING
    assert undone(*(bytes((byte,)) for byte in whole)) == b"\x1b[?1002l\x1b[?2004l" + NOTHING


def test_modes_that_nobody_knows_and_what_is_no_switch_are_left_alone() -> None:
    assert undone(b"\x1b[?99999h\x1b[?h\x1b[?;h\x1b[25l\x1b]0;\x1b[?x\x07") == NOTHING


def test_a_hostile_stream_costs_a_few_bytes() -> None:
    modes, chance = Modes(), random.Random(1)
    alphabet = b"\x1b[?;0123456789hl"
    for _ in range(2_000):
        modes.see(bytes(chance.choice(alphabet) for _ in range(chance.randrange(200))))
        assert len(modes._rest) <= 70
        assert len(modes._changed) <= 15
    modes.see(b"\x1b[?" + b"1" * 1_000_000 + b"h")
    assert len(modes._rest) <= 70


def test_the_blind_reset_touches_no_screen() -> None:
    assert b"\x1b[?25h" in RESET
    assert b"1049" not in RESET
