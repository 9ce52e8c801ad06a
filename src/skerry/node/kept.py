"""What is kept of ended sandboxes: their output in files, how large it is, and in memory only those used last.

A process that somebody still reads lives on with its reader when its sandbox leaves the memory, since all that reading
needs is the file; whoever asks next gets it from the journal again.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Final

from skerry.model import limits
from skerry.model.errors import NotFoundError
from skerry.model.ids import SANDBOX, SandboxId, is_id
from skerry.model.text import escaped
from skerry.node.output_quota import NodeQuota
from skerry.node.table import ProcessTable

IN_MEMORY: Final = 16
"""Ended sandboxes whose processes are in memory; a client that is told of an end reads the output right after it."""


class KeptSandboxes:
    """The ended sandboxes of a node, until they are forgotten. Their output counts in `quota`, in memory or not."""

    def __init__(self, folder: Path, quota: NodeQuota, *, in_memory: int = IN_MEMORY) -> None:
        self._folder = folder
        self._quota = quota
        self._in_memory = in_memory
        self._tables: dict[SandboxId, ProcessTable] = {}  # the one used last at the end
        self._sizes: dict[SandboxId, int] = {}  # of those that are not in memory

    async def find(self, live: Collection[SandboxId]) -> None:
        """Count the output that an earlier node kept."""
        found = await asyncio.to_thread(_sizes, self._folder, {*live, *self.ids()})
        self._sizes |= found
        self._quota.count(sum(found.values()))

    def ids(self) -> Collection[SandboxId]:
        return self._tables.keys() | self._sizes.keys()

    def add(self, table: ProcessTable) -> None:
        """Take over the processes of a sandbox that has just ended."""
        self._tables[table.sandbox] = table
        self._shrink()

    def table(self, sandbox: SandboxId) -> ProcessTable:
        """Return the processes of an ended sandbox, from its folder if need be; raises NotFoundError."""
        table = self._tables.pop(sandbox, None) or self._read(sandbox)
        self._tables[sandbox] = table
        self._shrink()
        return table

    def output_bytes(self, sandbox: SandboxId) -> int:
        """Return how much output is kept of an ended sandbox; 0 of one that is not known."""
        table = self._tables.get(sandbox)
        return table.output_bytes if table is not None else self._sizes.get(sandbox, 0)

    def forget(self, sandbox: SandboxId) -> None:
        """Delete the output; of one that is not known there is nothing to do."""
        table = self._tables.pop(sandbox, None)
        if table is not None:
            table.remove()
        elif sandbox in self._sizes:
            self._quota.count(-self._sizes.pop(sandbox))
            shutil.rmtree(self._folder / sandbox, ignore_errors=True)
            self._quota.tell()

    def _read(self, sandbox: SandboxId) -> ProcessTable:
        folder = self._folder / sandbox
        if sandbox not in self._sizes or not folder.is_dir():
            raise NotFoundError(f"this node keeps nothing of a sandbox {escaped(sandbox, limit=64)!r}")
        self._quota.count(-self._sizes.pop(sandbox))
        table = ProcessTable(sandbox, folder, self._quota)
        table.read()
        return table

    def _shrink(self) -> None:
        """Let go of what was used longest ago. Output that still waits for space on the disk is in memory alone."""
        spare = len(self._tables) - self._in_memory
        for sandbox in [each for each, table in self._tables.items() if not table.pending][: max(0, spare)]:
            table = self._tables.pop(sandbox)
            self._sizes[sandbox] = table.retire()
            self._quota.count(self._sizes[sandbox])


def _sizes(folder: Path, live: Collection[SandboxId]) -> dict[SandboxId, int]:
    return {
        SandboxId(entry.name): _disk_bytes(Path(entry.path))
        for entry in os.scandir(folder)
        if is_id(entry.name, SANDBOX) and entry.name not in live
    }


def _disk_bytes(folder: Path) -> int:
    """Return what the files of a folder take on the disk: dropped output is a hole, and takes nothing."""
    return sum(entry.stat(follow_symlinks=False).st_blocks * limits.STAT_BLOCK for entry in os.scandir(folder))
