"""The golden frames, read by the host's side of the agent protocol."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import golden_frames
import msgspec
import pytest

from skerry.node.streams import Streams, hello_frame
from skerry.wire.frames import (
    CREDIT,
    OFFSET,
    TO_AGENT,
    TO_HOST,
    FrameTable,
    FrameType,
    Header,
    ProtocolViolation,
    Rule,
    split_frames,
)
from skerry.wire.messages import Hello, Open, decode

FRAMES = Path(__file__).parents[3] / "proto" / "frames.json"
CASES: list[dict[str, Any]] = json.loads(FRAMES.read_text())
JUDGED_BY_THE_HEADER = {"unknown_type", "frame_too_large", "malformed_frame"}


def of(direction: str) -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in CASES if case["direction"] == direction]


def joined(segments: list[dict[str, Any]]) -> memoryview:
    """Return the bytes that segments stand for."""
    parts = (bytes.fromhex(s["hex"]) if "hex" in s else bytes.fromhex(s["repeat"]) * s["times"] for s in segments)
    return memoryview(b"".join(parts))


def whole_frames(segments: list[dict[str, Any]], table: FrameTable) -> list[tuple[Header, memoryview]]:
    view = joined(segments)
    frames = list(split_frames(view, table))
    assert sum(12 + header.length for header, _ in frames) == len(view)
    return frames


def do(streams: Streams, header: Header, payload: memoryview) -> bytes:
    """Let the host do what a frame to the agent says, and return the frame that it would send."""
    match header.type:
        case FrameType.HELLO:
            streams.begin(hello := decode(payload, Hello))
            return hello_frame(hello)
        case FrameType.PING:
            return streams.ping(bytes(payload))
        case FrameType.OPEN:
            streams.last_stream = header.stream - 1
            return streams.open(msgspec.msgpack.decode(payload, type=Open))[1]
        case FrameType.CREDIT:
            stored, limit = CREDIT.unpack(payload)
            return streams.grant(header.stream, header.flags, stored, limit)
        case FrameType.DATA:
            content = payload[OFFSET.size :]
            return streams.send(header.stream, len(content)) + content
        case FrameType.END:
            return streams.end_stdin(header.stream)
        case FrameType.CLOSE:
            return streams.close(header.stream) or streams.forget(header.stream)
        case other:
            raise AssertionError(f"no setup uses type {other}")


def prepared(setup: list[dict[str, Any]]) -> Streams:
    """Return a session after the frames of a setup, which must themselves be right in both directions."""
    streams = Streams()
    for step in setup:
        to_host = step["direction"] == "to_host"
        for header, payload in whole_frames(step["bytes"], TO_HOST if to_host else TO_AGENT):
            if to_host:
                streams.feed(header, payload)
            else:
                assert do(streams, header, payload) == joined(step["bytes"])
    return streams


@pytest.mark.parametrize("case", of("to_host"))
def test_the_host_judges_a_frame_of_the_agent_as_the_page_says(case: dict[str, Any]) -> None:
    streams = prepared(case["setup"])
    view = joined(case["bytes"])
    seen = 0
    outcome = "ok"
    try:
        for header, payload in split_frames(view, TO_HOST):
            streams.feed(header, payload)
            seen += 12 + header.length
    except ProtocolViolation as violation:
        outcome = violation.rule
    if outcome == "ok" and (seen < len(view) or not view):
        outcome = "incomplete"
    assert outcome == case["expect"]


@pytest.mark.parametrize("case", of("to_agent"))
def test_the_header_rules_are_the_same_towards_the_agent(case: dict[str, Any]) -> None:
    try:
        list(split_frames(joined(case["bytes"]), TO_AGENT))
        outcome = None
    except ProtocolViolation as violation:
        outcome = violation.rule
    assert outcome == (case["expect"] if case["expect"] in JUDGED_BY_THE_HEADER else None)


@pytest.mark.parametrize("case", of("to_agent"))
def test_the_setup_of_a_frame_to_the_agent_is_a_right_session(case: dict[str, Any]) -> None:
    prepared(case["setup"])


def test_every_rule_and_every_type_has_a_golden_frame() -> None:
    rules = set(get_args(Rule))
    assert {case["expect"] for case in CASES} == rules | {"ok", "incomplete"}
    for direction, table in (("to_host", TO_HOST), ("to_agent", TO_AGENT)):
        accepted = {
            header.type
            for case in CASES
            if case["direction"] == direction and case["expect"] == "ok"
            for header, _ in split_frames(joined(case["bytes"]), table)
        }
        assert accepted == set(table)


def test_the_file_is_what_its_generator_writes() -> None:
    assert golden_frames.render() == FRAMES.read_text(), "run python tools/golden_frames.py"
