"""Check formats, lints, types, import contracts and generated files; report everything that is wrong at once.

Run as `.venv/bin/python tools/check.py`. With --native-tests the tests that live beside the Go and Rust sources
run too. With --write golden (or format) the generated (or formatted) files are written anew instead.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from bootstrap import put_toolchains_on_path
from build_agent import PROGRAMS
from steps import StepFailed, Steps

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
PYTHON = str(BIN / "python")
CRATES = tuple(ROOT / name for name in PROGRAMS)
RUNTIME = ROOT / "runtime"


class Check(NamedTuple):
    """A command that ends well when all is right, and the one that would put it right."""

    name: str
    argv: tuple[str, ...]
    folder: Path = ROOT
    kind: str = ""  # what --write calls it
    write: tuple[str, ...] = ()
    probe: tuple[str, ...] = ()  # where this fails the tool is not installed, and the check is left out
    quiet: bool = False  # whatever it prints is a complaint


def tool(name: str, *arguments: str) -> tuple[str, ...]:
    return (str(BIN / name), *arguments)


def script(name: str, *arguments: str) -> tuple[str, ...]:
    return (PYTHON, str(ROOT / "tools" / name), *arguments)


def rust_checks(crate: Path) -> tuple[Check, Check]:
    formatted = ("cargo", "fmt", "--check")
    clippy = ("cargo", "clippy", "--locked", "--all-targets", "--", "-D", "warnings")
    return (
        Check(
            f"{crate.name}: rustfmt", formatted, crate, "format", ("cargo", "fmt"), probe=("cargo", "fmt", "--version")
        ),
        Check(f"{crate.name}: clippy", clippy, crate, probe=("cargo", "clippy", "--version")),
    )


CHECKS = (
    Check("ruff format", tool("ruff", "format", "--check"), ROOT, "format", tool("ruff", "format")),
    Check("ruff", tool("ruff", "check"), ROOT, "format", tool("ruff", "check", "--fix")),
    Check("sync SDK", script("generate_sync.py", "--check"), ROOT, "golden", script("generate_sync.py")),
    Check("golden trees", script("golden_trees.py", "--check"), ROOT, "golden", script("golden_trees.py")),
    Check("golden frames", script("golden_frames.py", "--check"), ROOT, "golden", script("golden_frames.py")),
    Check("OpenAPI", script("openapi.py", "--check"), ROOT, "golden", script("openapi.py")),
    Check("help texts", script("golden_help.py", "--check"), ROOT, "golden", script("golden_help.py")),
    Check(
        "gVisor's shapes",
        script("build_runtime.py", "--shapes", "--check"),
        ROOT,
        "golden",
        script("build_runtime.py", "--shapes"),
    ),
    Check("licences", script("licences.py", "--check"), ROOT, "golden", script("licences.py")),
    Check("mypy", tool("mypy")),
    Check("import contracts", tool("lint-imports")),
    *(check for crate in CRATES for check in rust_checks(crate)),
    Check("runtime: gofmt", ("gofmt", "-l", "."), RUNTIME, "format", ("gofmt", "-w", "."), quiet=True),
    Check("runtime: vet", ("go", "vet", "./..."), RUNTIME),
)

NATIVE_TESTS = (
    *(Check(f"{crate.name}: tests", ("cargo", "test", "--locked"), crate) for crate in CRATES),
    # Without C, as the programs are built: their filter of system calls knows what the Go runtime calls, not a libc.
    Check("runtime: tests", ("env", "CGO_ENABLED=0", "go", "test", "./..."), RUNTIME),
)


def works(probe: tuple[str, ...]) -> bool:
    try:
        return subprocess.run(probe, capture_output=True).returncode == 0
    except OSError:
        return False


def run(steps: Steps, check: Check, argv: tuple[str, ...]) -> str | None:
    """Carry out one check; return its complaint, or None."""
    if check.probe and not works(check.probe):
        steps.skipped(check.name, f"left out: `{' '.join(check.probe)}` fails; `rustup component add` mends it")
        return None
    try:
        with steps.step(check.name) as step:
            said = step.run(argv, cwd=check.folder)
            if check.quiet and said.strip():
                raise StepFailed(f"{check.name}: not as it should be:\n{said}")
    except StepFailed as exc:
        return str(exc)
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--native-tests", action="store_true", help="run the Go and Rust tests as well")
    parser.add_argument("--write", choices=("format", "golden"), help="write these files instead of checking")
    chosen = parser.parse_args()
    put_toolchains_on_path()
    steps = Steps("write" if chosen.write else "check", ROOT / "build" / "logs" / "check")
    if chosen.write:
        work = [(check, check.write) for check in CHECKS if check.kind == chosen.write]
    else:
        work = [(check, check.argv) for check in (*CHECKS, *(NATIVE_TESTS if chosen.native_tests else ()))]
    try:
        complaints = [complaint for check, argv in work if (complaint := run(steps, check, argv))]
    except KeyboardInterrupt:
        return 130
    for complaint in complaints:
        print(f"\ncheck: {complaint}", file=sys.stderr)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
