"""What a node's network changes on its machine, and who undoes it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from internet import PUBLIC, World, ip, nft
from waiting import until

from skerry.model.errors import ConflictError, InvalidError, ResourceExhaustedError
from skerry.model.ids import SandboxId
from skerry.model.specs import HostAccess

A, B = SandboxId("sb_a"), SandboxId("sb_b")
FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")


def machine() -> list[str]:
    """Everything about the machine's network that can be seen, except what the kernel learns of its neighbours."""
    commands = [
        ["ip", "-o", "address"],
        ["ip", "route"],
        ["ip", "-6", "route"],
        ["ip", "rule"],
        ["nft", "list", "ruleset"],
    ]
    shown = [subprocess.run(command, text=True, capture_output=True, check=True).stdout for command in commands]
    return [*shown, FORWARDING.read_text()]


async def test_stopping_undoes_everything_and_tells_it(world: World) -> None:
    before = machine()
    network = world.network()
    await network.start()
    assert FORWARDING.read_text() == "1\n"
    await (await network.slot(A)).open()
    await network.stop()
    assert machine() == before
    assert [file.name for file in (world.folder / "machine").iterdir()] == ["lock"]
    changes = world.told_of("network.machine_changed")
    assert changes == [
        {"setting": "net.ipv4.ip_forward", "old": "0", "new": "1"},
        {"setting": "net.ipv4.ip_forward", "old": "1", "new": "0"},
    ]
    assert world.told_of("network.table_made")[0]["table"] == "skerry_skt"
    assert world.told_of("network.table_removed")[0]["table"] == "skerry_skt"


async def test_a_machine_that_forwarded_before_goes_on_forwarding(world: World) -> None:
    FORWARDING.write_text("1")
    network = world.network()
    await network.start()
    await network.stop()
    assert FORWARDING.read_text() == "1\n"
    assert not world.told_of("network.machine_changed")


async def test_a_setting_that_someone_else_changed_since_is_left_alone(world: World) -> None:
    network = world.network()
    await network.start()
    FORWARDING.write_text("0")
    await network.stop()
    assert FORWARDING.read_text() == "0\n"
    assert world.told_of("network.machine_kept")


async def test_the_last_of_two_nodes_puts_the_setting_back(world: World) -> None:
    first, second = world.network(), world.network(prefix="sku")
    await first.start()
    await second.start()
    assert first.plan.network != second.plan.network
    await first.stop()
    assert FORWARDING.read_text() == "1\n"
    await second.stop()
    assert FORWARDING.read_text() == "0\n"


async def test_a_node_that_vanished_does_not_keep_the_setting(world: World) -> None:
    first, second = world.network(), world.network(prefix="sku")
    await first.start()
    await second.start()
    await second.leave()
    nft("delete", "table", "inet", "skerry_sku")
    await first.stop()
    assert FORWARDING.read_text() == "0\n"


async def test_two_nodes_cannot_have_the_same_prefix(world: World) -> None:
    network = world.network()
    await network.start()
    with pytest.raises(ConflictError, match="uses the network prefix 'skt'"):
        await world.network().start()
    assert "table inet skerry_skt" in nft("list", "tables")
    await network.stop()


async def test_the_machine_does_not_become_a_router_between_its_other_networks(world: World) -> None:
    ip("link add lan0 type veth peer name lan1", "addr add 9.8.8.1/24 dev lan0", "link set lan0 up", "link set lan1 up")
    network = world.network()
    await network.start()
    table = nft("list", "table", "inet", "skerry_skt")
    assert '"lan0"' in table
    listener = world.udp(PUBLIC)
    slot = await network.slot(A)
    await slot.open()
    guest = world.guest(slot)
    send_from_lan()
    guest.pass_fence()
    assert not world.arrived(b"from the lan", listener)
    nft("flush", "set", "inet", "skerry_skt", "apart")
    send_from_lan()
    guest.pass_fence()
    assert world.arrived(b"from the lan", listener)
    await network.stop()


def send_from_lan() -> None:
    subprocess.run([sys.executable, "-c", _LAN_HOST, PUBLIC], check=True, timeout=20)


