"""Names, asked for in a sandbox and answered by the machine's resolvers through the forwarder."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import dns.message
import dns.rcode
import dns.rrset
import pytest
from internet import DEADLINE_S, Guest, World

from skerry.model.ids import SandboxId
from skerry.node.network import Network
from skerry.node.network import dns as forwarder
from skerry.node.network.namespaces import inside

RESOLVER = "8.8.4.53"
Reply = Callable[[dns.message.Message], bytes]


def address_reply(query: dns.message.Message, address: str = "8.8.4.4") -> bytes:
    answer = dns.message.make_response(query)
    name = query.question[0].name
    answer.answer.append(dns.rrset.from_text(name, 60, "IN", "A", address))
    return answer.to_wire()


@asynccontextmanager
async def resolver(world: World, reply: Reply = address_reply, *, at_machine: str = "") -> AsyncIterator[list[str]]:
    """Play the machine's resolver, by UDP and TCP; yields the names that it was asked for."""
    asked: list[str] = []
    where = at_machine or RESOLVER
    datagrams = world.udp(where, 53, at_machine=bool(at_machine))
    listener = world.tcp(where, 53, at_machine=bool(at_machine))
    loop = asyncio.get_running_loop()

    async def by_udp() -> None:
        while True:
            data, sender = await loop.sock_recvfrom(datagrams, 65536)
            query = dns.message.from_wire(data)
            asked.append(f"udp {query.question[0].name}")
            if answer := reply(query):
                await loop.sock_sendto(datagrams, answer, sender)

    async def by_tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (length,) = struct.unpack(">H", await reader.readexactly(2))
        query = dns.message.from_wire(await reader.readexactly(length))
        asked.append(f"tcp {query.question[0].name}")
        answer = reply(query)
        writer.write(struct.pack(">H", len(answer)) + answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(by_tcp, sock=listener)
    task = asyncio.create_task(by_udp())
    try:
        yield asked
    finally:
        task.cancel()
        server.close()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def guest(world: World, network: Network) -> Guest:
    slot = await network.slot(SandboxId("sb_a"))
    await slot.open()
    guest = world.guest(slot)
    guest.becomes_a_host()
    return guest


async def ask(guest: Guest, query: bytes) -> dns.message.Message:
    loop = asyncio.get_running_loop()
    with guest.socket(socket.SOCK_DGRAM) as sock:
        await loop.sock_connect(sock, (guest.gateway, 53))
        await loop.sock_sendall(sock, query)
        async with asyncio.timeout(DEADLINE_S):
            return dns.message.from_wire(await loop.sock_recv(sock, 65536))


async def ask_by_tcp(guest: Guest, *queries: bytes) -> list[dns.message.Message]:
    with guest.socket() as sock:
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.get_running_loop().sock_connect(sock, (guest.gateway, 53))
            reader, writer = await asyncio.open_connection(sock=sock.dup())
            answers = []
            for query in queries:
                writer.write(struct.pack(">H", len(query)) + query)
                (length,) = struct.unpack(">H", await reader.readexactly(2))
                answers.append(dns.message.from_wire(await reader.readexactly(length)))
            writer.close()
    return answers


def query(name: str = "example.test.") -> dns.message.Message:
    return dns.message.make_query(name, "A")


async def test_a_name_is_resolved_through_the_machines_resolver(world: World, guest: Guest) -> None:
    async with resolver(world) as asked:
        question = query()
        answer = await ask(guest, question.to_wire())
    assert answer.id == question.id
    assert answer.answer[0][0].to_text() == "8.8.4.4"
    assert asked == ["udp example.test."]


async def test_a_resolver_at_a_loopback_address_serves_sandboxes(world: World, guest: Guest) -> None:
    (world.folder / "resolv.conf").write_text("nameserver 127.0.0.53\n")
    async with resolver(world, at_machine="127.0.0.53") as asked:
        assert (await ask(guest, query().to_wire())).answer
    assert asked


async def test_a_resolver_at_a_private_address_serves_sandboxes(world: World, guest: Guest) -> None:
    (world.folder / "resolv.conf").write_text("nameserver 10.1.2.3\n")
    datagrams = world.udp("10.1.2.3", 53)
    loop = asyncio.get_running_loop()

    async def serve() -> None:
        data, sender = await loop.sock_recvfrom(datagrams, 65536)
        await loop.sock_sendto(datagrams, address_reply(dns.message.from_wire(data)), sender)

    serving = asyncio.create_task(serve())
    assert (await ask(guest, query().to_wire())).answer
    await serving


async def test_the_next_resolver_is_asked_when_one_is_silent(world: World, guest: Guest) -> None:
    (world.folder / "resolv.conf").write_text(f"nameserver 10.1.2.3\nnameserver {RESOLVER}\n")
    with world.udp("10.1.2.3", 53):
        async with resolver(world):
            assert (await ask(guest, query().to_wire())).answer


async def test_a_failure_is_answered_when_no_resolver_is_there(world: World, guest: Guest) -> None:
    answer = await ask(guest, query().to_wire())
    assert answer.rcode() == dns.rcode.SERVFAIL
    assert answer.question == query().question


async def test_answers_come_by_tcp_too_and_long_ones_are_whole(world: World, guest: Guest) -> None:
    def long_reply(question: dns.message.Message) -> bytes:
        answer = dns.message.make_response(question)
        texts = [f'"{number:04d}{"x" * 240}"' for number in range(200)]
        answer.answer.append(dns.rrset.from_text(question.question[0].name, 60, "IN", "TXT", *texts))
        return answer.to_wire(max_size=65535)

    async with resolver(world, long_reply) as asked:
        answers = await ask_by_tcp(guest, query().to_wire(), query("second.test.").to_wire())
    assert [len(answer.answer[0]) for answer in answers] == [200, 200]
    assert asked == ["tcp example.test.", "tcp second.test."]


@pytest.mark.parametrize("change", ["id", "question", "query bit"])
async def test_an_answer_that_does_not_fit_its_question_is_not_passed_on(
    world: World, guest: Guest, change: str
) -> None:
    def forged(question: dns.message.Message) -> bytes:
        wire = bytearray(address_reply(question, "6.6.6.6"))
        if change == "id":
            wire[0] ^= 0xFF
        elif change == "question":
            wire[13] ^= 0x01
        else:
            wire[2] &= 0x7F
        return bytes(wire)

    async with resolver(world, forged):
        answer = await ask(guest, query().to_wire())
    assert answer.rcode() == dns.rcode.SERVFAIL


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"\0" * 11,
        query().to_wire()[:20],
        query().to_wire()[:4] + b"\0\0" + query().to_wire()[6:],
        dns.message.make_response(query()).to_wire(),
        query().to_wire() + b"x" * forwarder.QUERY_BYTES,
        b"\0\1\1\0\0\1\0\0\0\0\0\0" + b"\xc0\x0c\0\1\0\1",
    ],
    ids=["empty", "short", "cut", "no question", "an answer", "too long", "compressed"],
)
async def test_what_is_no_query_gets_no_answer_and_asks_nobody(world: World, guest: Guest, datagram: bytes) -> None:
    async with resolver(world) as asked:
        with guest.socket(socket.SOCK_DGRAM) as sock:
            sock.connect((guest.gateway, 53))
            if datagram:
                sock.send(datagram[:60_000])
            assert (await ask(guest, query("after.test.").to_wire())).answer
            with pytest.raises(BlockingIOError):
                sock.recv(100)
    assert asked == ["udp after.test."]


