"""Several clients, repeated requests, and clients that go away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from realserver import Server, wait_for

from skerry import Image, Sandbox
from skerry.client import loop
from skerry.client.client import resolve
from skerry.exception import InvalidError

STREAMING = """
import sys, skerry
box = skerry.Sandbox.from_id(sys.argv[1])
process = box.exec("sh", "-c", "i=0; while [ $i -lt 200000 ]; do echo $i; i=$((i+1)); done; echo over > /root/over")
print(process.object_id, flush=True)
for line in process.stdout:
    if line == "1000\\n":
        print("streaming", flush=True)
        sys.stdin.read()
"""
CREATING = """
import skerry
skerry.Sandbox.create("sleep", "1000", block_network=True, image=skerry.Image.debian_slim().run_commands("sleep 1000"))
"""


@pytest.fixture(scope="module", autouse=True)
def served(shared: Server) -> Server:
    return shared


@contextmanager
def program(server: Server, code: str, *argv: str) -> Iterator[subprocess.Popen[str]]:
    """A client in a process of its own, killed at the end at the latest."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *argv],
        env=os.environ | server.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def descriptors(server: Server) -> int:
    return len(os.listdir(f"/proc/{server.pid}/fd"))


def post(body: dict[str, object], key: str) -> Any:
    """Return the answer to a create under an idempotency key."""

    async def call() -> Any:
        connection = await resolve(None).connection()
        return await connection.call("POST", "/v1/sandboxes", body=body, key=key)

    return loop.run(call)


def test_a_client_killed_in_the_middle_of_a_stream_costs_nobody_anything(served: Server) -> None:
    with Sandbox.create(block_network=True) as box:
        box.exec("true").wait()  # so that what the first exec opens is counted
        before = descriptors(served)
        with program(served, STREAMING, box.object_id) as client:
            assert client.stdout is not None
            client.stdout.readline()
            assert client.stdout.readline() == "streaming\n"
            os.kill(client.pid, signal.SIGKILL)
        # The process runs on, since nobody asked for its end, and the server lets go of the client.
        wait_for(lambda: box.exec("test", "-e", "/root/over").wait() == 0, "the end of the process")
        wait_for(lambda: descriptors(served) <= before, lambda: f"{before} descriptors, not {descriptors(served)}")
        assert box.exec("echo", "alive").stdout.read() == "alive\n"


def test_a_client_killed_while_its_image_is_built_ends_the_build(served: Server) -> None:
    assert served.sentries() == []
    with program(served, CREATING) as client:
        wait_for(served.sentries, "the build's sandbox")
        os.kill(client.pid, signal.SIGKILL)
    served.check_no_sandbox_left()
    served.check_nothing_of_a_build_left()


def test_a_create_with_a_key_that_was_used_returns_the_same_sandbox_also_after_its_end(served: Server) -> None:
    with Sandbox.create("sleep", "1000", block_network=True) as box:
        body: dict[str, object] = {"image": box.view.spec.image, "network": "blocked", "entrypoint": ["sleep", "999"]}
        before = len(served.sentries())
        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(lambda _: post(body, "one-key"), range(4)))
        (made,) = {answer["id"] for answer in answers}
        assert len(served.sentries()) == before + 1
        with pytest.raises(InvalidError, match=f"the idempotency key was used for another request, which made {made}"):
            post(body | {"entrypoint": ["sleep", "998"]}, "one-key")
        Sandbox.from_id(made).terminate(wait=True)
        again = post(body, "one-key")
        assert (again["id"], again["state"], again["exit"]["reason"]) == (made, "stopped", "terminated")


def test_a_key_is_remembered_by_the_next_server(served: Server) -> None:
    with Sandbox.create(block_network=True) as box:
        body: dict[str, object] = {"image": box.view.spec.image, "network": "blocked", "entrypoint": ["sleep", "997"]}
        made = post(body, "kept-key")["id"]
        served.kill9()
        served.start()
        assert post(body, "kept-key")["id"] == made
        Sandbox.from_id(made).terminate(wait=True)


def test_creates_that_need_the_same_new_image_share_one_build(capfd: pytest.CaptureFixture[str]) -> None:
    def create(_: int) -> str:
        image = Image.debian_slim().run_commands("cat /proc/sys/kernel/random/uuid > /made; sleep 0.5")
        with Sandbox.create(image=image, block_network=True) as box:
            return box.filesystem.read_text("/made")

    with ThreadPoolExecutor(5) as threads:
        made = set(threads.map(create, range(5)))
    assert len(made) == 1
    assert create(0) in made
    assert capfd.readouterr().err.count("step 1 of 1") == 5  # each caller saw it


def test_terminating_from_many_sides_at_once_has_one_outcome() -> None:
    box = Sandbox.create("sleep", "1000", block_network=True)
    with ThreadPoolExecutor(8) as threads:
        outcomes = set(threads.map(lambda _: Sandbox.from_id(box.object_id).terminate(wait=True), range(8)))
    assert outcomes == {137}
    assert box.terminate(wait=True) == 137


def test_a_create_that_is_interrupted_leaves_no_sandbox(served: Server) -> None:
    code = "import skerry\nwhile True: skerry.Sandbox.create('sleep', '1000', block_network=True).terminate()"
    with program(served, code) as client:
        for _ in range(2):
            wait_for(served.sentries, "a sandbox")
        client.send_signal(signal.SIGINT)
        client.wait(30)
    wait_for(lambda: list(Sandbox.list()) == [], lambda: f"the end of {list(Sandbox.list())}", seconds=15)
    served.check_no_sandbox_left()
