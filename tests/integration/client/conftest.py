from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from served_door import ServedDoor, served_door

from skerry.client.client import Client, connect, set_default


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServedDoor]:
    """The real door over a fake node, and every call of this test goes there."""
    with served_door(tmp_path) as served:
        monkeypatch.setenv("SKERRY_URL", served.url)
        yield served


@pytest.fixture
def client(door: ServedDoor) -> Iterator[Client]:
    """The program's own client, for the time of a test."""
    made = connect()
    set_default(made)
    try:
        yield made
    finally:
        set_default(None)
        made.close()
