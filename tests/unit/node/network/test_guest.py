from __future__ import annotations

from ipaddress import IPv4Address

from skerry.node.network import hosts, resolv_conf


def test_a_sandbox_finds_itself_at_its_address() -> None:
    assert "10.0.0.7\tbox\n" in hosts("box", IPv4Address("10.0.0.7"))


def test_a_sandbox_without_network_finds_itself_at_a_loopback_address() -> None:
    assert "127.0.1.1\tbox\n" in hosts("box")


def test_localhost_is_there_in_both_families() -> None:
    lines = hosts("box").splitlines()
    assert lines[0].split() == ["127.0.0.1", "localhost"]
    assert "localhost" in lines[1].split()


def test_without_network_there_is_no_resolver() -> None:
    assert "nameserver" not in resolv_conf(None)
    assert "nameserver 10.0.0.1\n" in resolv_conf(IPv4Address("10.0.0.1"))
