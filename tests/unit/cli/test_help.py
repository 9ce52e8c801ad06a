from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import golden_help
import pytest

from skerry.cli.commands import COMMANDS

PAGES = golden_help.pages()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_help_is_the_golden_file(path: Path) -> None:
    assert PAGES[path] == path.read_text(), "`make golden` writes it anew"


def test_there_is_no_golden_file_too_many() -> None:
    assert {*golden_help.GOLDEN.iterdir(), golden_help.REFERENCE} == set(PAGES)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples(name: str) -> None:
    assert f"Examples:\n    skerry {name}" in golden_help.help_of([name])


def test_help_loads_no_client() -> None:
    code = "import sys; from skerry.cli.commands import run; run(['--help']); print(*sys.modules)"
    out = subprocess.check_output([sys.executable, "-I", "-c", code], text=True)
    loaded = set(out.splitlines()[-1].split())
    assert loaded & {"asyncio", "msgspec", "httptools", "rich", "skerry.client"} == set()
