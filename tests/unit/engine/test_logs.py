"""Where the last lines of a log begin, and those since a time."""

from __future__ import annotations

import math

import pytest
from engine_world import World
from hypothesis import given
from hypothesis import strategies as st

from skerry.engine import logs
from skerry.engine.engine import Engine
from skerry.engine.logs import _last_lines
from skerry.model import limits
from skerry.model.errors import InvalidError, NotFoundError
from skerry.model.ids import PROCESS, SandboxId
from skerry.model.specs import ExecSpec
from skerry.testing.outputs import MemoryOutput


async def output_of(*parts: bytes, bound: int = 1 << 30) -> MemoryOutput:
    output = MemoryOutput(bound=bound)
    for part in parts:
        await output.write(part)
    return output


@pytest.mark.parametrize(
    ("content", "count", "expected"),
    [
        (b"", 3, b""),
        (b"a\nb\nc\n", 0, b""),
        (b"a\nb\nc\n", 1, b"c\n"),
        (b"a\nb\nc\n", 2, b"b\nc\n"),
        (b"a\nb\nc\n", 9, b"a\nb\nc\n"),
        (b"a\nb\nc", 1, b"c"),
        (b"a\nb\nc", 2, b"b\nc"),
        (b"\n\n\n", 2, b"\n\n"),
        (b"one line", 1, b"one line"),
    ],
)
async def test_the_last_lines(content: bytes, count: int, expected: bytes) -> None:
    output = await output_of(content)
    start, cut = await _last_lines(output, output.end, count)
    assert (content[start:], cut) == (expected, False)


@given(st.lists(st.sampled_from([b"\n", b"a", b"bc\n", b"\n\n"]), max_size=40), st.integers(1, 12))
async def test_the_last_lines_are_those_that_splitting_finds_whatever_is_read_at_once(
    parts: list[bytes], count: int
) -> None:
    content = b"".join(parts)
    output = await output_of(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "CHUNK_BYTES", 3)
        start, _ = await _last_lines(output, output.end, count)
    assert content[start:] == b"".join(content.splitlines(keepends=True)[-count:])


async def test_a_line_that_is_longer_than_is_looked_for_is_cut_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOG_TAIL_BYTES", 100)
    output = await output_of(b"x" * 1000)
    assert await _last_lines(output, output.end, 1) == (900, True)


async def test_of_what_was_dropped_nothing_is_looked_for() -> None:
    output = await output_of(b"a\n" * 50, b"b\n" * 50, bound=100)
    assert output.base == 100
    assert await _last_lines(output, output.end, 1000) == (100, False)


async def started(engine: Engine, world: World, *argv: str) -> tuple[SandboxId, str]:
    view = await engine.sandboxes.create(world.spec())
    process = world.ids.new(PROCESS)
    handle = await engine.processes.exec(view.id, process, ExecSpec(argv=argv))
    await handle.wait()
    return view.id, process


async def test_what_came_since_a_time_begins_where_that_time_does(world: World) -> None:
    async with world.engine() as engine:
        sandbox, process = await started(engine, world, "echo", "said")
        now = world.clock.now()
        stdout, stderr = await engine.logs.find(sandbox, process, since=now - 5)
        assert (stdout.start, stdout.end, stdout.ended, stderr.end) == (0, 5, True, 0)
        assert stdout.times == ((0, now),)
        stdout, _ = await engine.logs.find(sandbox, process, since=now + 5)
        assert stdout.start == stdout.end == 5
        assert (await engine.logs.find(sandbox, process, since=now - 5, tail=0))[0].start == 5


async def test_an_ended_sandbox_has_its_log_and_an_unknown_process_none(world: World) -> None:
    async with world.engine() as engine:
        sandbox, process = await started(engine, world, "echo", "said")
        await engine.sandboxes.terminate(sandbox)
        assert (await engine.logs.find(sandbox, process))[0].end == 5
        for unknown in ("entrypoint", "pr_nothing"):
            with pytest.raises(NotFoundError):
                await engine.logs.find(sandbox, unknown)


@pytest.mark.parametrize("asked", [{"tail": -1}, {"tail": limits.LOG_TAIL_LINES + 1}, {"since": math.nan}])
async def test_what_cannot_be_is_refused(world: World, asked: dict[str, float]) -> None:
    async with world.engine() as engine:
        sandbox, process = await started(engine, world, "true")
        with pytest.raises(InvalidError, match=next(iter(asked))):
            await engine.logs.find(sandbox, process, **asked)  # type: ignore[arg-type]
