"""Deadlines: at its timeout a process goes, with everything that it has left behind."""

from __future__ import annotations

import time

from agent_places import Sandbox

# What leaves session, group, parents and environment behind.
ESCAPE = "env -i setsid sh -c 'env -i setsid sh -c \"echo \\$\\$; exec sleep 7777\" & exit 0' & sleep 60"

# What the guest's root can do with a cgroup file system that it mounts in a user namespace of its own.
MOUNT = "mkdir -p /groups; exec unshare -Urm sh -c 'mount -t cgroup2 none /groups || exit 99; cd /groups; {}'"


def test_a_deadline_ends_the_process_and_says_so(sandbox: Sandbox) -> None:
    started = time.monotonic()
    output = sandbox.host.run("sleep", "60", timeout_ms=200)
    assert time.monotonic() - started < 20
    assert (output.exit["signal"], output.exit["reason"]) == (9, "timeout")
    assert "200 ms" in output.exit["evidence"]


def test_a_process_that_is_faster_is_left_alone(sandbox: Sandbox) -> None:
    assert sandbox.host.run("true", timeout_ms=20_000).exit["reason"] == "exited"


def test_exit_before_the_deadline_ends_the_pipes_that_others_hold_at_the_deadline(sandbox: Sandbox) -> None:
    output = sandbox.host.shell("sleep 60 & exit 3", timeout_ms=300)
    assert (output.exit["code"], output.exit["reason"]) == (3, "exited")
    assert output.ended.keys() == {1, 2}


def test_a_deadline_reaches_the_session_the_group_and_the_children(sandbox: Sandbox) -> None:
    host = sandbox.host
    script = "sleep 7771 & setsid sleep 7772 & (sleep 7773 &) ; sleep 7774"
    output = host.shell(script, timeout_ms=500, stdout="null", stderr="null")
    assert output.exit["reason"] == "timeout"
    for seconds in (7771, 7772, 7773, 7774):
        host.wait(lambda seconds=seconds: not running(sandbox, seconds), f"the end of sleep {seconds}")


def test_a_deadline_reaches_what_has_left_session_parents_and_environment(guest: Sandbox) -> None:
    host = guest.host
    output = host.shell(ESCAPE, timeout_ms=3000)
    assert output.exit["reason"] == "timeout"
    assert output.ended.keys() == {1, 2}
    hidden = int(output.stdout)
    host.wait(lambda: host.shell(f"kill -0 {hidden}").exit["code"] != 0, "the end of what was hidden")


def test_what_one_exec_leaves_behind_outlives_the_deadline_of_another(guest: Sandbox) -> None:
    host = guest.host
    left = host.shell("setsid sleep 7779 >/dev/null 2>&1 & echo $!")
    assert host.run("sleep", "60", timeout_ms=200).exit["reason"] == "timeout"
    assert running(guest, 7779)
    host.shell(f"kill {left.stdout.decode()}")


def test_a_group_is_not_left_through_a_cgroup_file_system_of_the_guests_own(guest: Sandbox) -> None:
    leave = "mkdir out && echo $$ > out/cgroup.procs; setsid sleep 7781 & echo tried; sleep 7782"
    output = guest.host.shell(MOUNT.format(leave), timeout_ms=2000)
    assert output.exit["reason"] == "timeout"
    assert output.stdout == b"tried\n"
    for seconds in (7781, 7782):
        guest.host.wait(lambda seconds=seconds: not running(guest, seconds), f"the end of sleep {seconds}")


def test_a_cgroup_file_system_of_the_guests_own_reaches_neither_pid_1_nor_others_nor_limits(guest: Sandbox) -> None:
    host = guest.host
    other = host.start("sleep", "60")
    host.wait(lambda: host.outputs[other].started, "the other process")
    pid = host.outputs[other].started["pid"]
    attempts = (
        f"for p in 1 {pid}; do echo $p > cgroup.procs && echo moved $p; done;"
        "echo max > pids.max && echo raised; echo 9 > cgroup.max.descendants && echo deepened;"
        "echo 1 > cgroup.freeze && echo frozen; mount -o remount /groups; echo max > pids.max && echo raised;"
        "ls -d */; mount -t cgroup none /mnt && echo old; grep -cx $$ cgroup.procs"
    )
    output = host.shell(MOUNT.format(attempts + "; echo 1 > cgroup.kill; true"))
    assert output.stdout == b"1\n", output
    host.ping()
    assert host.outputs[other].exit is None
    host.send("SIGNAL", other, bytes([9]))
    host.finish(other)


def running(sandbox: Sandbox, seconds: int) -> bool:
    """Return whether a sleep of this many seconds runs."""
    script = (
        f"for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $f; echo; done 2>/dev/null | grep -c '^sleep {seconds} $'"
    )
    return sandbox.host.shell(script).stdout.strip() not in (b"0", b"")
