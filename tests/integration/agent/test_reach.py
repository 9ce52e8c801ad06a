"""PID 1 is out of reach of everything in its sandbox, and what a sandbox may use is bounded."""

from __future__ import annotations

import os
import signal
import struct
from pathlib import Path

import pytest
from agent_driver import ChannelClosed
from agent_places import HOSTS, PROCESSES, Sandbox, in_gvisor, namespaced

SIGNALS = "for s in 9 19 15 11 14 17 10 1 2 34 64; do kill -$s 1; done; echo sent"
SECRETS = (
    "environ", "mem", "maps", "fd/3", "fd/4", "fd/5", "fd/6", "exe", "root/etc/passwd", "cwd/etc/passwd",
)  # fmt: skip
FORK_BOMB = """
import os, time
made = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(600)
            os._exit(0)
        made += 1
except OSError as error:
    print(made, error.errno, flush=True)
time.sleep(600)
"""
STOP_ALL = """
import os, signal
print("stopping", flush=True)
while True:
    try:
        os.kill(-1, signal.SIGSTOP)
    except OSError:
        pass
"""


@pytest.mark.parametrize("user", ["root", "nobody"])
def test_signals_from_inside_do_nothing_to_pid_1(sandbox: Sandbox, user: str) -> None:
    host = sandbox.host
    stream = host.start("sleep", "60")
    assert b"sent" in host.shell(SIGNALS, user=user).stdout
    host.ping()
    assert host.outputs[stream].exit is None
    host.send("SIGNAL", stream, bytes([9]))
    assert host.finish(stream).exit["reason"] == "killed"


# Whatever a call says, PID 1 goes on; what is refused is said to be.
WAYS = """
import ctypes, errno, fcntl, os, resource, signal, struct
libc = ctypes.CDLL(None, use_errno=True)
call = lambda number, *args: libc.syscall(number, *map(ctypes.c_long, args))
call(200, 1, 9); call(234, 1, 1, 9); call(0x40000000 | 62, 1, 9)
info = ctypes.create_string_buffer(struct.pack("iii", 9, 0, -1), 128)
libc.syscall(129, 1, 9, info)
for target in (os.pidfd_open(1), os.open("/proc/1", os.O_RDONLY | os.O_DIRECTORY)):
    for number in (9, 19, 15):
        try:
            signal.pidfd_send_signal(target, number)
        except PermissionError:
            pass
for owner in (1, -1):
    for number in (9, 19):
        read, write = os.pipe()
        try:
            fcntl.fcntl(read, fcntl.F_SETOWN, owner)
        except PermissionError:
            pass
        fcntl.fcntl(read, fcntl.F_SETSIG, number)
        fcntl.fcntl(read, fcntl.F_SETFL, os.O_ASYNC)
        os.write(write, b"x")
for name, attempt in (
    ("limits", lambda: resource.prlimit(1, resource.RLIMIT_CPU, (0, 0))),
    ("priority", lambda: os.setpriority(os.PRIO_PROCESS, 1, 19)),
    ("cpus", lambda: os.sched_setaffinity(1, [0])),
):
    try:
        attempt()
        print(name, "done")
    except OSError as error:
        print(name, errno.errorcode[error.errno])
def refused(name, result):
    print(name, errno.errorcode[ctypes.get_errno()] if result == -1 else "done")
refused("ptrace", call(101, 16, 1, 0, 0))
refused("getfd", call(438, os.pidfd_open(1), 0, 0))
local = struct.pack("NN", ctypes.addressof(info), 16)
refused("read", call(310, 1, ctypes.addressof(ctypes.create_string_buffer(local)), 1, 0, 1, 0))
print("tried")
"""


@pytest.mark.parametrize("user", ["root", "nobody"])
def test_other_ways_to_signal_or_change_pid_1_do_nothing(guest: Sandbox, user: str) -> None:
    output = guest.host.run("python3", "-c", WAYS, user=user)
    assert output.stdout.decode().split("\n") == [
        "limits EPERM", "priority EPERM", "cpus EPERM", "ptrace EPERM", "getfd EPERM", "read EFAULT", "tried", ""
    ], output  # fmt: skip
    guest.host.ping()


