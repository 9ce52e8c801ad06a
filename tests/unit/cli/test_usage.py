from __future__ import annotations

from dataclasses import replace

import pytest

from skerry.cli import screen, usage
from skerry.cli.output import size
from skerry.model.ids import ImageId, NodeId, SandboxId
from skerry.model.sandboxes import SandboxState, SandboxView
from skerry.model.specs import SandboxSpec
from skerry.model.usage import SandboxUsage

MIB = 1 << 20
ONE, TWO = SandboxId("sb_00000000000000000001"), SandboxId("sb_00000000000000000002")


def view(sandbox: SandboxId, *argv: str) -> SandboxView:
    spec = SandboxSpec(image=ImageId("im_1"), entrypoint=argv)
    return SandboxView(
        id=sandbox, spec=spec, state=SandboxState.RUNNING, node=NodeId("no_1"), created_at=1000.0 + int(sandbox[-1])
    )


def sample(sandbox: SandboxId, at: float, cpu: float, sent: int | None = None) -> SandboxUsage:
    return SandboxUsage(
        id=sandbox,
        at=at,
        cpu_seconds=cpu,
        memory_bytes=80 * MIB,
        file_bytes=3 * MIB,
        processes=4,
        received_bytes=sent,
        sent_bytes=sent,
    )


def test_two_samples_make_a_rate_and_one_makes_none() -> None:
    now = {ONE: sample(ONE, 12.0, 4.0, 3000), TWO: sample(TWO, 12.0, 1.0)}
    before = {ONE: sample(ONE, 10.0, 1.0, 1000)}
    first, second = usage.rows([view(ONE), view(TWO)], before, now)
    assert (first.view.id, first.cpu, first.sent_s, first.network) == (ONE, 1.5, 1000.0, 2000.0)
    assert (second.view.id, second.cpu, second.sent_s) == (TWO, None, None)
    assert usage.cells(first)[1:9] == ("150%", "80.0M", "2.0G", "3.0M", "1.0G", "4", "1.0K/s", "1.0K/s")


@pytest.mark.parametrize("sort", usage.KEYS)
def test_what_takes_most_is_in_front(sort: str) -> None:
    little = sample(ONE, 12.0, 1.0, 0)
    much = replace(sample(TWO, 12.0, 9.0, 90_000), memory_bytes=1 << 40, file_bytes=1 << 40, processes=900)
    before = {ONE: sample(ONE, 10.0, 1.0, 0), TWO: sample(TWO, 10.0, 1.0, 0)}
    found = usage.rows([view(ONE), view(TWO)], before, {ONE: little, TWO: much}, sort=sort)
    assert [row.view.id for row in found] == ([ONE, TWO] if sort == "age" else [TWO, ONE])


def test_what_could_not_be_found_out_is_left_empty() -> None:
    unknown = SandboxUsage(id=ONE, at=1.0, cpu_seconds=0.0, memory_bytes=0)
    (row,) = usage.rows([view(ONE)], {}, {ONE: unknown})
    assert usage.cells(row)[4] == usage.cells(row)[6] == usage.cells(row)[7] == ""
    assert usage.as_json(row)["file_bytes"] is None


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0B"),
        (999, "999B"),
        (1000, "1.0K"),
        (1536, "1.5K"),
        (101_000, "98.6K"),
        (999 << 20, "999M"),
        (5 << 40, "5.0T"),
    ],
)
def test_a_size_has_three_digits(count: int, text: str) -> None:
    assert size(count) == text


def test_a_frame_is_cut_to_the_window_and_clears_what_it_does_not_fill() -> None:
    drawn = screen.frame(["first line", "second", "third"], 2, 5)
    assert drawn == b"\x1b[Hfirst\x1b[K\r\nsecon\x1b[K\x1b[J"