# A neighbour at lan1 who uses this machine as his router.
_LAN_HOST = """
import fcntl, socket, struct, sys
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
wire.bind(("lan1", 3))
with socket.socket() as sock:
    mac = fcntl.ioctl(sock, 0x8927, struct.pack("256s", b"lan0"))[18:24]
data = b"from the lan"
head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 28 + len(data), 7, 0, 64, 17, 0,
                   socket.inet_aton("9.8.8.7"), socket.inet_aton(sys.argv[1]))
total = sum(struct.unpack(">10H", head))
total = (total & 0xffff) + (total >> 16)
head = head[:10] + struct.pack(">H", ~total & 0xffff) + head[12:]
wire.send(mac + bytes.fromhex("020000000088") + b"\\x08\\x00" + head
          + struct.pack(">HHHH", 5, 4000, 8 + len(data), 0) + data)
"""


async def test_a_range_that_the_machine_uses_is_not_taken(world: World) -> None:
    ip("addr add 10.213.7.1/24 dev lo")
    (world.folder / "resolv.conf").write_text("nameserver 10.151.0.53\n")
    ip("route add 10.187.0.0/16 via 9.9.9.1")
    network = world.network()
    await network.start()
    assert network.plan.network == IPv4Network("10.87.0.0/16")
    await network.stop()


async def test_a_named_range_that_the_machine_uses_is_refused(world: World) -> None:
    before = machine()
    network = world.network(range=IPv4Network("9.9.0.0/16"))
    with pytest.raises(ResourceExhaustedError, match=r"9\.9\.0\.0/16 overlaps"):
        await network.start()
    assert machine() == before
    assert not [file for file in (world.folder / "machine").iterdir() if file.name != "lock"]


async def test_nodes_that_start_at_once_never_have_the_same_range(world: World) -> None:
    for _ in range(5):
        nodes = [world.network(prefix=f"skt{letter}") for letter in "abcdef"]
        await asyncio.gather(*(node.start() for node in nodes))  # each in a thread of its own
        assert len({node.plan.network for node in nodes}) == len(nodes)
        # What a killed node leaves, so that the next round begins with giving up; one in two has nothing to give up.
        await asyncio.gather(*(node.leave() for node in nodes[::2]), *(node.stop() for node in nodes[1::2]))


async def test_a_node_that_is_killed_while_it_chooses_keeps_nobody_from_choosing(world: World) -> None:
    folder = world.folder / "machine"
    folder.mkdir()
    with killed_in_the_end(_CHOOSER, folder, says="choosing"):
        network = world.network()
        starting = asyncio.ensure_future(network.start())
        await until(lambda: waits_for_lock(folder))
        assert "skerry_skt" not in nft("list", "tables")
    async with asyncio.timeout(20):
        await starting
    await network.stop()


def waits_for_lock(folder: Path) -> bool:
    waiting = [line for line in Path("/proc/locks").read_text().splitlines() if "-> FLOCK" in line]
    return any(f":{folder.stat().st_ino} " in line for line in waiting)


_CHOOSER = """
import sys, time
from pathlib import Path
from skerry.node.network.ranges import RangeRecord
record = RangeRecord(Path(sys.argv[1]), "sku")
record.hold()
with record.choosing():
    print("choosing", flush=True)
    time.sleep(60)
"""


async def test_the_range_of_a_node_that_was_killed_before_it_took_it_again_stays_its_own(world: World) -> None:
    killed = world.network(prefix="sku")
    await killed.start()
    network, gateway = killed.plan.network, killed.plan.gateway
    await killed.leave()
    nft("delete", "table", "inet", "skerry_sku")
    ip(f"addr del {gateway}/32 dev lo", f"route del blackhole {network}")
    other, successor = world.network(), world.network(prefix="sku")
    await other.start()
    await successor.start()  # begins with giving up what the killed one may have had
    assert other.plan.network != successor.plan.network
    assert f" {other.plan.gateway}/32 " in machine()[0]
    await successor.stop()
    await other.stop()


async def test_a_node_that_finds_no_range_keeps_none_for_itself(world: World) -> None:
    first = world.network(range=IPv4Network("11.5.0.0/16"))
    await first.start()
    await first.leave()
    with pytest.raises(ResourceExhaustedError):
        await world.network(range=IPv4Network("9.9.0.0/16")).start()
    other = world.network(prefix="sku", range=IPv4Network("11.5.0.0/16"))
    await other.start()
    await other.stop()


async def test_the_range_can_be_named_in_the_environment(world: World) -> None:
    network = world.network(env={"SKERRY_NETWORK_RANGE": "172.20.0.0/16"})
    await network.start()
    assert network.plan.network == IPv4Network("172.20.0.0/16")
    await network.stop()
    with pytest.raises(InvalidError, match=r"SKERRY_NETWORK_RANGE='10\.0\.0\.1/8' is no IPv4 network"):
        await world.network(env={"SKERRY_NETWORK_RANGE": "10.0.0.1/8"}).start()


