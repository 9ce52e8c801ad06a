from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.doors.native.places import SHARE, Place, Places

EACH = 3
TOTAL = EACH * SHARE


class Client:
    """One connection, idle or at work."""

    def __init__(self, user: int, *, since: float = 0.0, works: bool = False) -> None:
        self.works = works
        self.closed = False
        self.place = Place(user, idle=lambda: not self.works, close=self._close, since=since)

    def _close(self) -> None:
        self.closed = True


def admitted(places: Places, clients: Sequence[Client]) -> list[bool]:
    return [places.take(client.place) for client in clients]


def test_a_user_whose_connections_all_work_is_refused_and_another_is_not() -> None:
    places = Places(TOTAL)
    assert admitted(places, [Client(1, works=True) for _ in range(EACH + 1)]) == [True] * EACH + [False]
    assert places.take(Client(2).place)


def test_the_one_that_is_idle_longest_makes_room_for_the_next_of_its_user() -> None:
    places = Places(TOTAL)
    works, longer, shorter = Client(1, since=1.0, works=True), Client(1, since=2.0), Client(1, since=3.0)
    assert admitted(places, [works, shorter, longer, Client(1, since=4.0)]) == [True] * 4
    assert [each.closed for each in (works, longer, shorter)] == [False, True, False]


def test_when_all_places_are_taken_the_user_with_the_most_gives_one_up() -> None:
    places = Places(TOTAL)
    flood = [Client(user, since=9.0) for user in range(1, SHARE) for _ in range(EACH)]
    few = [Client(SHARE, since=1.0), Client(SHARE, since=1.0), Client(SHARE + 1, since=1.0)]
    assert all(admitted(places, flood + few))
    assert places.take(Client(SHARE + 2).place)
    assert [each.closed for each in few] == [False] * 3
    assert sum(each.closed for each in flood) == 1


def test_when_all_places_work_the_next_is_refused() -> None:
    places = Places(TOTAL)
    everyone = [Client(user, works=True) for user in range(SHARE) for _ in range(EACH)]
    assert all(admitted(places, everyone))
    assert not places.take(Client(SHARE).place)
    places.leave(everyone[0].place)
    assert places.take(Client(SHARE).place)


@pytest.mark.parametrize("total", [0, 1, 3])
def test_even_the_smallest_bound_lets_one_in(total: int) -> None:
    assert Places(max(1, total)).take(Client(1).place)


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.booleans()), max_size=80))
def test_the_bounds_hold_whoever_comes_and_goes(steps: list[tuple[int, bool, bool]]) -> None:
    places = Places(TOTAL)
    inside: list[Client] = []
    for now, (user, works, leaves) in enumerate(steps):
        if leaves and inside:
            places.leave(inside.pop(0).place)
        client = Client(user, since=float(now), works=works)
        if places.take(client.place):
            inside.append(client)
        inside = [each for each in inside if not each.closed]
        assert len(inside) <= TOTAL
        for one in {each.place.user for each in inside}:
            assert sum(each.place.user == one for each in inside) <= EACH
    assert not any(each.closed and each.works for each in inside)
