"""SPECIFICATION.md names, for each promise, what proves it: here each of those is shown to exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
TEXT = (CHECKOUT / "SPECIFICATION.md").read_text()

_TEST = re.compile(r"`((?:tests|agent|launcher|runtime)/[\w/.-]+)::(\w+)`")
_BENCHMARK = re.compile(r"benchmark `([\w-]+)`")
_DECLARED = {
    ".py": r"^\s*(?:async )?def {name}\(",
    ".rs": r"^\s*fn {name}\(\)",
    ".go": r"^func {name}\(",
}


def promises() -> Iterator[str]:
    """Every item of a list, and every row of a table below its head."""
    block = ""
    for line in [*TEXT.splitlines(), ""]:
        if block and (not line.strip() or line.startswith(("- ", "|", "#"))):
            yield block
            block = ""
        if line.startswith("- ") or (line.startswith("| ") and not line.startswith("| promise")):
            block = line
        elif block:
            block += f" {line.strip()}"


def measures() -> set[str]:
    """The names of the benchmarks, read from their list: importing them would need what they measure."""
    tree = ast.parse((CHECKOUT / "benchmarks" / "measures" / "__init__.py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "Measure"]
    return {call.args[0].value for call in calls if isinstance(call.args[0], ast.Constant)}


@pytest.mark.parametrize(("file", "name"), sorted(set(_TEST.findall(TEXT))))
def test_every_test_that_it_names_exists(file: str, name: str) -> None:
    path = CHECKOUT / file
    assert path.is_file(), f"SPECIFICATION.md names {file}, which is not there"
    declared = _DECLARED[path.suffix].format(name=name)
    assert re.search(declared, path.read_text(), re.MULTILINE), f"{file} has no {name}"


def test_every_benchmark_is_named_and_every_name_is_one() -> None:
    assert set(_BENCHMARK.findall(TEXT)) == measures()


def test_every_promise_names_what_proves_it() -> None:
    assert len(list(promises())) > 30
    bare = [promise for promise in promises() if not (_TEST.search(promise) or _BENCHMARK.search(promise))]
    assert not bare
