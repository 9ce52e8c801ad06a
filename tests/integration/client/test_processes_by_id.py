"""A process that another program started, or left: found by its id, read, written to, waited for."""

from __future__ import annotations

import pytest

import skerry
from skerry.exception import ConflictError, InvalidError, NotFoundError

pytestmark = pytest.mark.usefixtures("client")


def test_it_is_read_from_its_beginning_and_written_to_behind_what_others_wrote() -> None:
    box = skerry.Sandbox.create()
    first = box.exec("cat")
    first.stdin.write("one\n")
    first.stdin.drain()
    assert next(iter(first.stdout)) == "one\n"
    again = skerry.Sandbox.from_id(box.object_id).process(first.object_id)
    assert (again.object_id, again.sandbox_id, again.poll()) == (first.object_id, box.object_id, None)
    again.stdin.write("two\n")
    again.stdin.write_eof()
    assert again.stdout.read() == "one\ntwo\n"
    assert (again.wait(), first.wait()) == (0, 0)
    late = box.process(first.object_id, text=False, tail=1)
    assert (late.stdout.read(), late.wait()) == (b"two\n", 0)


def test_who_writes_after_somebody_else_is_told_and_loses_nothing_in_silence() -> None:
    box = skerry.Sandbox.create()
    first = box.exec("cat")
    again = box.process(first.object_id)
    again.stdin.write("two\n")
    again.stdin.drain()
    assert next(iter(again.stdout)) == "two\n"
    first.stdin.write("one\n")
    with pytest.raises(ConflictError, match="somebody else has written to the stdin"):
        first.wait()
    again.stdin.write("three\n")
    again.stdin.write_eof()
    assert again.stdout.read() == "three\n"


def test_the_entrypoint_is_found_by_its_name_and_takes_input_from_one_program_after_the_other() -> None:
    box = skerry.Sandbox.create("cat")
    for word in ("one\n", "two\n"):
        other = skerry.Sandbox.from_id(box.object_id)
        other.stdin.write(word)
        other.stdin.drain()
        assert next(iter(box.stdout)) == word
    entrypoint = box.process("entrypoint")
    entrypoint.stdin.write_eof()
    assert entrypoint.stdout.read() == "one\ntwo\n"


def test_what_is_not_there_is_not_found() -> None:
    box = skerry.Sandbox.create()
    with pytest.raises(NotFoundError):
        box.process("pr_00000000000000000000")
    process = box.exec("true")
    with pytest.raises(InvalidError, match="tail"):
        box.process(process.object_id, tail=-1)
