from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.model.errors import InvalidError, ResourceExhaustedError
from skerry.node.network.plan import (
    CANDIDATES,
    Plan,
    choose_range,
    connected_networks,
    taken_networks,
    uplink_mtu,
)
from skerry.node.network.rtnetlink import PROTOCOL, RT_TABLE_LOCAL, RT_TABLE_MAIN, RTN_UNICAST, Address, Link, Route

PLAN = Plan("sk", IPv4Network("10.213.0.0/16"))


def route(
    destination: str, *, gateway: bool = False, table: int = RT_TABLE_MAIN, protocol: int = 2, oif: int = 2
) -> Route:
    return Route(IPv4Network(destination), table, RTN_UNICAST, protocol, oif, gateway)


def address(text: str) -> Address:
    return Address(2, IPv4Address(text.partition("/")[0]), IPv4Network(text, strict=False))


@given(st.sampled_from(PLAN.indexes))
def test_every_slot_has_an_address_of_its_own_inside_the_range(index: int) -> None:
    assert PLAN.address(index) in PLAN.network
    assert PLAN.address(index) not in (PLAN.gateway, PLAN.network[0], PLAN.network[-1])
    assert PLAN.index(PLAN.device(index)) == index
    assert len(PLAN.device(index)) <= 15
    assert PLAN.mark(index) & 0xFFFF == index


@pytest.mark.parametrize("name", ["sk", "sk01", "sk-1", "skx", "sk1x", "skt1", "eth0", "sk²", ""])
def test_a_device_of_someone_else_has_no_index(name: str) -> None:
    assert PLAN.index(name) is None


def test_nodes_with_different_prefixes_share_no_group_and_no_marks() -> None:
    other = Plan("skt", PLAN.network)
    assert other.group != PLAN.group
    assert other.mark(5) != PLAN.mark(5)


@pytest.mark.parametrize("prefix", ["", "SK", "sk1", "sk-", "toolong", "ß"])
def test_a_prefix_that_is_not_a_few_letters_is_refused(prefix: str) -> None:
    with pytest.raises(InvalidError, match="network prefix"):
        Plan(prefix, PLAN.network)


@pytest.mark.parametrize("network", ["10.0.0.0/8", "10.0.0.0/29"])
def test_a_range_of_the_wrong_size_is_refused(network: str) -> None:
    with pytest.raises(InvalidError, match="must be a /16 to /28"):
        Plan("sk", IPv4Network(network))


def test_the_first_free_candidate_is_chosen() -> None:
    taken = taken_networks(
        [address("10.213.4.5/24")], [route("10.151.0.0/17", gateway=True)], [IPv4Address("10.187.0.53")]
    )
    assert choose_range(taken) == IPv4Network("10.87.0.0/16")


def test_a_default_route_takes_nothing() -> None:
    halves = [route("0.0.0.0/0", gateway=True), route("0.0.0.0/1", gateway=True), route("128.0.0.0/1", gateway=True)]
    assert choose_range(taken_networks([], halves, [])) == CANDIDATES[0]


def test_a_full_machine_is_an_error_with_a_next_step() -> None:
    with pytest.raises(ResourceExhaustedError, match="SKERRY_NETWORK_RANGE"):
        choose_range([IPv4Network("10.0.0.0/8"), IPv4Network("172.16.0.0/12")])


def test_connected_networks_are_those_without_a_router() -> None:
    routes = [
        route("0.0.0.0/0", gateway=True),
        route("44.0.0.0/8", gateway=True),
        route("9.9.9.0/24"),
        route("5.5.0.0/16"),  # a tunnel without addresses
        route("10.213.0.7/32", protocol=PROTOCOL),
        route("8.8.4.99/32", table=RT_TABLE_LOCAL),
        route("0.0.0.0/1"),
    ]
    assert connected_networks([address("9.9.9.2/24"), address("7.7.7.1/32")], routes) == [
        IPv4Network("5.5.0.0/16"),
        IPv4Network("7.7.7.1/32"),
        IPv4Network("9.9.9.0/24"),
    ]


@pytest.mark.parametrize(("mtu", "expected"), [(1400, 1400), (9000, 1500), (300, 576), (0, 1500)])
def test_the_mtu_is_the_uplinks_within_bounds(mtu: int, expected: int) -> None:
    links = [Link(1, "lo", 0, 65536, ""), Link(2, "up", 0, mtu, "")]
    assert uplink_mtu(links, [route("0.0.0.0/0", gateway=True)]) == expected


def test_without_an_uplink_the_mtu_is_that_of_ethernet() -> None:
    assert uplink_mtu([], []) == 1500
