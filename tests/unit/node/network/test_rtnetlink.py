from __future__ import annotations

import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.node.network import rtnetlink
from skerry.node.network.rtnetlink import Rtnetlink, attribute, attributes, messages


@given(st.lists(st.tuples(st.integers(1, 100), st.binary(max_size=40)), max_size=5))
def test_attributes_come_back_as_they_were_put(pairs: list[tuple[int, bytes]]) -> None:
    assert list(attributes(b"".join(attribute(kind, payload) for kind, payload in pairs))) == pairs


@given(st.binary(max_size=200))
def test_no_bytes_break_the_parsers(data: bytes) -> None:
    for _, body in messages(data):
        list(attributes(body))
    list(attributes(data))


def test_this_machine_has_a_loopback_device_with_its_address() -> None:
    with Rtnetlink() as links:
        names = {link.name: link for link in links.links()}
        assert names["lo"].mtu > 0
        assert "127.0.0.1" in {str(address.local) for address in links.addresses()}
        local = [route for route in links.routes() if route.table == rtnetlink.RT_TABLE_LOCAL]
        assert "127.0.0.1/32" in {str(route.destination) for route in local}


def test_a_request_that_the_kernel_refuses_is_an_error_that_says_what_was_tried() -> None:
    with Rtnetlink() as links, pytest.raises(OSError, match="name the owner of the device no-such-dev"):
        links.set_alias("no-such-dev", "x")


def test_deleting_what_is_not_there_is_no_error() -> None:
    if os.geteuid():
        pytest.skip("needs root")
    with Rtnetlink() as links:
        assert links.delete_link("no-such-dev") is False


def test_a_veth_is_asked_for_in_three_requests() -> None:
    requests = rtnetlink.veth_messages(
        name="sk2", mac="02:00:00:00:00:01", group=7, alias="sb_a", mtu=1400, peer="eth0",
        peer_mac="02:00:00:00:00:02", fd=5,
    )  # fmt: skip
    kinds = [kind for kind, _ in messages(requests)]
    assert kinds == [rtnetlink.RTM_NEWLINK, rtnetlink.RTM_SETLINK, rtnetlink.RTM_SETLINK]
    (_, create), *_ = messages(requests)
    found = dict(attributes(create[16:]))
    assert struct.unpack("=I", found[rtnetlink.IFLA_GROUP]) == (7,)
    assert struct.unpack("=I", found[rtnetlink.IFLA_MTU]) == (1400,)
