"""Write requirements.lock anew: the newest versions that pyproject.toml allows, each with its hashes.

Run as `.venv/bin/python tools/lock.py`. uv resolves (for every platform at once); it is installed for this
alone, since the lock itself is installed with plain pip. No index's address is written into the file.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UV = "uv==0.13.9"
FOLDER = ROOT / "build" / "uv"


def settings() -> dict[str, str]:
    """Return the environment for uv, with the index that pip is told to use."""
    env = dict(os.environ)
    for pips, uvs in (("PIP_INDEX_URL", "UV_DEFAULT_INDEX"), ("PIP_EXTRA_INDEX_URL", "UV_INDEX")):
        if pips in env:
            env.setdefault(uvs, env[pips])
    return env


def main() -> int:
    subprocess.run([sys.executable, "-m", "venv", str(FOLDER)], check=True)
    subprocess.run([str(FOLDER / "bin" / "pip"), "install", "--quiet", UV], check=True)
    options = ["--group", "dev", "--universal", "--python-version", "3.11", "--generate-hashes", "--upgrade"]
    silent = ["--no-emit-index-url", "--no-emit-find-links", "--no-header", "--quiet"]
    argv = [str(FOLDER / "bin" / "uv"), "pip", "compile", "pyproject.toml", *options, *silent]
    return subprocess.run([*argv, "--output-file", "requirements.lock"], cwd=ROOT, env=settings()).returncode


if __name__ == "__main__":
    sys.exit(main())