async def test_another_firewall_that_drops_what_it_does_not_know_is_told_of(world: World) -> None:
    nft("add table inet mine; add chain inet mine pass { type filter hook forward priority 0; policy drop; }")
    network = world.network()
    await network.start()
    await network.stop()
    assert [told["chain"] for told in world.told_of("network.other_firewall")] == ["inet mine pass"]


async def test_a_start_that_fails_late_undoes_what_it_did(world: World) -> None:
    before = machine()
    with world.udp("0.0.0.0", 53, at_machine=True):
        with pytest.raises(ConflictError, match="cannot answer DNS"):
            await world.network().start()
        assert machine() == before


async def test_a_successor_takes_over_slots_and_their_addresses(world: World) -> None:
    first = world.network()
    await first.start()
    slot = await first.slot(A)
    await slot.open()
    closed = await first.slot(B)
    guest, shut = world.guest(slot), world.guest(closed)
    await first.leave()
    assert guest.sends(PUBLIC)  # without a node the firewall stands as it stood

    second = world.network()
    await second.start()
    assert guest.sends(PUBLIC)
    taken = await second.adopt(A)
    assert taken is not None
    assert (taken.address, taken.device, taken.is_open) == (slot.address, slot.device, True)
    assert await second.adopt(SandboxId("sb_unknown")) is None
    assert await second.adopt(A) is None  # once
    assert (await second.slot(SandboxId("sb_c"))).address not in (slot.address, closed.address)
    await taken.release()
    shut.frame(shut.packet(PUBLIC, 4000, b"x"))
    assert not Path(f"/proc/sys/net/ipv4/conf/{slot.device}").exists()
    await second.stop()


async def test_the_sweep_removes_what_belongs_to_nobody_and_says_so(world: World) -> None:
    first = world.network()
    await first.start()
    for name in ("sb_a", "sb_b", "sb_c"):
        slot = await first.slot(SandboxId(name))
        world.guest(slot)  # holds the namespace, as a sandbox does
    await first.leave()
    second = world.network()
    await second.start()
    await second.adopt(A)
    assert await second.sweep(keep=[B]) == ["network slot skt4 of sb_c"]
    assert world.told_of("network.swept") == [{"sandbox": "sb_c", "device": "skt4"}]
    assert await second.sweep() == ["network slot skt3 of sb_b"]
    assert await second.sweep() == []
    await second.stop()


async def test_devices_of_other_prefixes_are_not_swept(world: World) -> None:
    for number, name in enumerate(("skta1", "sktx", "skt01")):
        ip(f"link add {name} type veth peer name x{number}")
    other = world.network(prefix="sktt")
    await other.start()
    await other.slot(A)
    network = world.network()
    await network.start()
    assert await network.sweep() == []
    await network.stop()
    await other.stop()


async def test_what_a_killed_node_changed_is_undone_by_its_successor(world: World) -> None:
    before = machine()
    with killed_in_the_end(_NODE, world.folder, says="ready"):
        pass
    assert FORWARDING.read_text() == "1\n"
    network = world.network()
    await network.start()
    assert await network.sweep() in ([], ["network slot skt2 of sb_a"])  # its namespace may have gone with it already
    await network.stop()
    await until(lambda: machine() == before)  # the kernel may still be at work on the namespace of the killed node


@contextmanager
def killed_in_the_end(script: str, folder: Path, *, says: str) -> Iterator[None]:
    """Run a script beside the block, from the moment that it says so."""
    with subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == f"{says}\n"
            yield
        finally:
            child.kill()


_NODE = """
import asyncio, sys
from pathlib import Path
from skerry.node.network import Network, NetworkSettings
async def main():
    folder = Path(sys.argv[1])
    network = Network(NetworkSettings(machine_folder=folder / "machine", prefix="skt", exemptions=(), env={}))
    await network.start()
    slot = await network.slot("sb_a")
    await slot.open()
    print("ready", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


async def test_an_unused_network_can_be_started_again(world: World) -> None:
    for _ in range(2):
        network = world.network()
        await network.start()
        await network.stop()


async def test_a_dead_name_server_holds_up_neither_opening_nor_stopping(world: World) -> None:
    network = world.network(exemptions=tuple(f"https://index-{number}.corp" for number in range(60)))
    async with asyncio.timeout(20):  # one by one, the names would take more than a minute
        await network.start()
        slot = await network.slot(A)
        await slot.open(HostAccess(env={"PIP_INDEX_URL": "https://other.corp"}))
        await network.stop()
