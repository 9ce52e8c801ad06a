"""The network as a program in a real gVisor sandbox finds it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
from pathlib import Path

import pytest
from internet import DEADLINE_S, MACHINE, PORT, PUBLIC, World
from realnode import RealNode

from skerry.model.ids import SandboxId
from skerry.model.specs import HostAccess, NetworkPolicy
from skerry.node.processes import NodeProcess

OPEN = NetworkPolicy.OPEN
CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
PASSED_ON = (
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
)

CONNECT = """
import json, socket, sys
results = {}
for word in sys.argv[1:]:
    host, port = word.split(":")
    try:
        socket.create_connection((host, int(port)), 1).close()
        results[word] = "connected"
    except OSError as exc:
        results[word] = type(exc).__name__
print(json.dumps(results))
"""
LISTEN = """
import socket, sys
listener = socket.create_server(("0.0.0.0", int(sys.argv[1])))
print(socket.gethostbyname(socket.gethostname()))
while True:
    listener.accept()[0].close()
"""
FETCH = """
import hashlib, socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 10) as sock:
    digest = hashlib.sha256()
    while data := sock.recv(1 << 20):
        digest.update(data)
print(digest.hexdigest())
"""


def machines_access() -> HostAccess:
    env = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return HostAccess(env=env, ca_bundle=CA_BUNDLE.read_bytes() if CA_BUNDLE.exists() else b"")


async def tries(node: RealNode, box: SandboxId, *targets: str) -> dict[str, str]:
    code, out, err = await node.run(box, "python3", "-c", CONNECT, *targets)
    assert code == 0, err
    found: dict[str, str] = json.loads(out)
    return found


@pytest.fixture
def inner(world: World, node: RealNode) -> RealNode:
    """A node whose machine and internet are played by namespaces: `world` is made before it."""
    return node


async def test_an_open_sandbox_reaches_the_internet_and_not_the_machine(world: World, inner: RealNode) -> None:
    box = await inner.start(network=OPEN)
    world.tcp(PUBLIC)
    world.tcp("192.168.7.7")
    world.tcp("0.0.0.0", PORT + 7, at_machine=True)
    found = await tries(inner, box, f"{PUBLIC}:{PORT}", f"192.168.7.7:{PORT}", f"{MACHINE}:{PORT + 7}")
    assert list(found.values()) == ["connected", "TimeoutError", "TimeoutError"]


async def test_two_sandboxes_do_not_see_each_other(world: World, inner: RealNode) -> None:
    first, second = await inner.start(network=OPEN), await inner.start(network=OPEN)
    server = await inner.exec(first, "python3", "-u", "-c", LISTEN, str(PORT))
    async with asyncio.timeout(DEADLINE_S):
        address = await first_line(server)
    there = f"{address}:{PORT}"
    assert await tries(inner, first, there) == {there: "connected"}
    assert await tries(inner, second, there) == {there: "TimeoutError"}


async def first_line(process: NodeProcess) -> str:
    said = b""
    async for _, content in process.output(1).follow(0):
        said += bytes(content)
        if b"\n" in said:
            break
    return said.decode().splitlines()[0]


async def test_many_bytes_arrive_whole(world: World, inner: RealNode) -> None:
    box = await inner.start(network=OPEN)
    listener = world.tcp(PUBLIC)
    content = os.urandom(1 << 20) * 64

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        connection, _ = await loop.sock_accept(listener)
        with connection:
            await loop.sock_sendall(connection, content)

    serving = asyncio.create_task(serve())
    code, out, err = await inner.run(box, "python3", "-c", FETCH, PUBLIC, str(PORT))
    await serving
    assert (code, out.strip()) == (0, hashlib.sha256(content).hexdigest()), err


async def test_a_blocked_sandbox_has_only_its_loopback(world: World, inner: RealNode) -> None:
    box = await inner.start()
    world.tcp(PUBLIC)
    found = await tries(inner, box, f"{PUBLIC}:{PORT}", "127.0.0.1:1")
    assert list(found.values()) == ["OSError", "ConnectionRefusedError"]
    _, out, _ = await inner.run(box, "cat", "/etc/resolv.conf")
    assert "nameserver" not in out
    assert (await inner.run(box, "getent", "hosts", "pypi.org"))[0] != 0


async def test_an_ended_sandbox_leaves_no_connection_tracked(world: World, inner: RealNode) -> None:
    box = await inner.start(network=OPEN)
    world.tcp(PUBLIC)
    assert list((await tries(inner, box, f"{PUBLIC}:{PORT}")).values()) == ["connected"]
    tracked = Path("/proc/thread-self/net/nf_conntrack")
    assert f"dst={PUBLIC} " in tracked.read_text()
    await inner.handle.terminate(box)
    assert f"dst={PUBLIC} " not in tracked.read_text()


async def test_names_are_resolved_and_the_sandbox_knows_its_own(node: RealNode) -> None:
    box = await node.start(network=OPEN)
    code, out, err = await node.run(box, "getent", "ahostsv4", "pypi.org")
    assert code == 0, err
    expected = {
        entry[4][0] for entry in await asyncio.get_running_loop().getaddrinfo("pypi.org", 443, family=socket.AF_INET)
    }
    assert {line.split()[0] for line in out.splitlines()} & expected
    _, name, _ = await node.run(box, "hostname")
    code, out, _ = await node.run(box, "getent", "hosts", name.strip())
    assert code == 0, out


async def test_pip_downloads_a_package_in_an_open_sandbox(node: RealNode) -> None:
    box = await node.start(network=OPEN, host_access=machines_access())
    code, out, err = await node.run(box, "pip", "download", "--no-deps", "--no-cache-dir", "-d", "/tmp/wheels", "six")
    assert code == 0, out + err
    _, listed, _ = await node.run(box, "ls", "/tmp/wheels")
    assert listed.startswith("six-")


async def test_a_package_index_is_out_of_reach_when_blocked(node: RealNode) -> None:
    box = await node.start(host_access=machines_access())
    code, _, _ = await node.run(
        box, "pip", "download", "--no-deps", "--retries", "0", "--timeout", "2", "-d", "/tmp/wheels", "six"
    )
    assert code != 0
