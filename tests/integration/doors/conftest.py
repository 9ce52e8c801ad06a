from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from doorway import Door, opened_door


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with opened_door(tmp_path) as opened:
        yield opened
