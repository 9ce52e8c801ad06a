from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from skerry.apps import logs
from skerry.model.events import Events


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    root = logging.getLogger()
    before, level, raises = [*root.handlers], root.level, logging.raiseExceptions
    for handler in before:
        root.removeHandler(handler)
    yield tmp_path / "server.log"
    for handler in [*root.handlers]:
        root.removeHandler(handler)
        handler.close()
    for handler in before:
        root.addHandler(handler)
    root.setLevel(level)
    logging.raiseExceptions = raises


def lines(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_an_event_is_one_json_line_with_its_fields(file: Path) -> None:
    logs.configure(file, foreground=False)
    Events("skerry.engine").info("sandbox.started", sandbox="sb_1", ms=3.5, path=file)
    (line,) = lines(file)
    assert line.pop("at")
    assert line == {
        "level": "info",
        "part": "skerry.engine",
        "event": "sandbox.started",
        "sandbox": "sb_1",
        "ms": 3.5,
        "path": str(file),
    }


def test_guest_bytes_never_reach_the_log_raw(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(file, foreground=True)
    Events("skerry.engine").info("sandbox.ended", evidence='\x1b[2J\n{"event": "fake"}\udcff')
    assert len(lines(file)) == 1
    assert "\x1b" not in file.read_text()
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "\x1b" not in said


def test_a_trace_is_in_the_log_and_bounded(file: Path) -> None:
    logs.configure(file, foreground=False)
    try:
        raise KeyError("x" * 100_000)
    except KeyError as exc:
        Events("skerry.door").error("request.failed", exc=exc, trace="t1")
    (line,) = lines(file)
    assert line["trace"] == "t1"
    assert len(json.dumps(line["trace_lines"])) < 2 * logs.TRACE_CHARS


def test_the_log_is_rotated_and_bounded(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FILE_BYTES", 10_000)
    logs.configure(file, foreground=False)
    for number in range(1000):
        Events("skerry.engine").info("sandbox.started", number=number, filler="x" * 100)
    files = list(file.parent.glob("server.log*"))
    assert len(files) == 1 + logs.OLD_FILES
    assert sum(one.stat().st_size for one in files) <= 10_000 * len(files)
    assert lines(file)[-1]["number"] == 999


def test_chatter_of_libraries_stays_out(file: Path) -> None:
    logs.configure(file, foreground=False)
    logging.getLogger("uvicorn.error").info("hello")
    logging.getLogger("uvicorn.error").error("trouble %d", 7)
    assert [line["event"] for line in lines(file)] == ["trouble 7"]
