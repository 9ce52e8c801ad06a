"""The examples: the published programs but for their import line, and what they print on a real server."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from realserver import Server, real_server

EXAMPLES = Path(__file__).parents[2] / "examples"
OURS, THEIRS = "import skerry as modal\n", "import modal\n"

# The digest of each program as it was published for Modal.
PUBLISHED = {
    "seed_agent.py": "cea83721e21fff3ecf162d08c66921c020a461f64d8e8748c8ee8ce66c3e5f17",
    "seed_volume.py": "b8e9ffc176980c088a8a9a5ea15cd0f68a05109ab5ce817860ecf8255267fa85",
    "seed_hello.py": "ef637930b27015ff0baa7957cddcfea260aa80fb717c3f06bac2206cb3c58158",
}

DESCRIBED = """\
         x    y
count  3.0  3.0
mean   2.0  5.0
std    1.0  1.0
min    1.0  4.0
25%    1.5  4.5
50%    2.0  5.0
75%    2.5  5.5
max    3.0  6.0
"""


@pytest.fixture(scope="module")
def server(base_image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with real_server(base_image, tmp_path_factory.mktemp("examples") / "run") as running:
        yield running


def run(server: Server, name: str) -> str:
    """Return what an example prints through `skerry run`; what it says on stderr is progress alone."""
    argv = [sys.executable, "-c", "from skerry.cli import main; main()", "run", str(EXAMPLES / name)]
    told = subprocess.run(
        argv, env=os.environ | {"SKERRY_URL": server.url}, capture_output=True, text=True, timeout=280
    )
    assert told.returncode == 0, told.stderr
    assert "Traceback" not in told.stderr
    return told.stdout


def check_hello(output: str) -> None:
    assert output == "hello from sandbox\n\n"


def check_agent(output: str) -> None:
    assert output.startswith(DESCRIBED)
    assert re.sub(r"\s", "", output.removeprefix(DESCRIBED)) == ""  # /tmp is empty


def check_volume(output: str) -> None:
    assert output == "test results: all passed\n\n"


CHECKS: dict[str, Callable[[str], None]] = {
    "seed_agent.py": check_agent,
    "seed_hello.py": check_hello,
    "seed_volume.py": check_volume,
}


def test_every_example_is_run_by_a_test() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(CHECKS)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_an_example_is_the_published_program_but_for_its_import(name: str) -> None:
    text = (EXAMPLES / name).read_text()
    assert text.count(OURS) == 1
    assert hashlib.sha256(text.replace(OURS, THEIRS).encode()).hexdigest() == PUBLISHED[name]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", sorted(CHECKS))
def test_an_example_prints_what_it_should_and_leaves_no_sandbox(name: str, server: Server) -> None:
    CHECKS[name](run(server, name))
    server.check_no_sandbox_left()
