"""What the wheel has beyond Python: the static programs, built before it is packed, and the machines that it fits.

Hatchling calls this (see pyproject.toml) for a wheel, whether it is made in a checkout or from an sdist. It takes Go
and Rust from PATH alone. An editable install gets its programs from the bootstrap, which makes the environment first.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BIN = Path("src") / "skerry" / "_bin"
TOOLCHAINS = ("go", "cargo", "rustc")
BUILDS = (
    ("build_agent.py",),
    ("build_runtime.py",),
    ("build_runtime.py", "--program", "skerry-image", "--output", str(BIN / "skerry-image")),
)
# What BUILDS make, each with the file that says what it was made from, where there is one.
CARRIED = (
    *("runsc", "runsc.json", "skerry-agent", "skerry-agent.json"),
    *("skerry-launch", "skerry-launch.json", "skerry-image"),
)


class ProgramsHook(BuildHookInterface):  # type: ignore[type-arg]
    """Builds the programs unless they are up to date, and lets the wheel carry them under the right tag."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        absent = [name for name in TOOLCHAINS if shutil.which(name) is None]
        if absent:
            self.app.abort(
                f"skerry: the programs of the wheel cannot be built: not on PATH: {', '.join(absent)}.\n"
                "Install a current Go (https://go.dev/dl) and Rust (https://rustup.rs) and put them on PATH, or\n"
                "install a wheel that was built (by `make wheel` in a checkout), which needs neither."
            )
        for script, *arguments in BUILDS:
            self._build([sys.executable, str(Path(self.root) / "tools" / script), *arguments])
        build_data["pure_python"] = False
        build_data["tag"] = wheel_tag(platform.machine())
        build_data["artifacts"] += [f"/{BIN / name}" for name in CARRIED]

    def _build(self, argv: list[str]) -> None:
        code = subprocess.run(argv, cwd=self.root, stdout=sys.stderr).returncode
        if code != 0:
            self.app.abort(f"skerry: `{' '.join(argv)}` ended with {code}; it says why above")


def wheel_tag(machine: str) -> str:
    """Return the tag of a wheel whose programs are static: any Python 3, and any C library on this architecture.

    Static programs ask for no C library, so both families of tags hold, each from its oldest version on: glibc 2.17 is
    the first with a tag for all architectures (PEP 599, PEP 600), musl 1.1 the first with a tag at all (PEP 656).
    """
    return f"py3-none-manylinux_2_17_{machine}.musllinux_1_1_{machine}"
