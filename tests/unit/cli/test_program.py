from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from skerry.cli import program
from skerry.exception import InvalidError


@pytest.fixture(autouse=True)
def _own_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in {"programme", "neighbour"} & (set(sys.modules) - before):
        del sys.modules[name]


def loaded(folder: Path, code: str, name: str | None = None) -> program.Entrypoint:
    file = folder / "programme.py"
    file.write_text("import skerry as modal\napp = modal.App('x')\n" + code)
    return program.entrypoint(program.load(file), name, file)


def parsed(folder: Path, signature: str, *argv: str) -> tuple[list[Any], dict[str, Any]]:
    entrypoint = loaded(folder, f"@app.local_entrypoint()\ndef main({signature}):\n    pass\n")
    return program.parse(entrypoint, list(argv), "skerry run programme.py")


def test_the_only_entrypoint_is_run_whatever_its_name(tmp_path: Path) -> None:
    entrypoint = loaded(tmp_path, "@app.local_entrypoint()\ndef anything():\n    return 42\n")
    assert (entrypoint.name, entrypoint.run()) == ("anything", 42)


def test_of_several_main_is_run_or_the_named_one(tmp_path: Path) -> None:
    code = "".join(f"@app.local_entrypoint()\ndef {name}(): pass\n" for name in ("first", "main"))
    assert loaded(tmp_path, code).name == "main"
    assert loaded(tmp_path, code, "first").name == "first"
    with pytest.raises(InvalidError, match=r"no entrypoint 'other'; name one of first, main"):
        loaded(tmp_path, code, "other")


def test_an_asynchronous_entrypoint_is_awaited(tmp_path: Path) -> None:
    entrypoint = loaded(tmp_path, "@app.local_entrypoint()\nasync def main():\n    return 7\n")
    assert entrypoint.run() == 7


def test_a_file_without_an_entrypoint_says_how_to_mark_one(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match=r"@app.local_entrypoint\(\)"):
        loaded(tmp_path, "")
    with pytest.raises(InvalidError, match="is no file"):
        program.load(tmp_path / "missing.py")


def test_a_file_finds_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("VALUE = 5\n")
    entrypoint = loaded(
        tmp_path, "import neighbour\n@app.local_entrypoint()\ndef main():\n    return neighbour.VALUE\n"
    )
    assert entrypoint.run() == 5


@pytest.mark.parametrize(
    ("signature", "argv", "given"),
    [
        ("count: int", ["--count", "3"], {"count": 3}),
        ("share: float = 0.5", [], {"share": 0.5}),
        ("dry_run: bool = False", ["--dry-run"], {"dry_run": True}),
        ("loud: bool = True", ["--no-loud"], {"loud": False}),
        ("name: str | None = None", [], {"name": None}),
        ("limit: int | None = None", ["--limit", "4"], {"limit": 4}),
        ("text", ["--text", "3"], {"text": "3"}),
        ("thing: 'NoSuchType'", ["--thing", "x"], {"thing": "x"}),
    ],
)
def test_parameters_become_options(tmp_path: Path, signature: str, argv: list[str], given: dict[str, Any]) -> None:
    assert parsed(tmp_path, signature, *argv) == ([], given)


def test_words_go_to_a_star_parameter_as_they_are(tmp_path: Path) -> None:
    assert parsed(tmp_path, "*words", "--x", "y") == (["--x", "y"], {})


@pytest.mark.parametrize("argv", [[], ["--count", "three"], ["--count", "1", "--other"]])
def test_arguments_that_do_not_fit_are_a_wrong_call(tmp_path: Path, argv: list[str]) -> None:
    with pytest.raises(click.UsageError):
        parsed(tmp_path, "count: int", *argv)
