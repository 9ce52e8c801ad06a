"""What the engine asks of the folders of a server's data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from skerry.model.storage import StoredThing


class DataFolders(Protocol):
    """What a server keeps beside images, output and volumes."""

    async def look(self) -> Sequence[StoredThing]: ...
