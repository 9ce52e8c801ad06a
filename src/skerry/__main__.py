"""`python -m skerry` is the program `skerry`, for where the environment's folder of programs is not on PATH."""

from __future__ import annotations

from skerry.cli import main

if __name__ == "__main__":
    main()
