from __future__ import annotations

import click
import pytest

from skerry.cli import commands
from skerry.exception import NotFoundError


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """What the command `version` raises, to be put in here."""
    errors: list[BaseException] = []

    @click.command("version")
    def command() -> None:
        raise errors[0]

    monkeypatch.setattr("skerry.cli.version.command", command)
    monkeypatch.delenv("SKERRY_TRACEBACK", raising=False)
    return errors


def test_an_error_is_one_line_with_its_next_step(
    failing: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    failing.append(NotFoundError("there is no sandbox 'a\x1b[2Jb'; see skerry ls"))
    assert commands.run(["version"]) == 1
    assert capsys.readouterr().err == "skerry: there is no sandbox 'a\\x1b[2Jb'; see skerry ls\n"


def test_a_defect_says_that_it_is_one_and_how_to_see_it(
    failing: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    failing.append(KeyError("x"))
    assert commands.run(["version"]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "SKERRY_TRACEBACK=1" in told


def test_the_trace_is_shown_to_who_asks_for_it(failing: list[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    failing.append(NotFoundError("gone"))
    monkeypatch.setenv("SKERRY_TRACEBACK", "1")
    with pytest.raises(NotFoundError):
        commands.run(["version"])


def test_an_interrupt_is_130(failing: list[BaseException], capsys: pytest.CaptureFixture[str]) -> None:
    failing.append(KeyboardInterrupt())
    assert commands.run(["version"]) == 130
    assert capsys.readouterr().err.strip() == "skerry: interrupted"


@pytest.mark.parametrize(
    "argv", [["no-such"], ["create", "--no-such"], ["terminate"], ["exec", "sb"], ["completion", "x"]]
)
def test_a_wrong_call_is_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.run(argv) == 2
    assert "Error:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["create", "--env", "novalue"], "not of the form KEY=VALUE"),
        (["create", "--cpu", "many"], "no number or pair REQUEST:LIMIT"),
        (["create", "--memory", "1:2:3"], "more than one colon"),
    ],
)
def test_a_value_of_the_wrong_form_is_explained(argv: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.run(argv) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_the_shells_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.run(["completion", shell]) == 0
    assert "_SKERRY_COMPLETE" in capsys.readouterr().out
