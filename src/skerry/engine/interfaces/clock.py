"""Where time comes from."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Where time comes from."""

    def now(self) -> float:
        """Unix seconds."""

    def monotonic(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...
