"""Build the default image and run two example programs in sandboxes, saying how long each step took.

Run as `.venv/bin/python tools/demo.py`, after the bootstrap; `make demo` does both.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


class Part(NamedTuple):
    """One thing to show: what it is, and its command."""

    name: str
    argv: tuple[str, ...]


BUILD = "import skerry; skerry.Image.debian_slim().build()"
PARTS = (
    Part("default image", (str(BIN / "python"), "-c", BUILD)),
    Part("a command in a sandbox", (str(BIN / "skerry"), "run", "examples/seed_hello.py")),
    Part("an agent's code", (str(BIN / "skerry"), "run", "examples/seed_agent.py")),
)


def show(part: Part) -> float:
    """Run the part with its output in sight; return the seconds it took."""
    command = shlex.join(Path(word).name if word.startswith(str(BIN)) else word for word in part.argv)
    print(f"\n== {part.name}\n$ {command}", flush=True)
    started = time.monotonic()
    # Its output is ours: the build's progress is a live line on a terminal and plain lines elsewhere.
    code = subprocess.run(part.argv, cwd=ROOT, stdin=subprocess.DEVNULL).returncode
    if code != 0:
        raise SystemExit(f"demo: {part.name}: `{command}` ended with {code}; `skerry doctor` may say what is missing")
    return time.monotonic() - started


def main() -> int:
    try:
        took = {part.name: show(part) for part in PARTS}
    except KeyboardInterrupt:
        return 130
    print("\n== done")
    for name, seconds in took.items():
        print(f"{seconds:7.1f} s  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
