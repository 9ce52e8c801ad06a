"""The command line. Only click is loaded here; a command loads what it needs when it runs."""

from __future__ import annotations


def main() -> None:
    """Run the command line of this process and exit with its status."""
    import sys

    from skerry.cli.commands import run

    sys.exit(run(sys.argv[1:]))
