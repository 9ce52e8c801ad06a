from __future__ import annotations

import asyncio
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from skerry.model import variables
from skerry.node.network.exemptions import (
    DEFAULT_URLS,
    Destination,
    Resolver,
    addresses_in_hosts,
    destination,
    destinations_of_environment,
    destinations_of_machine,
    destinations_of_settings,
)
from skerry.node.network.firewall import Exemption


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://pypi.org/simple", Destination("pypi.org", 443)),
        ("HTTP://Mirror.Corp", Destination("mirror.corp", 80)),
        ("http://user:pass@mirror.corp:8081/x", Destination("mirror.corp", 8081)),
        ("proxy.corp:3128", Destination("proxy.corp", 3128)),
        ("http://10.0.0.5:3141/", Destination("10.0.0.5", 3141)),
        ("/opt/wheels", None),
        ("file:///opt/wheels", None),
        ("http://host:99999", None),
        ("http://[::1", None),
        ("", None),
    ],
)
def test_a_url_leads_to_a_host_and_a_port(url: str, expected: Destination | None) -> None:
    assert destination(url) == expected


def test_indexes_and_proxies_are_read_from_the_environment() -> None:
    env = {
        "PIP_INDEX_URL": "https://a.corp/simple",
        "PIP_EXTRA_INDEX_URL": "https://b.corp https://c.corp:8443/x",
        "PIP_FIND_LINKS": "/opt/wheels https://links.corp",
        "UV_INDEX": "ours=https://d.corp/simple?x=y https://e.corp",
        "npm_config_registry": "http://f.corp/",
        "GOPROXY": "https://g.corp,https://h.corp|direct",
        "http_proxy": "proxy.corp:3128",
        "HTTPS_PROXY": "http://proxy.corp:3129",
        "NO_PROXY": "https://never.corp",
        "HOME": "https://never.corp",
    }
    found = destinations_of_environment(env)
    assert {each.host for each in found} == {f"{letter}.corp" for letter in "abcdefgh"} | {"links.corp", "proxy.corp"}
    assert {each.port for each in found if each.host == "proxy.corp"} == {3128, 3129}


@pytest.mark.parametrize("name", [*variables.INDEXES, *variables.PROXIES])
def test_each_index_and_proxy_that_clients_send_is_read(name: str) -> None:
    assert destinations_of_environment({name: "http://a.corp:81"}) == {Destination("a.corp", 81)}


@pytest.mark.parametrize("name", [*variables.INDEX_TRUST, *variables.NO_PROXY, *variables.CERTIFICATES])
def test_what_leads_nowhere_opens_nothing(name: str) -> None:
    assert destinations_of_environment({name: "http://a.corp:81"}) == set()


@pytest.mark.parametrize(
    "text",
    [
        "[global]\nindex-url = https://a.corp/simple\nextra-index-url =\n    https://b.corp/simple\n    # https://no.corp\n",
        "deb [signed-by=/x] http://a.corp/debian stable main\n# deb http://no.corp x\ndeb-src https://b.corp x main\n",
        "Types: deb\nURIs: http://a.corp/debian https://b.corp/debian\n",
        'Acquire::http::Proxy "http://a.corp:3128";\nAcquire::https::Proxy "http://b.corp";\n// "http://no.corp"\n',
        "registry=https://a.corp/\n@ours:registry=https://b.corp/npm\n; proxy=http://no.corp\n",
        "proxy = a.corp:3128\nhttps-proxy=http://b.corp:3128\n",
    ],
    ids=["pip", "apt list", "apt sources", "apt proxy", "npm", "proxies"],
)
def test_indexes_and_proxies_are_read_from_settings_files(text: str) -> None:
    assert {each.host for each in destinations_of_settings(text)} == {"a.corp", "b.corp"}


def test_the_default_indexes_belong_to_every_machine() -> None:
    assert {destination(url) for url in DEFAULT_URLS} <= destinations_of_machine({})


def test_a_hosts_file_gives_names_that_can_be_reached(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("127.0.0.1 localhost\n::1 six\n10.0.0.5 Mirror.corp m # comment\n169.254.1.1 link\nrubbish\n\n")
    assert addresses_in_hosts(file) == dict.fromkeys(("mirror.corp", "m"), IPv4Address("10.0.0.5"))
    assert addresses_in_hosts(tmp_path / "absent") == {}


async def resolved(*hosts: str, resolver: Resolver | None = None) -> set[Exemption]:
    made = resolver or Resolver(never=[IPv4Network("10.213.0.0/16")])
    async with asyncio.timeout(5):
        return set(await made.exemptions([Destination(host, 443) for host in hosts], fresh=True))


async def test_an_address_is_an_exit_at_its_port() -> None:
    assert await resolved("10.0.0.5", "203.0.113.80") == {
        Exemption(IPv4Address("10.0.0.5"), "tcp", 443),
        Exemption(IPv4Address("203.0.113.80"), "tcp", 443),
    }


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "169.254.169.254",
        "168.63.129.16",
        "224.0.0.1",
        "255.255.255.255",
        "0.0.0.0",
        "10.213.0.9",
    ],
)
async def test_some_addresses_are_never_an_exit(host: str) -> None:
    assert await resolved(host) == set()


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "127.1", "0177.0.0.1", "2852039166"])
async def test_other_ways_to_write_an_address_make_no_difference(host: str) -> None:
    assert await resolved(host) == set()


async def test_a_name_that_cannot_be_resolved_is_no_exit() -> None:
    assert await resolved("x" * 70 + ".corp", "\udcff.corp", "") == set()
