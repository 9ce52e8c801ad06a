"""What is kept of the output of processes, and where in it the last lines, or those since a time, begin."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from skerry.engine.interfaces import Output, ProcessHandle
from skerry.engine.processes import Processes
from skerry.model import limits
from skerry.model.errors import InvalidError
from skerry.model.ids import SandboxId
from skerry.model.sandboxes import KeptOutput

CHUNK_BYTES: Final = 256 << 10
CHANNELS: Final = (1, 2)


class Logs:
    """The output of all processes, running or ended, for as long as it is kept. Reading it is following the process."""

    def __init__(self, *, processes: Processes) -> None:
        self._processes = processes

    async def find(
        self, sandbox: SandboxId, process: str, *, tail: int | None = None, since: float | None = None
    ) -> Sequence[KeptOutput]:
        """Return what is kept of each channel, from its last `tail` lines on, or from what came `since` a time on.

        With both, whichever is less. Lines are looked for in the last 16 MiB. Raises NotFoundError, InvalidError.
        """
        if tail is not None and not 0 <= tail <= limits.LOG_TAIL_LINES:
            raise InvalidError(f"tail is {tail}; give 0 to {limits.LOG_TAIL_LINES:,} lines")
        if since is not None and not math.isfinite(since):
            raise InvalidError("since is no time; give Unix seconds")
        handle = self._processes.get(sandbox, process)
        if handle.view.exit is not None:
            await _drain(handle)
        return [await _kept(handle.output(channel), channel, tail, since) for channel in CHANNELS]


async def _drain(handle: ProcessHandle) -> None:
    """Let the last bytes of an ended process come: its end is told at once, and may be known before them."""
    with suppress(TimeoutError):
        async with asyncio.timeout(limits.OUTPUT_ARRIVES_S):
            await handle.drain(limits.OUTPUT_STILL_S)


async def _kept(output: Output, channel: int, tail: int | None, since: float | None) -> KeptOutput:
    end, ended = output.end, output.ended
    start, cut = output.base, False
    if tail is not None:
        start, cut = await _last_lines(output, end, tail)
    if since is not None and (later := output.offset_at(since)) > start:
        start, cut = min(later, end), False
    base = min(output.base, end)
    start = max(start, base)
    times = tuple(one for one in output.times(start) if one[0] <= end)
    return KeptOutput(channel=channel, base=base, start=start, end=end, ended=ended, cut=cut, times=times)


async def _last_lines(output: Output, end: int, count: int) -> tuple[int, bool]:
    """Return where the last `count` lines begin, and whether that is in the middle of one."""
    if not count:
        return end, False
    least = max(output.base, end - limits.LOG_TAIL_BYTES)
    upto, wanted = end, count
    while upto > least:
        at, content = await output.read_old(max(least, upto - CHUNK_BYTES), min(CHUNK_BYTES, upto - least))
        if upto == end:
            wanted += content.endswith(b"\n")  # the last newline ends a line and begins none
        for newline in _newlines_backwards(content):
            wanted -= 1
            if not wanted:
                return at + newline + 1, False
        if at >= upto:  # dropped meanwhile
            break
        upto = at
    return least, least > output.base


def _newlines_backwards(content: bytes) -> list[int]:
    """Return where the newlines are, the last one in front."""
    found, at = [], content.rfind(b"\n")
    while at >= 0:
        found.append(at)
        at = content.rfind(b"\n", 0, at)
    return found
