"""The first process of a container is kept from the others in it, and by our build alone; the host still reaches it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from .conftest import Sandbox, Sandboxes, restored, started

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]  # the first run builds two binaries

REFUSED = {"prlimit EPERM", "setpriority EPERM", "sched_setaffinity EPERM"}
# They are said to have been sent, as Linux says of an init process.
SENT = {"sigio done", "tgkill done", "queue done", "pidfd_send_signal done", "folder_send_signal done", "kill done"}


def reached(sandbox: Sandbox) -> set[str]:
    """Let another process do to the first one what it can; return what was said of it."""
    return set(sandbox.call("exec", sandbox.id, "/guest", "reach", check=False).splitlines())


def ended(sandbox: Sandbox) -> bool:
    deadline = time.monotonic() + 20
    while sandbox.status() != "stopped" and time.monotonic() < deadline:
        time.sleep(0.02)
    return sandbox.status() == "stopped"


def test_other_processes_can_neither_end_nor_change_it(sandboxes: Sandboxes, runsc: Path) -> None:
    sandbox = started(sandboxes(runsc))
    said = reached(sandbox)
    assert said >= REFUSED | SENT, said
    assert sandbox.status() == "running"


def test_with_the_plain_build_they_can(sandboxes: Sandboxes, plain_runsc: Path) -> None:
    sandbox = started(sandboxes(plain_runsc))
    assert not reached(sandbox) & REFUSED
    assert ended(sandbox)


def test_it_is_kept_from_them_after_a_restore_too(sandboxes: Sandboxes, runsc: Path, tmp_path: Path) -> None:
    clone = restored(started(sandboxes(runsc)), sandboxes(runsc), tmp_path / "checkpoint")
    said = reached(clone)
    assert said >= REFUSED | SENT, said
    assert clone.status() == "running"


def test_the_host_can_end_it(sandboxes: Sandboxes, runsc: Path) -> None:
    sandbox = started(sandboxes(runsc))
    sandbox.call("kill", sandbox.id, "KILL")
    assert ended(sandbox)
