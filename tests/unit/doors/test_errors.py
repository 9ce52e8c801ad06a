from __future__ import annotations

import json
import logging

import pytest

from skerry.doors.native.errors import DETAILS_BYTES, MESSAGE_CHARS, STATUS, tell
from skerry.model import errors
from skerry.wire import native
from skerry.wire.frames import MAX_CONTROL


def test_every_code_has_a_status() -> None:
    assert set(STATUS) == set(errors.BY_CODE)


@pytest.mark.parametrize("kind", sorted(errors.BY_NAME.values(), key=lambda kind: kind.__name__))
def test_every_error_comes_back_as_its_own_kind(kind: type[errors.Error]) -> None:
    reply = tell(kind("what and why", number=1))
    again = errors.from_wire(reply.code, reply.message, reply.kind, **reply.details)
    assert type(again) is kind
    assert (again.message, again.details) == ("what and why", {"number": 1})


def test_a_defect_is_told_by_its_trace_alone(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        reply = tell(KeyError("secret path /x"), op="exec")
    assert reply.code == "internal"
    assert "secret" not in json.dumps([reply.message, reply.details])
    (record,) = caplog.records
    assert record.skerry_fields == {"trace": reply.details["trace"], "op": "exec"}  # type: ignore[attr-defined]
    assert record.exc_info is not None


def test_an_error_of_any_size_fits_into_a_frame() -> None:
    reply = tell(errors.InvalidError("ä" * 1_000_000, text="x" * DETAILS_BYTES))
    assert len(native.encode(reply)) <= MAX_CONTROL
    assert len(reply.message) == MESSAGE_CHARS + 1
    assert reply.details == {}


def test_details_that_are_no_plain_data_become_text() -> None:
    assert tell(errors.InvalidError("x", path=errors, nested={1: {2}})).details["nested"] == {"1": [2]}


def test_a_message_with_a_lone_surrogate_can_be_told() -> None:
    assert tell(errors.NotFoundError("no \udcff")).message == "no \\udcff"