async def test_a_transfer_or_another_operation_asks_nobody(world: World, guest: Guest) -> None:
    transfer = dns.message.make_query("example.test.", "AXFR").to_wire()
    status = bytearray(query().to_wire())
    status[2] |= 2 << 3
    async with resolver(world) as asked:
        assert (await ask(guest, transfer)).rcode() == dns.rcode.REFUSED
        assert [answer.rcode() for answer in await ask_by_tcp(guest, transfer)] == [dns.rcode.REFUSED]
        assert (await ask(guest, bytes(status))).rcode() == dns.rcode.NOTIMP
        assert (await ask(guest, query("after.test.").to_wire())).answer
    assert asked == ["udp after.test."]


async def test_one_sandbox_cannot_take_every_query_in_flight(world: World, network: Network, guest: Guest) -> None:
    slot = await network.slot(SandboxId("sb_b"))
    await slot.open()
    other = world.guest(slot)
    other.becomes_a_host()

    def slow(question: dns.message.Message) -> bytes:
        return b"" if str(question.question[0].name).startswith("slow") else address_reply(question)

    async with resolver(world, slow):
        with guest.socket(socket.SOCK_DGRAM) as sock:
            sock.connect((guest.gateway, 53))
            for number in range(forwarder.IN_FLIGHT_PER_SANDBOX + 20):
                sock.send(query(f"slow{number}.test.").to_wire())
            refused = [dns.message.from_wire(await _receive(sock)) for _ in range(20)]
            assert {answer.rcode() for answer in refused} == {dns.rcode.SERVFAIL}
            assert (await ask(other, query().to_wire())).answer


