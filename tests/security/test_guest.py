"""What a guest, root or uid 1000, may try against the first process of its sandbox, while the server is restarted."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from realserver import Server, real_server

from skerry import ContainerProcess, Sandbox, SandboxReason

USERS = ("root", "user")

# Every way into another process that Linux has; prints what was got. Not `io`: gVisor shows its counters to all.
REACH = """
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
call = lambda number, *args: libc.syscall(ctypes.c_long(number), *[ctypes.c_long(one) for one in args])
FILES = "environ mem maps smaps pagemap auxv stack syscall map_files exe cwd root ns/net".split()
def reach(pid):
    base = f"/proc/{pid}"
    for name in FILES:
        try:
            with open(f"{base}/{name}", "rb") as file:
                if name == "mem" or file.read(1):  # which addresses there are we do not know
                    print("read", pid, name)
        except (OSError, ValueError):
            pass
    for name in ("cwd", "root"):
        try:
            os.listdir(f"{base}/{name}/")
            print("listed", pid, name)
        except OSError:
            pass
    for number in range(64):
        for how in (os.O_RDONLY | os.O_NONBLOCK, os.O_WRONLY | os.O_NONBLOCK):
            try:
                os.close(os.open(f"{base}/fd/{number}", how))
                print("opened", pid, number)
            except OSError:
                pass
    into = ctypes.create_string_buffer(8)
    vec = (ctypes.c_size_t * 2)(ctypes.addressof(into), 8)
    other = (ctypes.c_size_t * 2)(0x400000, 8)
    for name, number in (("process_vm_readv", 310), ("process_vm_writev", 311)):
        done = call(number, pid, ctypes.addressof(vec), 1, ctypes.addressof(other), 1, 0)
        if done > 0 or ctypes.get_errno() == errno.EFAULT:  # allowed, but for the address
            print(name, pid)
    if call(101, 16, pid, 0, 0) == 0 or call(101, 0x4206, pid, 0, 0) == 0:
        print("ptrace", pid)
    handle = call(434, pid, 0)
    if handle >= 0 and any(call(438, handle, number, 0) >= 0 for number in range(64)):
        print("pidfd_getfd", pid)
"""
REACH_ONE = REACH + "reach(1)\nprint('tried', flush=True)\n"
# The same on whatever runs the agent's program, again and again: `attach` of the next server is among them. What became
# another program meanwhile is one of the guest's own, which PID 1 has just started, and is the guest's to read.
REACH_ATTACH = (
    REACH
    + """
import contextlib, io
def command(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().split(b"\\0")
    except OSError:
        return []
print("trying", flush=True)
while True:
    seen = False
    for pid in filter(str.isdigit, os.listdir("/proc")):
        before = command(pid)
        if before[:1] != [b"/.skerry/agent"]:
            continue
        got = io.StringIO()
        with contextlib.redirect_stdout(got):
            reach(int(pid))
        attach = before[1:2] == [b"attach"]
        if attach or command(pid)[:1] == [b"/.skerry/agent"]:
            print(got.getvalue(), end="", flush=True)
        seen = seen or attach
    if seen:
        print("seen", flush=True)
"""
)
# Offers channels to the agent as `attach` does: silent ones, ones with a wrong proof, or as fast as it can.
OFFER = """
import array, os, socket, struct, sys, time
def offer(read, write):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.connect("\\0skerry-agent")
        s.sendmsg([b"a"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [read, write]))])
def text(b): return bytes([0xa0 + len(b)]) + b
def hello(proof):
    body = (b"\\x85" + text(b"version") + b"\\x01" + text(b"secret") + b"\\xc4\\x20" + bytes(32) + text(b"proof")
        + b"\\xc4\\x20" + proof + text(b"generation") + b"\\x09" + text(b"setup") + b"\\xc0")
    return struct.pack("<IIBBH", len(body), 0, 1, 0, 0) + body
what = sys.argv[1]
kept, answers = [], []
if what == "silent":
    for _ in range(100):
        (r, w), (r2, w2) = os.pipe(), os.pipe()
        kept += [r, w, r2, w2]
        offer(r, w2)
    print("offering", flush=True)
    time.sleep(1000)
print("offering", flush=True)
if what == "flood":
    r, w = os.pipe()
    os.write(w, bytes(30000))
    while True:
        offer(r, w)
while True:
    (r, w), (r2, w2) = os.pipe(), os.pipe()
    os.write(w, hello(os.urandom(32)))
    offer(r, w2)
    for fd in (r, w, w2): os.close(fd)
    if answer := os.read(r2, 100):
        print("answered", answer, flush=True)
    os.close(r2)
"""
# What `attach` itself does with pipes of the guest's own.
RUN_ATTACH = (
    OFFER.split("what =", maxsplit=1)[0]
    + """
import subprocess
print("offering", flush=True)
while True:
    (r, w), (r2, w2) = os.pipe(), os.pipe()
    os.write(w, hello(os.urandom(32)))
    subprocess.run(["/.skerry/agent", "attach"], stdin=r, stdout=w2)
    for fd in (r, w, w2): os.close(fd)
    if answer := os.read(r2, 100):
        print("answered", answer, flush=True)
    os.close(r2)
"""
)
# Signals the next processes of the sandbox before they are seen: `attach` is the first of them.
FELL_ATTACH = """
import os, sys
own, number = os.getpid(), int(sys.argv[1])
print("felling", flush=True)
while True:
    for pid in range(own + 1, own + 30):
        try:
            os.kill(pid, number)
        except OSError:
            pass
