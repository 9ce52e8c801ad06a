"""Build the sdist and the wheel into dist/, from programs that are up to date.

Run as `.venv/bin/python tools/build_wheel.py [--output FOLDER]`; `make wheel` does. The same sources and toolchains
give the same bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from bootstrap import put_toolchains_on_path
from build_agent import BIN, PROGRAMS, musl_target
from hatchling.build import build_sdist, build_wheel

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"


def build(folder: Path) -> list[Path]:
    """Return the sdist and the wheel, built into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(ROOT)  # PEP 517: where a back end finds its project
    return [folder / build_sdist(str(folder)), folder / build_wheel(str(folder))]


def linked_with_glibc() -> list[str]:
    """Return the Rust programs for which this Rust had no musl target."""
    stamps = {name: json.loads((BIN / f"{name}.json").read_text()) for name in PROGRAMS.values()}
    return [name for name, stamp in stamps.items() if stamp["target"] != musl_target()]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, default=DIST, metavar="FOLDER", help="where they go; dist/ by default")
    folder = parser.parse_args().output.absolute()
    put_toolchains_on_path()
    for file in build(folder):
        print(f"{file}  {file.stat().st_size / 1e6:.1f} MB")
    if names := linked_with_glibc():
        print(
            f"note: {', '.join(names)} contain glibc, whose licence (LGPL) binds whoever hands this wheel on;\n"
            f"`rustup target add {musl_target()}` and a second `make wheel` avoid that"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
