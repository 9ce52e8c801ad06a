"""What the program says of itself."""

from __future__ import annotations

import subprocess
import tomllib

from agent_places import AGENT, CHECKOUT


def test_it_prints_the_version_of_its_package() -> None:
    package = tomllib.loads((CHECKOUT / "agent/Cargo.toml").read_text())["package"]
    assert subprocess.check_output([AGENT, "version"], text=True).strip() == package["version"]


def test_words_that_it_does_not_know_are_an_error() -> None:
    answer = subprocess.run([AGENT, "dance"], capture_output=True, text=True)
    assert answer.returncode == 64
    assert "usage" in answer.stderr
