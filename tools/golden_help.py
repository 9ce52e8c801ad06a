"""Writes the command line's help: the golden files tests/golden/cli/*.txt, and the blocks of docs/reference/cli.md.

python tools/golden_help.py            writes the files
python tools/golden_help.py --check    changes nothing; exit code 1 if they are not up to date
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from click.testing import CliRunner

from skerry.cli.commands import COMMANDS, cli

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden" / "cli"
REFERENCE = ROOT / "docs" / "reference" / "cli.md"
WIDTH = 100


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the golden files of the command line's help.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail if the files are not up to date")
    if parser.parse_args().check:
        stale = [path for path, text in pages().items() if not path.exists() or path.read_text() != text]
        for path in stale:
            print(f"{path.relative_to(ROOT)} is not up to date; run python tools/golden_help.py", file=sys.stderr)
        return 1 if stale else 0
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for path, text in pages().items():
        path.write_text(text)
    return 0


def pages() -> dict[Path, str]:
    """Return the help of the program and of each command, by the file that holds it."""
    calls: dict[str, list[str]] = {"skerry": []}
    for words in _commands():
        calls["-".join(["skerry", *words])] = words
    helps = {page: help_of(argv) for page, argv in calls.items()}
    return {REFERENCE: reference(helps), **{GOLDEN / f"{page}.txt": text for page, text in helps.items()}}


def _commands() -> Iterator[list[str]]:
    """Yield the words of each command, those of a group behind it."""
    for name in COMMANDS:
        yield [name]
        command = cli.get_command(click.Context(cli), name)
        if isinstance(command, click.Group):
            yield from ([name, inner] for inner in command.commands)


def reference(helps: dict[str, str]) -> str:
    """Return the reference with the block behind each `<!-- help: PAGE -->` written anew."""

    def block(match: re.Match[str]) -> str:
        return f"{match[1]}\n```text\n{helps[match[2]]}```\n"

    return re.sub(r"(<!-- help: ([\w-]+) -->)\n(?:```text\n.*?```\n)?", block, REFERENCE.read_text(), flags=re.S)


def help_of(argv: list[str]) -> str:
    result = CliRunner().invoke(cli, [*argv, "--help"], prog_name="skerry", terminal_width=WIDTH)
    if result.exit_code:
        raise RuntimeError(f"skerry {' '.join(argv)} --help failed: {result.output}") from result.exception
    return result.output


if __name__ == "__main__":
    sys.exit(main())
