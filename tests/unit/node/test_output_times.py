from __future__ import annotations

from pathlib import Path

import pytest

from skerry.node.output_times import OutputTimes

BEGAN = 1000.0


def times_in(folder: Path) -> OutputTimes:
    return OutputTimes(folder / "pr.1.times", began=BEGAN)


def test_what_comes_within_a_second_is_written_down_nowhere(tmp_path: Path) -> None:
    times = times_in(tmp_path)
    for tenth in range(10):
        times.note(tenth * 100, BEGAN + tenth / 10)
    assert list(tmp_path.iterdir()) == []
    assert times.since(250) == [(250, BEGAN)]


def test_offsets_have_the_time_of_the_second_in_which_they_came(tmp_path: Path) -> None:
    times = times_in(tmp_path)
    for second in range(5):
        for part in range(3):
            times.note(100 * second + part, BEGAN + second + part / 4)
    assert times.since(150) == [(150, BEGAN + 1), (200, BEGAN + 2), (300, BEGAN + 3), (400, BEGAN + 4)]
    assert times.since(400) == [(400, BEGAN + 4)]
    assert times.since(9999) == [(9999, BEGAN + 4)]
    assert (tmp_path / "pr.1.times").stat().st_size == 4 * 16


@pytest.mark.parametrize(("when", "offset"), [(0.0, 0), (2.0, 200), (2.5, 200), (3.99, 300), (4.5, 400), (5.1, None)])
def test_a_time_has_the_offset_from_which_on_nothing_is_more_than_a_second_older(
    tmp_path: Path, when: float, offset: int | None
) -> None:
    times = times_in(tmp_path)
    for second in range(1, 5):
        times.note(100 * second, BEGAN + second)
    assert times.at(BEGAN + when) == offset


def test_a_successor_goes_on_behind_the_last_whole_line(tmp_path: Path) -> None:
    times_in(tmp_path).note(100, BEGAN + 1)
    with (tmp_path / "pr.1.times").open("ab") as file:
        file.write(b"half")
    successor = times_in(tmp_path)
    successor.note(200, BEGAN + 2)
    assert successor.since(0) == [(0, BEGAN), (100, BEGAN + 1), (200, BEGAN + 2)]
    assert times_in(tmp_path).since(0) == successor.since(0)
    successor.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_takes_nothing_costs_times_and_nothing_else(tmp_path: Path) -> None:
    times = OutputTimes(tmp_path / "gone" / "pr.1.times", began=BEGAN)
    times.note(100, BEGAN + 10)
    assert times.since(100) == [(100, BEGAN)]
