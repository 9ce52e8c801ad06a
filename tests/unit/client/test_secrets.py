"""Secrets before they are sent: what is taken, what is refused, and that no message shows a value."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

import skerry
from skerry import aio
from skerry.client import dotenv
from skerry.client._async.secrets import sources
from skerry.client.secretinfo import as_timestamp
from skerry.exception import InvalidError, UnimplementedError
from skerry.wire.native import SecretSource

VALUE = "hunter2-the-value"


def sent(secret: aio.Secret) -> SecretSource:
    (source,) = sources([secret], call="test")
    return source


def refused(make: Callable[[], object], match: str) -> None:
    """Check that something is refused, and that not even its traceback shows a value."""
    with pytest.raises(InvalidError, match=match) as caught:
        make()
    assert VALUE not in "".join(traceback.format_exception(caught.value))


def test_values_of_none_are_left_out() -> None:
    assert sent(aio.Secret.from_dict({"A": "1", "B": None})).env == {"A": "1"}
    assert sent(aio.Secret.from_dict()).env == {}


def test_a_dict_that_is_changed_later_changes_nothing() -> None:
    given = {"A": "1"}
    secret = aio.Secret.from_dict(given)
    given["A"] = "2"
    assert sent(secret).env == {"A": "1"}


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ([("A", VALUE)], "variables are a list"),
        (VALUE, "variables are a str"),
        ({1: VALUE}, "key 1"),
        ({"A": "x", f"B={VALUE}": "x"}, "key 2"),
        ({"": VALUE}, "key 1"),
        ({f"{VALUE}\n": ""}, "key 1"),
        ({"A": 12}, "value of 'A' is a int"),
        ({"A": f"{VALUE}\0"}, "value of 'A' holds a NUL"),
        ({"A": f"{VALUE}\ud800"}, "not valid UTF-8"),
    ],
)
def test_what_is_no_variable_is_refused_without_its_value(env: object, said: str) -> None:
    refused(lambda: aio.Secret.from_dict(env), said)  # type: ignore[arg-type]


def test_variables_of_this_program_must_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THERE", VALUE)
    assert sent(aio.Secret.from_local_environ(["THERE"])).env == {"THERE": VALUE}
    refused(lambda: aio.Secret.from_local_environ(["THERE", "NOT_THERE"]), "'NOT_THERE' is not set")
    refused(lambda: aio.Secret.from_local_environ("THERE"), "give a list")


def test_a_file_of_variables_is_found_upwards_and_read_when_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "er")
    secret = aio.Secret.from_dotenv(filename=".env-test")
    refused(lambda: sent(secret), r"no '.env-test' in .* or above")
    (tmp_path / ".env-test").write_text(
        "# a comment\nexport A=1\nB='two words' # comment\n"
        'C="line\\nbreak"\nD\nE=${A}${HOME_OF_E}\nexport   F = x=y\n'
    )
    monkeypatch.setenv("HOME_OF_E", "!")
    expected = {"A": "1", "B": "two words", "C": "line\nbreak", "D": "", "E": "1!", "F": "x=y"}
    assert sent(secret).env == expected
    assert sent(aio.Secret.from_dotenv(tmp_path / "deep", filename=".env-test")).env == expected
    program = tmp_path / "deep" / "program.py"
    program.write_text("")
    assert sent(aio.Secret.from_dotenv(program, filename=".env-test")).env == expected
    refused(lambda: sent(aio.Secret.from_dotenv(tmp_path / "none")), "does not exist")


@pytest.mark.parametrize(
    "content", [f"A={VALUE}\n'unclosed={VALUE}\n".encode(), f"A={VALUE}\n".encode() + b"\xff", b"A=\0" + VALUE.encode()]
)
def test_a_file_that_cannot_be_read_shows_nothing_of_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".env").write_bytes(content)
    refused(lambda: sent(aio.Secret.from_dotenv(tmp_path)), r"\.env")


def test_a_file_that_is_too_large_is_not_read() -> None:
    refused(lambda: dotenv.parse(b"A=" + b"x" * dotenv.FILE_BYTES_MAX, "stdin"), "more than 1,048,576 bytes")


def test_no_secret_shows_its_values() -> None:
    for secret in (aio.Secret.from_dict({"A": VALUE}), skerry.Secret.from_dict({"A": VALUE})):
        assert repr(secret) == str(secret) == "<Secret.from_dict(['A'])>"
        assert VALUE not in repr(vars(secret) if hasattr(secret, "__dict__") else "")
    assert repr(aio.Secret.from_name("db")) == "<Secret.from_name('db')>"


@pytest.mark.parametrize("secrets", [VALUE, {"A": VALUE}, [VALUE], [{"A": VALUE}], 3, [None]])
async def test_what_is_no_secret_is_refused_without_showing_it(secrets: object) -> None:
    refused(lambda: sources(secrets, call="Sandbox.create"), "Sandbox.create: secrets")
    with pytest.raises(InvalidError, match=r"Sandbox\.create: secrets"):
        skerry.Sandbox.create(secrets=secrets)  # type: ignore[arg-type]


def test_what_is_not_stored_has_no_info() -> None:
    for call in (skerry.Secret.from_dict({}).info, lambda: skerry.Secret.from_dict({}).update({})):
        with pytest.raises(InvalidError, match="is not stored"):
            call()


@pytest.mark.parametrize("name", ["", None, 3])
def test_a_name_must_be_one(name: object) -> None:
    refused(lambda: aio.Secret.from_name(name), "give the name")  # type: ignore[arg-type]


def test_environments_are_refused() -> None:
    for call in (
        lambda: skerry.Secret.from_name("a", environment_name="prod"),
        lambda: skerry.Secret.objects.create("a", {}, environment_name="prod"),
        lambda: skerry.Secret.objects.list(environment_name="prod"),
        lambda: skerry.Secret.objects.delete("a", environment_name="prod"),
    ):
        with pytest.raises(UnimplementedError, match="environments"):
            call()


def test_times_are_those_of_a_datetime_or_an_iso_date() -> None:
    when = datetime(2026, 1, 2, 3, 4)
    assert as_timestamp(when) == as_timestamp("2026-01-02T03:04") == when.timestamp()
    assert as_timestamp(None) is None
    for wrong in ("yesterday", 3):
        with pytest.raises(InvalidError, match="no time"):
            as_timestamp(wrong)  # type: ignore[arg-type]
