from __future__ import annotations

import io

import pytest

from skerry.client.buildlog import BuildLog

EVENTS = [
    {"event": "step", "index": 1, "count": 2, "title": "pip_install pandas"},
    {"event": "log", "text": "Collecting \x1b[2Jpandas\nmore"},
    {"event": "step", "index": 0, "count": 0, "title": "debian_slim"},
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO) -> str:
    with BuildLog(stream) as log:
        for event in EVENTS:
            log.show(event)
    return stream.getvalue()


def test_a_file_gets_plain_lines() -> None:
    assert shown(io.StringIO()).splitlines() == [
        "skerry: image: step 1 of 2: pip_install pandas",
        "  Collecting \\x1b[2Jpandas",
        "  more",
        "skerry: image: debian_slim",
    ]


def test_a_terminal_gets_a_live_line_below_the_log() -> None:
    text = shown(Terminal())
    assert "step 1 of 2: pip_install pandas" in text
    assert "\\x1b[2Jpandas" in text
    assert "\x1b[2J" not in text


def test_the_log_can_be_hidden_and_steps_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKERRY_BUILD_LOG", "0")
    assert shown(io.StringIO()).splitlines() == [
        "skerry: image: step 1 of 2: pip_install pandas",
        "skerry: image: debian_slim",
    ]
