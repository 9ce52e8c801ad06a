"""The wheel and the sdist as a user meets them: built, and installed where there is nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Packages:
    """What `make wheel` builds."""

    sdist: Path
    wheel: Path


def build_packages(folder: Path) -> Packages:
    """Build both into a folder; programs that are up to date are not built again."""
    script = str(CHECKOUT / "tools" / "build_wheel.py")
    told = subprocess.run([sys.executable, script, "--output", str(folder)], cwd="/", capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return Packages(sdist, wheel)


def pip(*arguments: str, path: str, python: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run this environment's pip, for another one where `python` is given, with a PATH of its own.

    Which index it asks is the machine's affair.
    """
    chosen = [] if python is None else ["--python", str(python)]
    argv = [sys.executable, "-m", "pip", *chosen, "--disable-pip-version-check", "--no-input", *arguments]
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(argv, cwd="/", env=environ | {"PATH": path}, capture_output=True, text=True)


class Installed:
    """A virtual environment without pip and with nothing but what a wheel brings; only its programs are on PATH."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, symlinks=True)
        self.folder = folder
        self.python = folder / "bin" / "python"
        self.path = str(folder / "bin")  # neither Go nor Rust, nor anything else of the machine's

    def install(self, wheel: Path, *options: str) -> None:
        """Install a wheel and what it needs, in the versions that the lock has; nothing is ever built."""
        locked = re.findall(r"^[\w-]+==\S+", (CHECKOUT / "requirements.lock").read_text(), re.M)
        constraints = self.folder / "constraints.txt"
        constraints.write_text("\n".join(locked))
        told = self.pip("install", "--only-binary", ":all:", "--constraint", str(constraints), *options, str(wheel))
        assert told.returncode == 0, told.stderr

    def pip(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return pip(*arguments, path=self.path, python=self.python)

    def files(self) -> set[str]:
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*")}
