"""Trees as one stream: what an agent tells of one, what it makes of one, and what it refuses."""

from __future__ import annotations

import hashlib
import os
import struct
from typing import Any

import msgspec
import pytest
from agent_driver import WINDOW, Host, Output
from agent_places import Sandbox

ENTRY, CONTENT, DONE, SKIPPED = range(1, 5)
TIME = 1_700_000_000_123_456_789


def record(kind: int, payload: bytes = b"") -> bytes:
    return struct.pack("<IB", len(payload), kind) + payload


def entry(path: str, kind: str = "file", *, mode: int = 0o644, target: bytes | None = None, **fields: Any) -> bytes:
    told = {"path": os.fsencode(path), "type": kind, "mode": mode, "modified_ns": TIME, "size": 0, "target": target}
    return record(ENTRY, msgspec.msgpack.encode(told | fields))


def file(path: str, content: bytes = b"x", **fields: Any) -> bytes:
    pieces = [content[at : at + (256 << 10)] for at in range(0, len(content), 256 << 10)]
    return entry(path, **fields) + b"".join(record(CONTENT, piece) for piece in pieces) + record(DONE)


ROOT = entry("", "directory", mode=0o755)


def unpack(host: Host, path: str, stream: bytes, *, name: bytes | None = None, parents: bool = False) -> Output:
    number = host.open("unpack", path=path.encode(), name=name, parents=parents)
    host.feed(number, stream)
    return host.finish(number)


def pack(host: Host, path: str) -> Output:
    return host.request("pack", path=path.encode(), limit=WINDOW)


def records(stream: bytes) -> list[tuple[int, Any]]:
    found: list[tuple[int, Any]] = []
    while stream:
        length, kind = struct.unpack_from("<IB", stream)
        payload = stream[5 : 5 + length]
        assert len(payload) == length
        found.append((kind, msgspec.msgpack.decode(payload) if kind in (ENTRY, SKIPPED) else payload))
        stream = stream[5 + length :]
    return found


def told(stream: bytes) -> dict[bytes, Any]:
    """Return what a stream tells of each path: its entry with its content, or why it was left out."""
    found: dict[bytes, Any] = {}
    current: dict[str, Any] = {}
    for kind, payload in records(stream):
        if kind == ENTRY:
            current = found[payload["path"]] = payload | {"content": b"", "done": payload["type"] != "file"}
        elif kind == CONTENT:
            current["content"] += payload
        elif kind == DONE:
            current["done"] = True
        else:
            found[payload["path"]] = payload["reason"]
    return found


def names(host: Host, path: str) -> list[bytes]:
    return sorted(one["name"] for one in host.list_folder(path))


# Making a tree


def test_a_tree_is_made_with_its_modes_times_links_and_names(host: Host, folder: str) -> None:
    big = os.urandom(3 * WINDOW + 17)
    stream = ROOT + entry("d", "directory", mode=0o700) + file("d/big", big, mode=0o751)
    stream += entry("d/link", "symlink", target=b"/anywhere") + file("d/\udcff\x1b\n", b"") + file("last", mode=0o400)
    output = unpack(host, f"{folder}/tree", stream)
    assert output.result == {"path": f"{folder}/tree".encode(), "entries": 6, "size": len(big) + 1}
    assert host.read_file(f"{folder}/tree/d/big").stdout == big
    found = {one["name"]: one for one in host.list_folder(f"{folder}/tree/d")}
    assert (found[b"big"]["mode"], found[b"big"]["modified"]) == (0o100751, pytest.approx(TIME / 1e9))
    assert found[b"link"]["target"] == b"/anywhere"
    assert b"\xff\x1b\n" in found
    outer = {one["name"]: one for one in host.list_folder(f"{folder}/tree")}
    assert (outer[b"d"]["mode"], outer[b"d"]["modified"]) == (0o40700, pytest.approx(TIME / 1e9))
    assert outer[b"last"]["mode"] == 0o100400


def test_a_tree_goes_to_its_path_or_under_its_name_into_a_folder(host: Host, folder: str) -> None:
    host.shell("mkdir there; ln -s there way", cwd=folder)
    for path, name, place in (
        ("there", b"new", "there/new"),
        ("way", b"second", "way/second"),
        ("fresh", b"new", "fresh"),
        ("there", None, "there"),
    ):
        output = unpack(host, f"{folder}/{path}", ROOT + file("f"), name=name)
        assert output.result is not None, output.error
        assert output.result["path"] == f"{folder}/{place}".encode()
        assert host.read_file(f"{folder}/{place}/f").stdout == b"x"
    assert unpack(host, f"{folder}/none/x", ROOT).error["code"] == "not_found"
    assert unpack(host, f"{folder}/none/x", ROOT, parents=True).result is not None
    assert unpack(host, "/", file(""), name=b"root-file").result["path"] == b"/root-file"
    host.request("remove", path=b"/root-file", recursive=False)


