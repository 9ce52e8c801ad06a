"""How long each stretch of a start took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from skerry.model.sandboxes import Stage


class Waterfall:
    """Stages one after another; together they are the whole time since it was made."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()
        self._last = self._begun
        self.stages: list[Stage] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Name the time until the end of the block, from the end of the stage before."""
        try:
            yield
        finally:
            now = time.perf_counter()
            self.stages.append(Stage(name=name, ms=(now - self._last) * 1e3))
            self._last = now