def test_a_signal_through_a_pidfd_reaches_other_processes(guest: Sandbox) -> None:
    script = (
        "import os, signal, subprocess; p = subprocess.Popen(['sleep', '60']);"
        "signal.pidfd_send_signal(os.pidfd_open(p.pid), 9); print(p.wait())"
    )
    assert guest.host.run("python3", "-c", script).stdout == b"-9\n"


def test_the_first_process_of_a_namespace_that_a_sandbox_has_made_is_not_kept_from_its_maker(guest: Sandbox) -> None:
    script = "unshare -Ur --fork --pid sleep 60 & sleep 0.2; kill -9 $(pgrep -x sleep | head -1); wait; echo over"
    assert guest.host.shell(script, timeout_ms=20_000).stdout == b"over\n"


@pytest.mark.parametrize("user", ["root", "nobody"])
def test_what_proc_shows_of_pid_1_is_closed(sandbox: Sandbox, user: str) -> None:
    script = "".join(f"head -c 1 /proc/1/{name} >/dev/null 2>&1 && echo open {name};" for name in SECRETS)
    assert sandbox.host.shell(script + "true", user=user).stdout == b""


def test_stopping_every_process_again_and_again_does_not_stop_pid_1(own_guest: Sandbox) -> None:
    host = own_guest.host
    for user in ("user", "root"):
        stopper = host.start("python3", "-c", STOP_ALL, user=user)
        host.wait(lambda stopper=stopper: b"stopping" in host.outputs[stopper].stdout, "the first stop")
        streams = [host.start("true", user=user, timeout_ms=200) for _ in range(20)]
        host.ping()
        for stream in streams:
            assert host.finish(stream).exit
        host.send("SIGNAL", stopper, bytes([9]))
        host.finish(stopper)


@pytest.mark.parametrize("user", ["root", "user"])
def test_a_fork_bomb_gets_eagain_and_the_sandbox_goes_on(own_guest: Sandbox, user: str) -> None:
    host = own_guest.host
    bomb = host.start("python3", "-c", FORK_BOMB, user=user)
    host.wait(lambda: b"\n" in host.outputs[bomb].stdout, "the end of the forking")
    made, errno = map(int, host.outputs[bomb].stdout.split())
    assert errno == 11
    assert PROCESSES // 2 < made < PROCESSES
    assert host.run("echo", "alive", user=user).stdout == b"alive\n"
    host.send("SIGNAL", bomb, bytes([9]))
    host.finish(bomb)


def test_many_fork_bombs_together_stay_below_the_bound(own_guest: Sandbox) -> None:
    host = own_guest.host
    bombs = [
        host.start("python3", "-c", FORK_BOMB, user=f"{uid}:{uid}", timeout_ms=30_000) for uid in range(2001, 2005)
    ]
    for bomb in bombs:
        host.wait(lambda bomb=bomb: b"\n" in host.outputs[bomb].stdout, "the end of the forking")
    assert sum(int(host.outputs[bomb].stdout.split()[0]) for bomb in bombs) < PROCESSES
    assert host.run("echo", "alive").stdout == b"alive\n"
    for bomb in bombs:
        host.send("SIGNAL", bomb, bytes([9]))


def test_a_process_has_the_usual_capabilities_and_no_more(guest: Sandbox) -> None:
    status = guest.host.run("cat", "/proc/self/status").stdout.decode()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    sys_admin, sys_resource, sys_ptrace, net_admin = 1 << 21, 1 << 24, 1 << 19, 1 << 12
    for name in ("CapPrm", "CapEff", "CapBnd"):
        assert not int(fields[name], 16) & (sys_admin | sys_resource | sys_ptrace | net_admin)
    assert int(fields["CapInh"], 16) == int(fields["CapAmb"], 16) == 0
    own = dict(
        line.split(":\t", 1)
        for line in guest.host.run("cat", "/proc/1/status").stdout.decode().splitlines()
        if ":\t" in line
    )
    assert not int(own["CapEff"], 16) & (sys_admin | sys_resource)