"""
STOP = """
import os
print("stopping", flush=True)
while True:
    for number in (9, 15, 19):
        try:
            os.kill(1, number)
        except OSError:
            pass
"""
COUNT = "i=0; while [ $i -lt 40000 ]; do echo $i; i=$((i+1)); done"


@pytest.fixture(scope="module")
def server(base_image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with real_server(base_image, tmp_path_factory.mktemp("guest") / "run") as running:
        yield running


@pytest.fixture
def box(server: Server) -> Iterator[Sandbox]:
    with Sandbox.create(block_network=True) as sandbox:
        yield sandbox


def begun(process: ContainerProcess[str], word: str) -> ContainerProcess[str]:
    """Return an attack once it is under way."""
    assert next(iter(process.stdout)) == f"{word}\n"
    return process


def rest(process: ContainerProcess[str]) -> set[str]:
    """Return the lines that an attack has printed since, once it is over."""
    process.kill()
    process.wait()
    return set(process.stdout.read().splitlines())


@pytest.mark.parametrize("user", USERS)
def test_nothing_of_the_first_process_can_be_read_opened_or_traced(box: Sandbox, user: str) -> None:
    process = box.exec("python3", "-c", REACH_ONE, user=user)
    assert process.stdout.read() == "tried\n", process.stderr.read()


def test_the_same_attempts_succeed_on_a_process_of_the_guests_own(box: Sandbox) -> None:
    own = REACH + "import subprocess\nreach(subprocess.Popen(['sleep', '1000'], stdout=subprocess.DEVNULL).pid)\n"
    got = box.exec("python3", "-c", own, timeout=20).stdout.read()
    for way in ("environ", "mem\n", "maps", "opened", "listed", "process_vm_readv", "ptrace", "pidfd_getfd"):
        assert way in got


@pytest.mark.parametrize("user", USERS)
def test_nothing_of_it_can_be_read_while_and_after_the_next_server_attaches(
    server: Server, box: Sandbox, user: str
) -> None:
    attack = begun(box.exec("python3", "-c", REACH_ATTACH, user=user), "trying")
    for _ in range(3):
        server.kill9()
        server.start()
        assert box.exec("echo", "alive").stdout.read() == "alive\n"
    got = rest(attack) - {"seen"}
    assert {line for line in got if line} == set()


def test_the_secret_of_the_next_attach_is_nowhere_that_a_guest_can_read(server: Server, box: Sandbox) -> None:
    server.kill9()
    server.start()
    record = json.loads((server.runtime / "records" / f"{box.object_id}.json").read_text())
    secrets = [base64.b64decode(text) for text in record["secrets"]]
    assert all(len(secret) == 32 for secret in secrets)
    folders = "/run /.skerry /tmp /dev/shm /etc /root"
    script = f"cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline; find {folders} -xdev -type f -exec cat {{}} +"
    seen = box.exec("sh", "-c", script, text=False).stdout.read()
    assert len(seen) > 100_000  # the agent's program at least
    for secret in secrets:
        for form in (secret, secret.hex().encode(), base64.b64encode(secret)):
            assert form not in seen


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("what", ["silent", "wrong", "flood", "attach"])
def test_channels_that_a_guest_offers_neither_are_taken_nor_keep_the_next_server_out(
    server: Server, box: Sandbox, user: str, what: str
) -> None:
    program = RUN_ATTACH if what == "attach" else OFFER
    attacks = [begun(box.exec("python3", "-c", program, what, user=user), "offering") for _ in range(3)]
    counting = box.exec("sh", "-c", COUNT)
    lines = iter(counting.stdout)
    assert [next(lines) for _ in range(100)][-1] == "99\n"
    server.kill9()
    server.start()
    assert box.exec("echo", "alive").stdout.read() == "alive\n"
    assert list(lines) == [f"{number}\n" for number in range(100, 40_000)]
    assert counting.wait() == 0
    for attack in attacks:
        assert attack.poll() is None  # it went on all the time
        assert {line for line in rest(attack) if line.startswith("answered")} == set()
    assert box.poll() is None


@pytest.mark.parametrize("user", USERS)
def test_signals_to_the_first_process_do_not_keep_the_next_server_out(server: Server, box: Sandbox, user: str) -> None:
    attack = begun(box.exec("python3", "-c", STOP, user=user), "stopping")
    server.kill9()
    server.start()
    assert box.exec("echo", "alive").stdout.read() == "alive\n"
    assert rest(attack) == set()


@pytest.mark.parametrize(("user", "number"), [("root", 9), ("root", 19), ("user", 9)])
def test_a_guest_that_fells_the_attach_of_its_own_sandbox_harms_only_itself(
    server: Server, box: Sandbox, user: str, number: int
) -> None:
    attack = begun(box.exec("python3", "-c", FELL_ATTACH, str(number), user=user), "felling")
    with Sandbox.create(block_network=True) as neighbour:
        neighbour.filesystem.write_text("mine", "/root/note")
        server.kill9()
        server.start()
        assert neighbour.filesystem.read_text("/root/note") == "mine"
    if box.poll() is None:  # the attach was quicker, or the guest may not signal it
        rest(attack)
        assert box.exec("echo", "alive").stdout.read() == "alive\n"
    else:
        assert user == "root"
        assert box.exit is not None
        assert box.exit.reason is SandboxReason.GUEST_BROKEN
        assert box.exit.evidence == "its agent did not answer the server that came back"