def test_what_is_there_is_replaced_or_kept_by_its_kind(host: Host, folder: str) -> None:
    host.shell("mkdir -m 711 d; echo old > d/f; echo old > d/kept; ln -s kept d/link", cwd=folder)
    stream = ROOT + entry("d", "directory", mode=0o777) + file("d/f", b"new") + file("d/link", b"new")
    assert unpack(host, folder, stream).result is not None
    assert [host.read_file(f"{folder}/d/{name}").stdout for name in ("f", "kept", "link")] == [b"new", b"old\n", b"new"]
    assert host.request("stat", path=f"{folder}/d".encode()).result["mode"] == 0o40711
    assert host.request("stat", path=f"{folder}/d/link".encode()).result["type"] == "file"
    assert unpack(host, f"{folder}/d", file("")).error["code"] == "is_directory"
    assert unpack(host, folder, ROOT + file("d")).error["code"] == "is_directory"
    assert (
        unpack(host, folder, ROOT + entry("d", "directory") + entry("d/f", "directory")).error["code"]
        == "not_directory"
    )


def test_nothing_goes_through_a_link_in_the_tree(host: Host, folder: str) -> None:
    host.shell("mkdir outside tree; ln -s ../outside tree/way", cwd=folder)
    output = unpack(host, f"{folder}/tree", ROOT + entry("way", "directory") + file("way/f"))
    assert (output.error["code"], names(host, f"{folder}/outside")) == ("not_directory", [])
    own = ROOT + entry("l", "symlink", target=b"../outside") + entry("l", "directory") + file("l/f")
    assert unpack(host, f"{folder}/tree", own).error["code"] == "not_directory"
    assert names(host, f"{folder}/outside") == []


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        ROOT[:-1],
        ROOT + entry("f"),
        entry("a"),
        ROOT + ROOT,
        ROOT + entry("../a"),
        ROOT + entry("/a"),
        ROOT + file("d/f"),
        ROOT + record(CONTENT, b"x"),
        ROOT + record(DONE),
        ROOT + entry("a") + entry("b"),
        ROOT + entry("a", mode=0o4755),
        ROOT + record(SKIPPED, msgspec.msgpack.encode({"path": b"a", "reason": "no"})),
        b"\xff" * 100,
        ROOT + b"".join(entry("/".join("d" * depth), "directory") for depth in range(1, 130)),
    ],
    ids=lambda stream: stream[-20:].hex(),
)
def test_what_is_no_tree_is_refused_and_leaves_no_half_file(host: Host, folder: str, stream: bytes) -> None:
    output = unpack(host, f"{folder}/tree", stream)
    assert output.error["code"] == "invalid_argument"
    found = host.shell(f"find {folder} -name '.skerry-*' -o -type f").stdout
    assert found == b""
    host.ping()


def test_a_copy_that_is_given_up_leaves_what_was_whole_and_no_half_file(host: Host, folder: str) -> None:
    stream = host.open("unpack", path=f"{folder}/tree".encode(), name=None, parents=False)
    host.feed(stream, ROOT + file("whole") + entry("half") + record(CONTENT, b"half"), end=False)
    found = f"ls -A {folder}/tree"  # which does not mind that it is not there yet
    host.wait(lambda: len(host.shell(found).stdout.split()) == 2, "both files")
    host.close(stream)
    host.wait(lambda: host.outputs[stream].error, "the last word")
    assert names(host, f"{folder}/tree") == [b"whole"]


def test_a_full_disk_is_told_with_the_path_and_leaves_no_half_file(guest: Sandbox) -> None:
    output = unpack(guest.host, "/run/tree", ROOT + file("small") + file("big", bytes(65 << 20)))
    assert output.error["code"] == "no_space"
    assert "/run/tree/big" in output.error["message"]
    assert names(guest.host, "/run/tree") == [b"small"]
    guest.host.request("remove", path=b"/run/tree", recursive=True)


# Telling a tree


