"""A start with our runsc finds its seccomp programs made; with upstream's module it compiles them each time."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Sandbox, Sandboxes, restored, started

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]  # the first run builds two binaries

COMPILED = "No precompiled program found"
LOADED = "Loaded precompiled seccomp instructions"


def lines_with(sandbox: Sandbox, command: str, text: str) -> list[str]:
    return [line for line in sandbox.log_lines(command) if text in line]


@pytest.mark.parametrize("directfs", [False, True])
def test_a_start_loads_its_seccomp_program(sandboxes: Sandboxes, runsc: Path, directfs: bool) -> None:
    sandbox = started(sandboxes(runsc, directfs=directfs))
    assert lines_with(sandbox, "boot", COMPILED) == []
    assert lines_with(sandbox, "boot", LOADED) != []


@pytest.mark.parametrize("directfs", [False, True])
def test_a_gofer_loads_its_seccomp_program(sandboxes: Sandboxes, runsc: Path, tmp_path: Path, directfs: bool) -> None:
    sandbox = started(sandboxes(runsc, directfs=directfs, volume=tmp_path))
    assert lines_with(sandbox, "gofer", COMPILED) == []
    assert lines_with(sandbox, "gofer", LOADED) != []


def test_a_restore_loads_its_seccomp_program(sandboxes: Sandboxes, runsc: Path, tmp_path: Path) -> None:
    clone = restored(started(sandboxes(runsc)), sandboxes(runsc), tmp_path / "checkpoint")
    assert clone.status() == "running"
    assert lines_with(clone, "boot", COMPILED) == []
    assert lines_with(clone, "boot", LOADED) != []


def test_the_plain_build_compiles_its_programs_at_every_start(
    sandboxes: Sandboxes, plain_runsc: Path, tmp_path: Path
) -> None:
    sandbox = started(sandboxes(plain_runsc, volume=tmp_path))
    assert lines_with(sandbox, "boot", COMPILED) != []
    assert lines_with(sandbox, "gofer", COMPILED) != []
