"""A file of a volume being read. Matches the engine's `FileReading`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Final

_CHUNK: Final = 1 << 20


class FileReading:
    """Reads what a file had when it was opened, at most; `held` is let go of at its end."""

    def __init__(self, descriptor: int, size: int, *, held: AsyncExitStack | None = None) -> None:
        self._descriptor = descriptor
        self._held = held
        self.size = size

    async def chunks(self) -> AsyncIterator[bytes | memoryview]:
        at = 0
        while at < self.size:
            chunk = await asyncio.to_thread(os.pread, self._descriptor, min(_CHUNK, self.size - at), at)
            if not chunk:
                return  # it was cut meanwhile
            yield chunk
            at += len(chunk)

    async def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._held is not None:
            await self._held.aclose()