def test_a_tree_is_told_as_it_is(host: Host, folder: str) -> None:
    script = (
        "mkdir -m 700 d; head -c 3000000 /dev/urandom > d/big; echo x > f; chmod 4751 f; ln -s /etc/passwd l;"
        " mkfifo p; mkdir e; touch -d @1700000000 f; sha256sum < d/big"
    )
    digest = host.shell(script, cwd=folder).stdout.split()[0].decode()
    output = pack(host, folder)
    assert output.result == {}
    found = told(output.stdout)
    assert set(found) == {b"", b"d", b"d/big", b"f", b"l", b"p", b"e"}
    assert hashlib.sha256(found[b"d/big"]["content"]).hexdigest() == digest
    assert (found[b"f"]["mode"], found[b"f"]["modified_ns"]) == (0o751, 1_700_000_000 * 10**9)
    assert (found[b"d"]["mode"], found[b"l"]["target"], found[b"p"]) == (0o700, b"/etc/passwd", "it is a pipe")
    assert next(iter(found)) == b""


def test_a_file_is_told_as_a_tree_of_itself(host: Host, folder: str) -> None:
    host.shell("printf abc > f; ln -s f l", cwd=folder)
    output = pack(host, f"{folder}/l")
    assert output.started == {"pid": None, "size": 3}
    assert [(kind, payload) for kind, payload in records(output.stdout)][1:] == [(CONTENT, b"abc"), (DONE, b"")]
    assert told(output.stdout)[b""]["type"] == "file"


def test_what_is_told_can_be_made_again(host: Host, folder: str) -> None:
    host.shell("mkdir -p a/b; seq 1 5000 > a/b/f; ln -s b a/l; chmod 500 a/b", cwd=folder)
    assert unpack(host, f"{folder}/copy", pack(host, f"{folder}/a").stdout).result is not None
    assert told(pack(host, f"{folder}/copy").stdout) == told(pack(host, f"{folder}/a").stdout)


def test_a_file_that_grows_without_end_is_told_up_to_where_it_was(host: Host, folder: str) -> None:
    growing = host.start("sh", "-c", "while :; do head -c 10000 /dev/zero; sleep 0.01; done >> f", cwd=folder)
    host.wait(lambda: host.request("stat", path=f"{folder}/f".encode()).result, "the file")
    output = pack(host, folder)
    assert output.result == {}
    found = told(output.stdout)[b"f"]
    assert found["done"]
    assert len(found["content"]) <= found["size"]
    host.send("SIGNAL", growing, b"\x09")
    host.finish(growing)


def test_a_tree_that_changes_all_the_time_is_told_to_its_end(host: Host, folder: str) -> None:
    swap = (
        "mkdir d; echo x > d/f; "
        "while :; do mv d e; ln -s /etc d; rm d; mv e d; rm d/f; mkfifo d/f; rm d/f; echo x > d/f; done"
    )
    swapping = host.start("sh", "-c", swap, cwd=folder)
    for _ in range(30):
        output = pack(host, folder)
        assert output.result == {}, output.error
        for path, one in told(output.stdout).items():
            assert path in (b"", b"d", b"e", b"d/f", b"e/f")
            assert isinstance(one, str) or one["type"] != "file" or (one["done"] and one["content"] in (b"", b"x\n"))
    host.send("SIGNAL", swapping, b"\x09")
    host.finish(swapping)


def test_folders_deeper_than_the_bound_are_named(host: Host, folder: str) -> None:
    script = "import os\nfor _ in range(140):\n  os.mkdir('d')\n  os.chdir('d')\n"
    host.run("python3", "-c", script, cwd=folder)
    found = told(pack(host, folder).stdout)
    assert found[b"/".join([b"d"] * 128)] == "it lies deeper than 128 folders"
    assert len(found) == 129


def test_what_nobody_reads_waits_in_the_agents_bound(host: Host, folder: str) -> None:
    host.shell("truncate -s 20M f", cwd=folder)
    host.grants = False
    stream = host.open("pack", path=folder.encode(), limit=WINDOW)
    host.wait(lambda: len(host.outputs[stream].stdout) >= WINDOW // 2, "half a window of it")
    host.ping()
    assert len(host.outputs[stream].stdout) <= WINDOW
    host.close(stream)
    host.wait(lambda: host.outputs[stream].error, "the last word")
    host.grants = True


def test_what_cannot_be_copied_at_all_is_refused(host: Host, folder: str) -> None:
    host.shell("mkfifo p", cwd=folder)
    for path, code in (
        (f"{folder}/none", "not_found"),
        (f"{folder}/p", "not_regular"),
        ("/dev/null", "not_regular"),
        ("relative", "invalid_argument"),
        ("/proc/self/root", "invalid_argument"),
    ):
        assert pack(host, path).error["code"] == code
    for name in (b"", b".", b"..", b"a/b", b"a\0"):
        assert unpack(host, folder, ROOT, name=name).error["code"] == "invalid_argument"
