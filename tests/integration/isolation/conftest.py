"""A gVisor backend of the test's own, and a sandbox on the default image in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from realbackend import RealBackend, real_backend


@pytest_asyncio.fixture
async def real(tmp_path: Path) -> AsyncIterator[RealBackend]:
    async with real_backend(tmp_path) as backend:
        yield backend
