from __future__ import annotations

import pytest

from skerry.client._core import arguments
from skerry.exception import InvalidError


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("python", 3), "argument 1 is a int"),
        (("a\0b",), "argument 0 holds a NUL"),
        (("\ud800",), "argument 0 is not valid UTF-8"),
        (("x" * 65_536,), "65537 bytes"),
        (("x" * 2_097_152,), "stdin"),
    ],
)
def test_a_command_line_that_cannot_be_is_refused(words: tuple[object, ...], told: str) -> None:
    with pytest.raises(InvalidError, match=told):
        arguments.argv(words, call="Sandbox.exec")


def test_64_kib_of_arguments_are_allowed() -> None:
    assert arguments.argv(("x" * 65_535,), call="Sandbox.exec") == ("x" * 65_535,)


@pytest.mark.parametrize("key", ["A=B", "A\0", "", 3])
def test_a_key_that_cannot_be_a_variable_is_named(key: object) -> None:
    with pytest.raises(InvalidError, match="env key"):
        arguments.environment({key: "value"}, call="Sandbox.create")  # type: ignore[dict-item]


def test_none_leaves_a_variable_out() -> None:
    assert arguments.environment({"A": "1", "B": None}, call="x") == {"A": "1"}
    with pytest.raises(InvalidError, match=r"env\['A'\] is a int"):
        arguments.environment({"A": 1}, call="x")  # type: ignore[dict-item]


@pytest.mark.parametrize("seconds", [0, -1, 86_401, float("nan"), float("inf"), "5", True])
def test_a_timeout_out_of_bounds_is_refused_in_the_callers_words(seconds: float) -> None:
    with pytest.raises(InvalidError, match="timeout="):
        arguments.lifetime(seconds)
    with pytest.raises(InvalidError, match="timeout="):
        arguments.exec_timeout(seconds)


def test_no_timeout_is_the_default_lifetime_and_no_deadline() -> None:
    assert arguments.lifetime(None) == 300
    assert arguments.exec_timeout(None) is None
    assert arguments.lifetime(86_400) == 86_400


def test_amounts_are_a_request_or_a_pair() -> None:
    assert arguments.cpu_fields(None) == {}
    assert arguments.cpu_fields(0.5) == {"cpu": 0.5}
    assert arguments.cpu_fields((0.5, 2)) == {"cpu": 0.5, "cpu_limit": 2}
    assert arguments.memory_fields(512) == {"memory_mib": 512}
    assert arguments.memory_fields((512, 1024)) == {"memory_mib": 512, "memory_limit_mib": 1024}


@pytest.mark.parametrize("amount", [-1, 0, (2, 1), (1, 2, 3), "2", True, float("nan"), ()])
def test_amounts_that_make_no_sense_are_refused(amount: object) -> None:
    with pytest.raises(InvalidError, match="cpu="):
        arguments.cpu_fields(amount)  # type: ignore[arg-type]
    with pytest.raises(InvalidError, match="memory="):
        arguments.memory_fields(amount)  # type: ignore[arg-type]


def test_nothing_weaker_than_what_was_named_is_used() -> None:
    assert arguments.isolation("gvisor") == "gvisor"
    with pytest.raises(InvalidError, match="'container' is not known; there is 'gvisor'"):
        arguments.isolation("container")


def test_a_relative_workdir_is_refused() -> None:
    with pytest.raises(InvalidError, match="workdir 'src' is relative"):
        arguments.workdir("src", call="Sandbox.exec")
    assert arguments.workdir("/src/../lib/", call="Sandbox.exec") == "/lib"
