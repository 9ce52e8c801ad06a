"""The programs and commands of the pages for users, run as they stand against a real server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from realserver import Server, real_server

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TUTORIAL = DOCS / "tutorial/first-sandbox.md"
RUN = DOCS / "how-to/run-a-command.md"
LOGS = DOCS / "how-to/read-logs.md"
COPY = DOCS / "how-to/copy-files.md"
TERMINAL = DOCS / "how-to/use-a-terminal.md"

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def server(base_image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with real_server(base_image, tmp_path_factory.mktemp("pages") / "run") as running:
        yield running


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.S)


def run(server: Server, argv: list[str], folder: Path, text: str | None = None) -> str:
    """Return what a command prints, in a folder of its own, with `skerry` on its path."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    told = subprocess.run(
        argv,
        input=text,
        cwd=folder,
        env=os.environ | {"SKERRY_URL": server.url, "PATH": path},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    return told.stdout


def programs() -> list[str]:
    """Return the programs of the pages; those that install packages are run as examples are, elsewhere."""
    found = [
        program
        for page in (ROOT / "README.md", TUTORIAL, RUN, COPY, TERMINAL, LOGS)
        for program in blocks(page, "python")
    ]
    return [program for program in found if "pip_install" not in program and "local_entrypoint" not in program]


PRINTED = {
    "6 * 7": "42",
    "it says": "it says 1\nit says 2\nit says 3\napple\npear\n",
    "from a file": "from a file\n['hello.py']\n",
    "no-such-command": "127\n137\n",
    "logs.stream": "stdout begun\nstdout compiling\nstderr failed\n",
    "aio": "['0\\n', '1\\n', '2\\n']\n",
}


@pytest.mark.parametrize("program", programs())
def test_a_program_of_a_page_prints_what_the_page_lets_expect(server: Server, tmp_path: Path, program: str) -> None:
    expected = [text for mark, text in PRINTED.items() if mark in program]
    told = run(server, [sys.executable, "-"], tmp_path, program)
    assert expected
    assert all(text in told for text in expected), told
    server.check_no_sandbox_left()


def test_the_tutorials_first_program_prints_what_it_says(server: Server, tmp_path: Path) -> None:
    (tmp_path / "first.py").write_text(blocks(TUTORIAL, "python")[0])
    assert run(server, ["sh", "-ec", blocks(TUTORIAL, "sh")[0]], tmp_path) == blocks(TUTORIAL, "text")[0]
    server.check_no_sandbox_left()


def test_the_commands_that_carry_a_project_in_and_a_report_out(server: Server, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    project.chmod(0o777)  # the tests run as another user
    (project / "Makefile").write_text("test:\n\t@id -un >report\n")
    (block,) = blocks(RUN, "sh")
    run(server, ["bash", "-e", "-o", "pipefail", "-c", block], tmp_path)
    assert (tmp_path / "report").read_text() == "user\n"
    server.check_no_sandbox_left()


def test_the_commands_that_copy_files_do_what_they_show(server: Server, tmp_path: Path) -> None:
    told = run(server, ["bash", "-e", "-o", "pipefail", "-c", blocks(COPY, "sh")[0]], tmp_path)
    assert told.startswith("42\n")
    assert "project/answer.py\n" in told
    assert (tmp_path / "copy.py").read_text() == "print(6 * 7)\n"
    server.check_no_sandbox_left()


def test_the_tutorials_commands_do_what_they_show(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    told = run(server, ["bash", "-e", "-o", "pipefail", "-c", blocks(TUTORIAL, "sh")[1]], tmp_path)
    assert "Python 3." in told
    assert "terminated" in told
    server.check_no_sandbox_left()
