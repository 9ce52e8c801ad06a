"""The DNS forwarder of a node: sandboxes ask it, it asks the machine's own resolvers.

It passes on questions for records of the internet and nothing else: no transfer of a zone, no update, no notification,
which a resolver may grant to this machine's address. It does not look into names or answers. An answer may name a
private address; the firewall then refuses the packets, and the exemptions of the firewall never come from here. What is
checked is that an answer belongs to its question: it comes from the resolver that was asked, to a port and with an id
that were chosen at random, and repeats the question.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import struct
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any

from skerry.model.errors import ConflictError

QUERY_BYTES = 4096
ANSWER_BYTES = 65535
IN_FLIGHT_PER_SANDBOX = 64
IN_FLIGHT = 512
CONNECTIONS_PER_SANDBOX = 8
CONNECTIONS = 128
CONNECTION_IDLE_S = 10.0
# Two resolvers are asked before the guest, which waits three seconds, asks again.
RESOLVER_S = 1.4
RESOLVERS_MAX = 3  # as the C library: MAXNS
PORT = 53

_HEADER_BYTES = 12
_SERVFAIL, _NOTIMP, _REFUSED = 2, 4, 5
_QR = 0x8000
_FAILURE_FLAGS = _QR | 0x0080  # an answer, recursion available
_OPCODE = 0x7800  # QUERY is 0
_INTERNET = 1
# Types 128 to 254 are no records but requests (RFC 6895): transfers of zones (IXFR 251, AXFR 252), keys, mail boxes.
# ANY, 255, is a question that resolvers answer.
_FIRST_META_TYPE, _ANY = 128, 255
_READ_BUFFER = 256 * 1024

Resolver = tuple[str, int]


class Resolvers:
    """The machine's resolvers, read again when /etc/resolv.conf has changed."""

    def __init__(self, file: Path = Path("/etc/resolv.conf")) -> None:
        self._file = file
        self._stamp: tuple[int, int, int] | None = None
        self._found: Sequence[Resolver] = ()

    def __call__(self) -> Sequence[Resolver]:
        """Return address and port of each, in order of preference."""
        try:
            status = self._file.stat()
            stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
            if stamp != self._stamp:
                self._found, self._stamp = parse_resolvers(self._file.read_text(errors="replace")), stamp
        except OSError:
            self._found, self._stamp = parse_resolvers(""), None
        return self._found

    def addresses(self) -> list[IPv4Address]:
        """Return those that are IPv4 addresses, which a range for sandboxes must not cover."""
        found = (ip_address(host.partition("%")[0]) for host, _ in self())
        return [address for address in found if isinstance(address, IPv4Address)]


def parse_resolvers(text: str) -> list[Resolver]:
    """Return the resolvers that a resolv.conf names; 127.0.0.1 if it names none, as the C library does."""
    words = (line.split() for line in text.splitlines())
    hosts = [line[1] for line in words if len(line) >= 2 and line[0] == "nameserver" and _is_address(line[1])]
    return [(host, PORT) for host in hosts[:RESOLVERS_MAX]] or [("127.0.0.1", PORT)]


def _is_address(text: str) -> bool:
    try:
        ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True


def question_end(query: bytes) -> int | None:
    """Return where the one question of a query ends; None if this is not a query with one question."""
    if not _HEADER_BYTES < len(query) <= QUERY_BYTES:
        return None
    flags, questions = struct.unpack_from(">HH", query, 2)
    if flags & _QR or questions != 1:
        return None
    at = _HEADER_BYTES
    while at < len(query) and query[at]:
        if query[at] > 63:  # a question is never compressed
            return None
        at += query[at] + 1
    end = at + 5  # the root label, type and class
    return end if end <= len(query) else None


def belongs(answer: bytes, query: bytes, end: int) -> bool:
    """Tell whether `answer` answers `query`, whose question ends at `end`."""
    return (
        len(answer) >= end
        and answer[:2] == query[:2]
        and bool(answer[2] & 0x80)
        and answer[4:6] == query[4:6]
        and answer[_HEADER_BYTES:end].lower() == query[_HEADER_BYTES:end].lower()
    )


def refusal(query: bytes, end: int) -> int | None:
    """Return the code with which a query is answered that is not passed on; None if it is."""
    (flags,) = struct.unpack_from(">H", query, 2)
    kind, family = struct.unpack_from(">HH", query, end - 4)
    if flags & _OPCODE:
        return _NOTIMP
    if family != _INTERNET or _FIRST_META_TYPE <= kind < _ANY:
        return _REFUSED
    return None


def failure(query: bytes, end: int, code: int = _SERVFAIL) -> bytes:
    """Return the answer that the name could not be looked up."""
    asked = struct.unpack_from(">H", query, 2)[0] & 0x7900  # opcode and "recursion desired"
    flags = asked | _FAILURE_FLAGS | code
    return query[:2] + struct.pack(">HHHHH", flags, 1, 0, 0, 0) + query[_HEADER_BYTES:end]


class Shares:
    """How many of something each sandbox and all of them together have at once."""

    def __init__(self, each: int, total: int) -> None:
        self._each, self._total = each, total
        self._held: Counter[str] = Counter()

    @contextmanager
    def one(self, owner: str) -> Iterator[bool]:
        """Hold one for the length of the block; False if there is no more."""
        if self._held[owner] >= self._each or self._held.total() >= self._total:
            yield False
            return
        self._held[owner] += 1
        try:
            yield True
        finally:
            self._held[owner] -= 1
            if not self._held[owner]:
                del self._held[owner]


