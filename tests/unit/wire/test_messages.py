"""Decoding of control payloads, and of the entries of a directory."""

from __future__ import annotations

import os
import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.wire.frames import MAX_CONTROL, TO_HOST, FrameType, ProtocolViolation, encode_frame, split_frames
from skerry.wire.messages import (
    Done,
    Entry,
    ErrorReply,
    Exit,
    Hello,
    OpenExec,
    Ready,
    Setup,
    Started,
    Written,
    decode,
    encode,
)
from skerry.wire.records import RecordReader

ENTRY = Entry(
    name=b"a\xff",
    type="symlink",
    size=1,
    mode=0o120777,
    uid=0,
    gid=0,
    owner="root",
    group="root",
    modified=0.5,
    target=b"b",
)
KINDS = [Hello, Ready, Started, Exit, ErrorReply, Done, Written, Entry]


def packed(entry: Entry) -> bytes:
    payload = encode(entry)
    return struct.pack("<I", len(payload)) + payload


def test_a_message_comes_back_as_it_was() -> None:
    hello = Hello(secret=bytes(32), proof=None, generation=7, setup=Setup(hostname="h", processes=3))
    assert decode(encode(hello), Hello) == hello
    assert decode(encode(ENTRY), Entry) == ENTRY


def test_an_operation_says_what_it_is() -> None:
    fields = msgspec.msgpack.decode(encode(OpenExec(argv=(b"a",))))
    assert (fields["op"], fields["argv"], fields["limits"]) == ("exec", [b"a"], [256 << 10, 256 << 10])


@given(st.binary(max_size=200), st.sampled_from(KINDS))
def test_any_bytes_are_a_message_or_a_violation(payload: bytes, kind: type) -> None:
    outcome: object
    try:
        outcome = type(decode(payload, kind))
    except ProtocolViolation as violation:
        outcome = violation.rule
    assert outcome in (kind, "malformed_payload")


json_like = st.recursive(
    st.none() | st.booleans() | st.integers(0, 1 << 63) | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)


def depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    return 0


@given(json_like)
def test_unknown_keys_may_hold_anything_up_to_the_depth(value: object) -> None:
    payload = msgspec.msgpack.encode({"pid": 1, "later": value})
    if depth(value) < 8:
        assert decode(payload, Started) == Started(1)
    else:
        with pytest.raises(ProtocolViolation):
            decode(payload, Started)


def entry(payload: bytes) -> Entry:
    return decode(payload, Entry)


@given(st.lists(st.integers(1, 40), max_size=30))
def test_entries_are_found_however_their_bytes_are_cut(cuts: list[int]) -> None:
    content, reader, found = packed(ENTRY) * 5, RecordReader(entry), []
    at = 0
    for cut in [*cuts, len(content)]:
        found += reader.feed(content[at : at + cut])
        at += cut
    reader.end()
    assert found == [ENTRY] * 5


def test_an_entry_beyond_the_limit_is_refused_before_its_bytes_come() -> None:
    with pytest.raises(ProtocolViolation):
        RecordReader(entry).feed(struct.pack("<I", MAX_CONTROL + 1))


def test_a_list_that_ends_inside_an_entry_is_refused() -> None:
    reader = RecordReader(entry)
    assert reader.feed(packed(ENTRY)[:-1]) == []
    with pytest.raises(ProtocolViolation):
        reader.end()


@given(st.integers(0, 60))
def test_only_whole_frames_are_split_off_and_their_payloads_are_views(size: int) -> None:
    frames = encode_frame(FrameType.PONG, 0, b"abc") + encode_frame(FrameType.PONG, 0, os.urandom(20))
    view = memoryview(frames)
    found = list(split_frames(view[:size], TO_HOST))
    assert len(found) == (size >= 15) + (size >= 15 + 32)
    assert all(payload.obj is frames for _, payload in found)