def test_sudo_works_unless_new_privileges_are_forbidden(guest: Sandbox) -> None:
    assert guest.host.run("sudo", "id", "-u", user="user").stdout == b"0\n"
    refused = guest.host.run("sudo", "id", "-u", user="user", no_new_privileges=True)
    assert refused.exit["code"] != 0
    assert refused.stdout == b""


def test_setup_names_the_host_binds_files_and_bounds_cpus(tmp_path, base_image) -> None:
    files = [
        ["/etc/hosts", 0o644, HOSTS],
        ["/etc/resolv.conf", 0o644, b"nameserver 127.0.0.1\n"],
        ["/etc/not/there/yet", 0o600, b"made\n"],
    ]
    with in_gvisor(tmp_path, base_image, hostname="a-name", files=files, cpus=1) as guest:
        output = guest.host.shell("hostname; nproc; cat /etc/hosts /etc/resolv.conf; stat -c %a /etc/not/there/yet")
        assert output.stdout == b"a-name\n1\n" + HOSTS + b"nameserver 127.0.0.1\n600\n"
        # What is bound lies on our own file system, not on the image's.
        assert guest.host.run("cat", "/run/skerry/etc/0").stdout == HOSTS
        assert guest.host.run("umount", "/etc/hosts").exit["code"] != 0


def test_shutdown_asks_first_and_ends_with_0(boxed: Sandbox) -> None:
    host = boxed.host
    polite = host.start("/bin/sh", "-c", "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done")
    host.wait(lambda: b"up" in host.outputs[polite].stdout, "the trap")
    host.send("SHUTDOWN", 0, struct.pack("<I", 5000))
    with pytest.raises(ChannelClosed):
        host.wait(lambda: False, "the end")
    assert host.outputs[polite].exit["code"] == 3
    assert boxed.process.wait(timeout=20) == 0


def test_shutdown_kills_what_does_not_listen(boxed: Sandbox) -> None:
    host = boxed.host
    deaf = host.start("/bin/sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done")
    host.wait(lambda: b"up" in host.outputs[deaf].stdout, "the trap")
    host.send("SHUTDOWN", 0, struct.pack("<I", 100))
    assert boxed.process.wait(timeout=20) == 0


def test_sigterm_from_the_host_ends_the_agent_with_0(boxed: Sandbox) -> None:
    child = Path(f"/proc/{boxed.process.pid}/task/{boxed.process.pid}/children").read_text().split()[0]
    os.kill(int(child), signal.SIGTERM)
    assert boxed.process.wait(timeout=20) == 0


@pytest.mark.parametrize(
    ("frame", "rule"),
    [
        (b"\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00", "unknown_type"),
        (b"\xff\xff\xff\xff\x00\x00\x00\x00\x03\x00\x00\x00", "frame_too_large"),
        (b"\x00\x00\x00\x00\x00\x00\x00\x00\x03\x00\x01\x00", "malformed_frame"),
        (b"\x01\x00\x00\x00\x01\x00\x00\x00\x05\x00\x00\x00\xc0", "malformed_payload"),
        (b"\x00\x00\x00\x00\x09\x00\x00\x00\x0f\x00\x00\x00", "unknown_stream"),
    ],
)
def test_a_host_that_breaks_a_rule_ends_the_agent_with_the_rules_name(tmp_path, frame: bytes, rule: str) -> None:
    with namespaced(tmp_path) as sandbox:
        sandbox.host.send_raw(frame)
        assert sandbox.process.wait(timeout=20) == 70
        assert rule in sandbox.log


def test_anything_before_hello_ends_the_agent(tmp_path) -> None:
    with namespaced(tmp_path, greet=False) as sandbox:
        sandbox.host.send("PING", 0, b"")
        assert sandbox.process.wait(timeout=20) == 70
        assert "hello_expected" in sandbox.log
