"""Volumes whose server is killed, or ends, while sandboxes mount them."""

from __future__ import annotations

import os
import signal

import pytest
from leftovers import loop_devices_of, mounts_below
from realserver import Server, wait_for
from volume_user import content, gofers_of, mount, sh

import skerry
from skerry.exception import ConflictError

pytestmark = pytest.mark.root


def test_a_sandbox_with_a_volume_goes_on_when_its_server_was_killed(server: Server) -> None:
    volume = skerry.Volume.from_name("kept", create_if_missing=True)
    sandbox = mount(volume)
    sh(sandbox, "echo before > /data/x")
    commit = volume.commit()
    server.kill9()
    server.start()
    assert sh(sandbox, "cat /data/x; echo after >> /data/x; cat /data/x") == "before\nbefore\nafter\n"
    assert content(volume, "/x", commit) == b"before\n"
    with pytest.raises(ConflictError, match="is mounted"):
        skerry.Volume.delete("kept")
    with mount(volume, at="/too") as second:
        assert sh(second, "cat /too/x") == "before\nafter\n"
    sandbox.terminate(wait=True)
    wait_for(lambda: not mounts_below(server.data), "the volume to be unmounted")
    assert gofers_of(server) == []
    assert content(volume, "/x") == b"before\nafter\n"


def test_what_ended_while_no_server_was_there_leaves_nothing(server: Server) -> None:
    volume = skerry.Volume.from_name("left", create_if_missing=True)
    mount(volume)
    assert mounts_below(server.data)
    server.kill9()
    for pid in server.sentries():
        os.kill(pid, signal.SIGKILL)
    server.start()
    wait_for(lambda: not mounts_below(server.data), "the volume to be unmounted")
    assert gofers_of(server) == []
    assert loop_devices_of(server.data) == []
