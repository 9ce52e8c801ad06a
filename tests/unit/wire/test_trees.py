"""The format of trees, as the client reads it."""

from __future__ import annotations

import json
from typing import Any

import golden_trees
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.wire.frames import ProtocolViolation
from skerry.wire.trees import ENCODED_DONE, Done, Entry, Record, TreeReader, encode_content_head, encode_entry

CASES: list[dict[str, Any]] = json.loads(golden_trees.TARGET.read_text())
FILE = Entry(path=b"d/\xff", type="file", mode=0o640, modified_ns=7, size=3, target=None)
STREAM = encode_entry(FILE) + encode_content_head(3) + b"abc" + ENCODED_DONE


def word(record: Record) -> str:
    if isinstance(record, Entry):
        return record.type
    if isinstance(record, memoryview):
        return "content"
    return "done" if isinstance(record, Done) else "skipped"


def words(stream: bytes) -> str:
    reader = TreeReader()
    try:
        found = [word(record) for record in reader.feed(stream)]
    except ProtocolViolation:
        return "bad"
    try:
        reader.end()
    except ProtocolViolation:
        found.append("incomplete")
    return " ".join(found)


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in CASES])
def test_golden_records_are_judged_as_the_protocol_says(case: dict[str, Any]) -> None:
    assert words(bytes.fromhex(case["hex"])) == case["expect"]


def test_the_golden_file_is_what_its_tool_writes() -> None:
    assert golden_trees.cases() == CASES


@given(st.lists(st.integers(1, 20), max_size=40))
def test_records_are_found_however_their_bytes_are_cut(cuts: list[int]) -> None:
    reader, found, at = TreeReader(), [], 0
    for cut in [*cuts, len(STREAM) * 3]:
        piece = (STREAM * 3)[at : at + cut]
        found += [bytes(one) if isinstance(one, memoryview) else one for one in reader.feed(piece)]
        at += cut
    reader.end()
    assert found == [FILE, b"abc", Done()] * 3


@given(st.binary(max_size=200))
def test_any_bytes_are_records_or_a_violation(data: bytes) -> None:
    assert words(STREAM + data)


def test_what_is_kept_between_two_feeds_is_bounded() -> None:
    with pytest.raises(ProtocolViolation):
        list(TreeReader().feed(b"\xff\xff\xff\x00\x02"))
