"""Ids that count."""

from __future__ import annotations

import itertools

from skerry.model.ids import encode


class CountingIds:
    """Ids 1, 2, 3, … of each prefix, in the form of real ones."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def new(self, prefix: str) -> str:
        return encode(prefix, next(self._numbers))