async def _receive(sock: socket.socket) -> bytes:
    async with asyncio.timeout(DEADLINE_S):
        return await asyncio.get_running_loop().sock_recv(sock, 65536)


async def test_a_flood_of_queries_is_cut_off_and_a_neighbour_is_still_served(
    world: World, network: Network, guest: Guest
) -> None:
    slot = await network.slot(SandboxId("sb_b"))
    await slot.open()
    other = world.guest(slot)
    other.becomes_a_host()
    async with resolver(world) as asked:
        packet = query("flood.test.").to_wire()
        with guest.socket(socket.SOCK_DGRAM) as sock:
            sock.connect((guest.gateway, 53))
            for _ in range(20_000):
                sock.send(packet)
            assert (await ask(other, query().to_wire())).answer
    assert len(asked) < 2000


async def test_dns_leaves_no_trace_in_the_table_of_connections(world: World, guest: Guest) -> None:
    async with resolver(world):
        await ask(guest, query().to_wire())
        await ask_by_tcp(guest, query().to_wire())
    assert not world.tracked(guest.address)


async def test_a_closed_slot_gets_no_name(world: World, network: Network) -> None:
    slot = await network.slot(SandboxId("sb_a"))
    await slot.open()
    guest = world.guest(slot)
    guest.becomes_a_host()
    async with resolver(world) as asked:
        assert (await ask(guest, query().to_wire())).answer
        await slot.close()
        with guest.socket(socket.SOCK_DGRAM) as sock:
            sock.connect((guest.gateway, 53))
            sock.send(query("closed.test.").to_wire())
        await slot.open()
        assert (await ask(guest, query("open.test.").to_wire())).answer
    assert asked == ["udp example.test.", "udp open.test."]


async def test_only_sandboxes_are_served(world: World, guest: Guest) -> None:
    async with resolver(world) as asked:
        with inside(world.internet):
            outside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        local = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with outside, local:
            local.sendto(query("local.test.").to_wire(), (guest.gateway, 53))
            outside.sendto(query("outside.test.").to_wire(), ("9.9.9.2", 53))
            assert (await ask(guest, query("inside.test.").to_wire())).answer
    assert asked == ["udp inside.test."]


async def test_a_resolver_that_is_the_forwarder_itself_is_not_asked(world: World, guest: Guest) -> None:
    (world.folder / "resolv.conf").write_text(f"nameserver {guest.gateway}\nnameserver {RESOLVER}\n")
    async with resolver(world) as asked:
        assert (await ask(guest, query().to_wire())).answer
    assert len(asked) == 1


async def test_stopping_does_not_wait_for_queries_in_flight(world: World) -> None:
    network = world.network()
    await network.start()
    slot = await network.slot(SandboxId("sb_a"))
    await slot.open()
    guest = world.guest(slot)
    guest.becomes_a_host()
    with world.udp(RESOLVER, 53), guest.socket(socket.SOCK_DGRAM) as sock:
        sock.connect((guest.gateway, 53))
        sock.send(query().to_wire())
        guest.pass_fence()
        async with asyncio.timeout(DEADLINE_S):
            await network.stop()
