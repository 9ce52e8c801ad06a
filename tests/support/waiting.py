"""Waiting for a condition, with a deadline, where nothing tells of the change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

STEP_S = 0.01


async def until(condition: Callable[[], object], *, seconds: float = 20.0) -> None:
    """Return once `condition` holds; TimeoutError after the deadline."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(STEP_S)
