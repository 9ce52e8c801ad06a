"""Watching paths: what is told, in which bounds, and what becomes of the rest."""

from __future__ import annotations

import os
import struct
from typing import Any

import msgspec
from agent_driver import WINDOW, Host

ALL = ["create", "modify", "remove", "move", "access"]
CHANGES = ["create", "modify", "remove", "move"]
WAITING = 256 << 10


class Watch:
    """A watch that has begun."""

    def __init__(self, host: Host, path: str, *, recursive: bool = False, kinds: list[str] = CHANGES, **fields: Any):
        fields = {"timeout_ms": 0, "limit": WINDOW} | fields
        self.host, self.taken = host, 0
        self.stream = host.open("watch", path=path.encode(), recursive=recursive, kinds=kinds, **fields)
        self.output = host.outputs[self.stream]
        host.wait(lambda: self.output.started or self.output.error, "STARTED")

    def changes(self) -> list[tuple[str, ...]]:
        """Return what was told so far: the kind and the paths of each."""
        found, data = [], self.output.stdout
        while len(data) >= 4 and len(data) >= 4 + (length := struct.unpack_from("<I", data)[0]):
            told = msgspec.msgpack.decode(data[4 : 4 + length])
            found.append((told["kind"], *(os.fsdecode(path) for path in told["paths"])))
            data = data[4 + length :]
        return found

    def wait_for(self, *change: str) -> None:
        self.host.wait(lambda: change in self.changes(), f"{change} (there are {self.changes()[-5:]})")

    def end(self) -> None:
        self.host.close(self.stream)
        self.host.wait(lambda: self.output.error, "the last word")


def test_each_change_of_a_folders_entries_is_told_in_its_order(host: Host, folder: str) -> None:
    watch = Watch(host, folder)
    host.shell(
        "echo a > f; mv f g; rm g; mkdir d; mkdir d/below; ln -s x l; mv l ../gone; rm ../gone; : > end", cwd=folder
    )
    watch.wait_for("create", f"{folder}/end")
    assert watch.changes() == [
        ("create", f"{folder}/f"),
        ("modify", f"{folder}/f"),
        ("move", f"{folder}/f", f"{folder}/g"),
        ("remove", f"{folder}/g"),
        ("create", f"{folder}/d"),
        ("create", f"{folder}/l"),
        ("move", f"{folder}/l"),
        ("create", f"{folder}/end"),
    ]
    watch.end()


def test_only_the_kinds_that_were_asked_for_are_told(host: Host, folder: str) -> None:
    watch = Watch(host, folder, kinds=["remove"])
    host.shell("echo a > f; mv f g; cat g; rm g", cwd=folder)
    watch.wait_for("remove", f"{folder}/g")
    assert watch.changes() == [("remove", f"{folder}/g")]
    watch.end()
    reads = Watch(host, f"{folder}/", kinds=["access"])
    host.shell("echo a > f; cat f", cwd=folder)
    reads.wait_for("access", f"{folder}/f")
    assert {change[0] for change in reads.changes()} == {"access"}
    reads.end()


def test_a_file_is_watched_for_itself_and_through_a_link(host: Host, folder: str) -> None:
    host.shell("echo a > real; ln -s real link", cwd=folder)
    watch = Watch(host, f"{folder}/link")
    host.shell("echo b > other; echo b >> real; rm real", cwd=folder)
    watch.wait_for("remove", f"{folder}/real")
    assert {change[1] for change in watch.changes()} == {f"{folder}/real"}
    assert watch.changes()[0] == ("modify", f"{folder}/real")
    watch.end()


def test_folders_below_are_watched_those_that_come_later_too(host: Host, folder: str) -> None:
    host.shell("mkdir -p a/b/c", cwd=folder)
    watch = Watch(host, folder, recursive=True)
    host.shell("echo x > a/b/c/f; mv a z; echo x > z/b/c/g; mkdir -p new/deep; echo x > new/deep/f", cwd=folder)
    watch.wait_for("modify", f"{folder}/z/b/c/g")
    watch.wait_for("create", f"{folder}/new/deep/f")
    assert ("move", f"{folder}/a", f"{folder}/z") in watch.changes()
    assert ("create", f"{folder}/a/b/c/f") in watch.changes()
    assert ("create", f"{folder}/z/b/c") not in watch.changes(), "what was moved is not new"
    watch.end()


def test_a_link_to_a_folder_below_is_not_followed(host: Host, folder: str) -> None:
    host.shell("mkdir seen hidden; ln -s ../hidden seen/link", cwd=folder)
    watch = Watch(host, f"{folder}/seen", recursive=True)
    host.shell("echo x > hidden/f; ln -s ../hidden seen/second; echo x > hidden/g; : > seen/end", cwd=folder)
    watch.wait_for("create", f"{folder}/seen/end")
    assert [change for change in watch.changes() if "hidden" in change[1] or "/f" in change[1]] == []
    watch.end()


def test_names_of_any_bytes_are_told_as_they_are(host: Host, folder: str) -> None:
    watch = Watch(host, folder)
    host.run("python3", "-c", "open(b'\\xff\\x1b[2J\\n', 'w')", cwd=folder)
    watch.wait_for("create", folder + os.fsdecode(b"/\xff\x1b[2J\n"))
    watch.end()


def test_a_watch_ends_at_its_timeout(host: Host, folder: str) -> None:
    watch = Watch(host, folder, timeout_ms=300)
    host.shell(": > f", cwd=folder)
    output = host.finish(watch.stream)
    assert (output.result, output.error) == ({}, None)
    assert 1 in output.ended


def test_what_nobody_reads_is_bounded_and_its_loss_is_told(host: Host, folder: str) -> None:
    host.grants = False
    watch = Watch(host, folder, limit=1)
    script = "import os\nfor i in range(4000): open('a' * 200 + str(i), 'w').close()\nopen('last', 'w')"
    assert host.run("python3", "-c", script, cwd=folder).exit["code"] == 0
    assert len(watch.output.stdout) <= 1
    host.grants = True
    host.grant(watch.stream, 1)
    watch.wait_for("overflow", folder)
    assert len(watch.output.stdout) <= WAITING + 1024
    host.shell("echo x > after", cwd=folder)
    watch.wait_for("create", f"{folder}/after")
    watch.end()


def test_a_tree_of_too_many_folders_is_refused_at_the_start_and_told_later(host: Host, folder: str) -> None:
    many = "import os\nfor i in range(8200): os.mkdir('d%d' % i)\nos.mkdir('last')"
    watch = Watch(host, folder, recursive=True, kinds=["move"])
    assert host.run("python3", "-c", many, cwd=folder).exit["code"] == 0
    watch.wait_for("overflow", folder)
    watch.end()
    refused = Watch(host, folder, recursive=True)
    assert refused.output.error["code"] == "resource_exhausted"
    assert "8192 folders" in refused.output.error["message"]


def test_a_64th_watch_is_the_last_one(host: Host, folder: str) -> None:
    watches = [Watch(host, folder) for _ in range(64)]
    assert Watch(host, folder).output.error["code"] == "resource_exhausted"
    for watch in watches:
        watch.end()
    Watch(host, folder).end()


def test_what_is_not_there_is_not_watched(host: Host, folder: str) -> None:
    assert Watch(host, f"{folder}/none").output.error["code"] == "not_found"
    assert Watch(host, "relative").output.error["code"] == "invalid_argument"
    assert Watch(host, "/proc/self/root/etc").output.error["code"] == "invalid_argument"
    host.ping()
