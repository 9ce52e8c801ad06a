"""The version of this distribution."""

from __future__ import annotations


def version() -> str:
    """Return it as the installed distribution says."""
    from importlib import metadata  # 30 ms

    try:
        return metadata.version("skerry")
    except metadata.PackageNotFoundError:
        return "0+unknown"
