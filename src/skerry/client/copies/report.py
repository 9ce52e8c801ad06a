"""What a copy has come to so far, and what it left out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from skerry.model.errors import SandboxFilesystemError
from skerry.model.text import printable

NAMED: Final = 100
"""How many of the things that were left out are kept by name; the others are counted."""
TOLD: Final = 10


@dataclass
class Report:
    """Entries are files, folders and links, `size` the bytes of files; `total` is known for a single file."""

    entries: int = 0
    size: int = 0
    total: int | None = None
    left_out: int = 0
    named: list[tuple[str, str]] = field(default_factory=list)
    """What was left out, the first NAMED: the path in the tree, and why."""

    def leave_out(self, path: bytes, reason: str) -> None:
        self.left_out += 1
        if len(self.named) < NAMED:
            self.named.append((path.decode("utf-8", "surrogateescape"), reason))

    def lines(self) -> list[str]:
        """Return a line for each thing that was left out, safe to print."""
        told = [f"not copied: {printable(path or '.', keep='')}: {printable(why)}" for path, why in self.named]
        more = self.left_out - len(self.named)
        return told + ([f"not copied: {more:,} more"] if more else [])

    def check(self) -> None:
        """Raise SandboxFilesystemError if anything was left out, with its names."""
        if not self.left_out:
            return
        lines = [line.removeprefix("not copied: ") for line in self.lines()]
        more = self.left_out - TOLD
        told = "; ".join(lines[:TOLD]) + (f"; and {more:,} more" if more > 0 else "")
        raise SandboxFilesystemError(f"{self.left_out:,} of the tree's entries were not copied: {told}")
