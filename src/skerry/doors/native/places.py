"""How many connections there may be, of one user and of all, and who has to go when there is one too many.

A connection is idle while the server waits for its client: for the head or the rest of a request, for the next one, or
for a stream on its WebSocket. At a bound the connection that is idle longest goes, so that a flood of connections that
say nothing displaces itself; only a user all of whose connections are at work is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

PLACE: Final = "skerry.place"
"""Where the listener leaves the place of a connection in the state of the ASGI scope."""

TOTAL: Final = 2048
SHARE: Final = 4
"""A user has one part in so many of all places: three that take all of theirs leave room for a fourth."""


@dataclass(eq=False)
class Place:
    """The place of one connection. `idle` tells whether the server waits for its client, `since` when it last spoke."""

    user: int
    idle: Callable[[], bool]
    close: Callable[[], None]
    since: float = 0.0
    streams: int = field(default=0)
    """How many streams its WebSocket carries."""


class Places:
    """The places of a listener."""

    def __init__(self, total: int = TOTAL) -> None:
        self.total = total
        self.each = max(1, total // SHARE)
        self._of: dict[int, set[Place]] = {}
        self._taken = 0

    def take(self, place: Place) -> bool:
        """Give a connection its place, for which an idle one may have to go; False if there is none."""
        own = self._of.get(place.user, set())
        if len(own) >= self.each and not self._free(own):
            return False
        if self._taken >= self.total and not any(map(self._free, self._largest_first())):
            return False
        self._of.setdefault(place.user, set()).add(place)
        self._taken += 1
        return True

    def leave(self, place: Place) -> None:
        """Give a place back; may be repeated."""
        own = self._of.get(place.user, set())
        if place in own:
            own.remove(place)
            self._taken -= 1
            if not own:
                del self._of[place.user]

    def _largest_first(self) -> list[set[Place]]:
        return sorted(self._of.values(), key=len, reverse=True)

    def _free(self, some: Collection[Place]) -> bool:
        """Close the connection that is idle longest; tell whether there was one."""
        idle = min((place for place in some if place.idle()), key=lambda place: place.since, default=None)
        if idle is None:
            return False
        self.leave(idle)
        idle.close()
        return True
