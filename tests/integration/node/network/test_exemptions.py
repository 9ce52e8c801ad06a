"""Package indexes and proxies at addresses that are not public."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from internet import MACHINE, PORT, PUBLIC, World, ip, nft
from waiting import until

from skerry.model.ids import SandboxId
from skerry.model.specs import HostAccess
from skerry.node.network import Network

A, B = SandboxId("sb_a"), SandboxId("sb_b")
MIRROR = "203.0.113.80"
PROXY = "10.1.2.3"


async def started(world: World, **changes: object) -> AsyncIterator[Network]:
    network = world.network(**changes)
    await network.start()
    yield network
    await network.stop()


@pytest.fixture
async def mirrored(world: World) -> AsyncIterator[Network]:
    async for network in started(world, exemptions=(f"http://{MIRROR}:{PORT}/simple",)):
        yield network


async def test_an_index_at_a_private_address_is_reached_at_its_port_only(world: World, mirrored: Network) -> None:
    slot = await mirrored.slot(A)
    await slot.open()
    guest = world.guest(slot)
    guest.becomes_a_host()
    world.tcp(MIRROR)
    world.tcp(MIRROR, PORT + 7)
    world.tcp(PROXY)
    assert await guest.connects(MIRROR)
    assert await guest.fails_to_connect(MIRROR, PORT + 7)
    assert await guest.fails_to_connect(PROXY)
    assert not guest.sends(MIRROR)  # udp


async def test_what_a_callers_machine_uses_is_open_to_that_sandbox_alone(world: World, mirrored: Network) -> None:
    first, second = await mirrored.slot(A), await mirrored.slot(B)
    await first.open(HostAccess(env={"HTTPS_PROXY": f"http://{PROXY}:{PORT}"}))
    await second.open()
    world.tcp(PROXY)
    guest, other = world.guest(first), world.guest(second)
    guest.becomes_a_host()
    other.becomes_a_host()
    assert await guest.connects(PROXY)
    assert await other.fails_to_connect(PROXY)
    await first.close()
    await first.open()
    assert await guest.fails_to_connect(PROXY)


async def test_opening_again_adds_exemptions(world: World, mirrored: Network) -> None:
    slot = await mirrored.slot(A)
    await slot.open()
    await slot.open(HostAccess(env={"PIP_INDEX_URL": f"http://{PROXY}:{PORT}/simple"}))
    guest = world.guest(slot)
    guest.becomes_a_host()
    world.tcp(PROXY)
    world.tcp(MIRROR)
    assert await guest.connects(PROXY)
    assert await guest.connects(MIRROR)
    await slot.release()


async def test_a_successor_keeps_what_a_sandbox_alone_may_reach(world: World) -> None:
    first = world.network()
    await first.start()
    slot = await first.slot(A)
    await slot.open(HostAccess(env={"HTTPS_PROXY": f"http://{PROXY}:{PORT}"}))
    guest = world.guest(slot)
    guest.becomes_a_host()
    await first.leave()
    world.tcp(PROXY)
    second = world.network()
    await second.start()
    taken = await second.adopt(A)
    assert taken is not None
    assert await guest.connects(PROXY)
    await taken.close()
    await taken.open()
    assert await guest.fails_to_connect(PROXY)
    await second.stop()


async def test_a_proxy_on_the_machine_itself_is_reached(world: World, mirrored: Network) -> None:
    slot = await mirrored.slot(A)
    await slot.open(HostAccess(env={"HTTP_PROXY": f"http://{MACHINE}:{PORT}"}))
    guest = world.guest(slot)
    guest.becomes_a_host()
    world.tcp("0.0.0.0", at_machine=True)
    world.tcp("0.0.0.0", PORT + 7, at_machine=True)
    assert await guest.connects(MACHINE)
    assert await guest.fails_to_connect(MACHINE, PORT + 7)
    await slot.release()
    assert not world.tracked(guest.address)


async def test_a_proxy_that_the_machine_publishes_for_a_container_is_reached(world: World, mirrored: Network) -> None:
    slot = await mirrored.slot(A)
    await slot.open(HostAccess(env={"HTTP_PROXY": f"http://{MACHINE}:{PORT}"}))
    guest = world.guest(slot)
    guest.becomes_a_host()
    world.tcp(PROXY, 3128)
    nft("add table ip other")
    nft("add chain ip other nat { type nat hook prerouting priority dstnat; }")
    nft(f"add rule ip other nat tcp dport {{ {PORT}, {PORT + 7} }} dnat to {PROXY}:3128")
    assert await guest.connects(MACHINE)
    assert await guest.fails_to_connect(PUBLIC, PORT + 7)
    await slot.release()


@pytest.mark.parametrize("address", ["169.254.169.254", "168.63.129.16"])
async def test_metadata_is_no_exemption_even_if_it_is_named(world: World, mirrored: Network, address: str) -> None:
    slot = await mirrored.slot(A)
    await slot.open(HostAccess(env={"HTTP_PROXY": f"http://{address}:{PORT}"}))
    guest = world.guest(slot)
    guest.becomes_a_host()
    world.tcp(address)
    assert await guest.fails_to_connect(address)


async def test_another_sandbox_is_no_exemption_even_if_it_is_named(world: World, mirrored: Network) -> None:
    slot, victim = await mirrored.slot(A), await mirrored.slot(B)
    await victim.open()
    await slot.open(HostAccess(env={"HTTP_PROXY": f"http://{victim.address}:{PORT}"}))
    assert not slot.exemptions


async def test_an_index_that_only_the_machines_hosts_file_knows_is_told_to_the_guest(world: World) -> None:
    (world.folder / "hosts").write_text(f"127.0.0.1 localhost\n{MIRROR} Mirror.corp other.corp # ours\n")
    async for network in started(world, exemptions=("http://mirror.corp", "http://localhost")):
        slot = await network.slot(A)
        assert slot.hosts("box").splitlines()[3:] == [f"{MIRROR}\tmirror.corp"]


async def test_a_neighbour_network_that_appears_later_becomes_unreachable(world: World, mirrored: Network) -> None:
    ip("link add lan0 type veth peer name lan1", "addr add 8.7.6.1/24 dev lan0", "link set lan0 up", "link set lan1 up")
    await until(lambda: "8.7.6.0/24" in connected())
    ip("link del lan0")
    ip("addr add 8.7.5.1/32 dev lo")  # the kernel tells of addresses that come, not of routes that go with a device
    await until(lambda: "8.7.6.0/24" not in connected())


def connected() -> str:
    return nft("list", "set", "inet", "skerry_skt", "connected")