class Forwarder:
    """Answers the DNS queries of those for whom `knows` is true, on one address, by UDP and TCP."""

    def __init__(
        self,
        address: str,
        *,
        resolvers: Callable[[], Sequence[Resolver]],
        knows: Callable[[str], bool],
        port: int = PORT,
    ) -> None:
        self._address = address
        self._port = port
        self._resolvers = resolvers
        self._knows = knows
        self._queries = Shares(IN_FLIGHT_PER_SANDBOX, IN_FLIGHT)
        self._connections = Shares(CONNECTIONS_PER_SANDBOX, CONNECTIONS)
        self._tasks: set[asyncio.Task[None]] = set()
        self._transport: asyncio.DatagramTransport | None = None
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen; raises ConflictError if the port is taken."""
        loop = asyncio.get_running_loop()
        at = (self._address, self._port)
        try:
            self._transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), local_addr=at)
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _READ_BUFFER)
            self._server = await asyncio.start_server(self._connected, *at, limit=QUERY_BYTES, backlog=CONNECTIONS)
        except OSError as exc:
            await self.stop()
            raise ConflictError(
                f"cannot answer DNS for sandboxes on {self._address} port {self._port}: {exc.strerror or exc}; a "
                "program that listens on that port of every address (see: ss -lntup 'sport = 53') must be bound to "
                "its own addresses only"
            ) from exc

    async def stop(self) -> None:
        """Stop listening and drop what is in flight."""
        if self._transport is not None:
            self._transport.close()
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()

    def received(self, query: bytes, sender: tuple[str, int]) -> None:
        """Take a datagram; what is no query of a sandbox is dropped without an answer."""
        end = question_end(query)
        if end is not None and self._knows(sender[0]):
            self._own(self._answer_datagram(query, end, sender))

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer_datagram(self, query: bytes, end: int, sender: tuple[str, int]) -> None:
        answer = await self._answer(query, end, sender[0], ask_by_datagram)
        if self._transport is not None and not self._transport.is_closing() and self._knows(sender[0]):
            self._transport.sendto(answer, sender)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        sender = writer.get_extra_info("peername")[0]
        try:
            with self._connections.one(sender) as granted:
                if granted and self._knows(sender):
                    await self._serve(reader, writer, sender)
        except (OSError, EOFError, TimeoutError, asyncio.CancelledError):
            pass  # the sandbox went away, dawdled, or the forwarder stops
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sender: str) -> None:
        while True:
            async with asyncio.timeout(CONNECTION_IDLE_S):
                (length,) = struct.unpack(">H", await reader.readexactly(2))
                query = await reader.readexactly(length) if length <= QUERY_BYTES else b""
            end = question_end(query)
            if end is None or not self._knows(sender):
                return
            answer = await self._answer(query, end, sender, ask_by_stream)
            writer.write(struct.pack(">H", len(answer)) + answer)
            async with asyncio.timeout(CONNECTION_IDLE_S):
                await writer.drain()

    async def _answer(self, query: bytes, end: int, sender: str, ask: Ask) -> bytes:
        refused = refusal(query, end)
        if refused is not None:
            return failure(query, end, refused)
        with self._queries.one(sender) as granted:
            if not granted:
                return failure(query, end)
            for resolver in self._resolvers():
                if resolver[0] == self._address:
                    continue  # this machine's resolver is this forwarder: asking it would never end
                with suppress(OSError, EOFError, TimeoutError):
                    async with asyncio.timeout(RESOLVER_S):
                        return await _ask_anew(query, end, resolver, ask)
        return failure(query, end)


Ask = Callable[[bytes, int, Resolver], Coroutine[Any, Any, bytes]]


async def _ask_anew(query: bytes, end: int, resolver: Resolver, ask: Ask) -> bytes:
    """Ask under an id of our own, and return the answer under the asker's."""
    own = secrets.token_bytes(2) + query[2:]
    answer = await ask(own, end, resolver)
    return query[:2] + answer[2:]


async def ask_by_datagram(query: bytes, end: int, resolver: Resolver) -> bytes:
    """Return the answer of `resolver`, from a socket of its own, so that each query has a port of its own."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in resolver[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:
        sock.connect(resolver)
        await loop.sock_sendall(sock, query)
        while True:
            answer = await loop.sock_recv(sock, ANSWER_BYTES)
            if belongs(answer, query, end):
                return answer


async def ask_by_stream(query: bytes, end: int, resolver: Resolver) -> bytes:
    """Return the answer of `resolver` over a connection of its own."""
    reader, writer = await asyncio.open_connection(*resolver)
    try:
        writer.write(struct.pack(">H", len(query)) + query)
        (length,) = struct.unpack(">H", await reader.readexactly(2))
        answer = await reader.readexactly(length)
    finally:
        writer.transport.abort()
    if not belongs(answer, query, end):
        raise EOFError("the resolver answered something else")
    return answer


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, forwarder: Forwarder) -> None:
        self._forwarder = forwarder

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        self._forwarder.received(data, addr)

    def error_received(self, exc: Exception) -> None:
        """A sandbox that has gone answers with an ICMP error; there is nobody to tell."""
