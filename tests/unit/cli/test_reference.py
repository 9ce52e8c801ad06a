"""The reference pages name everything that exists."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import generate_sync
import pytest

import skerry
from skerry import aio
from skerry.cli.commands import COMMANDS

ROOT = Path(__file__).parents[3]
SDK = (ROOT / "docs/reference/sdk.md").read_text()
CLI = (ROOT / "docs/reference/cli.md").read_text()
TUTORIAL = (ROOT / "docs/tutorial/first-sandbox.md").read_text()


def named(text: str, name: str) -> bool:
    return re.search(rf"(?<![\w]){re.escape(name)}(?![\w])", text) is not None


@pytest.mark.parametrize("name", skerry.__all__)
def test_every_public_name_is_in_the_sdks_reference(name: str) -> None:
    assert named(SDK, name)


@pytest.mark.parametrize("kind", [*sorted(generate_sync.FACADES), "Client", "FileInfo", "Timings"])
def test_every_member_and_parameter_is_in_the_sdks_reference(kind: str) -> None:
    owner = getattr(aio, kind, None) or getattr(skerry, kind)
    for name, member in inspect.getmembers_static(owner):
        if name.startswith("_") or (kind == "Client" and name not in ("close", "aclose")):
            continue
        assert named(SDK, name), f"{kind}.{name}"
        plain = member.__func__ if isinstance(member, staticmethod) else member
        if inspect.isfunction(plain):
            parameters = inspect.signature(plain).parameters
            missing = [one for one in parameters if one not in ("self", "idle", "args") and not named(SDK, one)]
            assert missing == [] or name.startswith("_") or kind == "App", f"{kind}.{name}: {missing}"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_reference(name: str) -> None:
    assert f"### skerry {name}\n" in CLI
    assert f"Usage: skerry {name} " in CLI


def test_the_tutorials_programs_are_python() -> None:
    programs = re.findall(r"```python\n(.*?)```", TUTORIAL, flags=re.S)
    assert len(programs) >= 6
    for number, program in enumerate(programs):
        compile(program, f"program {number}", "exec")
        for name in re.findall(r"\bskerry\.([A-Za-z_]\w*)", program):
            assert hasattr(skerry, name), name
