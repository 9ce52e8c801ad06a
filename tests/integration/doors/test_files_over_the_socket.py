"""Files over the WebSocket of the real door."""

from __future__ import annotations

import os

import pytest
from doorway import Door

from skerry.testing.clock import settle
from skerry.wire.frames import MAX_CONTROL, SENT_DATA, STDOUT, FrameType, encode_frame
from skerry.wire.native import STDIN_WINDOW, Change, decode
from skerry.wire.records import RecordReader

MIB = 1 << 20


async def written(door: Door, sandbox: str, path: bytes, content: bytes, **fields: object) -> dict[str, object]:
    """Write a file as a client does, and return the RESULT."""
    async with door.connect() as client:
        stream = await client.open("write", sandbox=sandbox, path=path, **fields)
        limit = (await client.expect(FrameType.STARTED, stream)).map["stdin_limit"]
        sent = 0
        while sent < len(content):
            part = content[sent : min(limit, sent + SENT_DATA)]
            if part:
                await client.data(stream, sent, part)
                sent += len(part)
            else:
                _, limit = (await client.expect(FrameType.CREDIT, stream)).credit
        await client.end(stream, sent)
        return (await client.next_until(FrameType.RESULT))[-1].map


async def test_a_file_larger_than_the_window_comes_back_as_it_was_written(door: Door) -> None:
    sandbox = await door.sandbox()
    content = os.urandom(3 * STDIN_WINDOW + 17)
    assert await written(door, sandbox, b"/tmp/new/file", content, mode=0o640) == {"size": len(content)}
    async with door.connect() as client:
        stream = await client.open("read", sandbox=sandbox, path=b"/tmp/new/file", limit=MIB)
        assert (await client.expect(FrameType.STARTED, stream)).map == {"size": len(content)}
        received = bytearray()
        while (frame := await client.next()).type is FrameType.DATA:
            assert frame.offset == len(received)
            received += frame.content
            await client.credit(stream, STDOUT, len(received), len(received) + MIB)
        assert (frame.type, frame.offset) == (FrameType.END, len(content))
        assert (await client.expect(FrameType.RESULT, stream)).map == {}
        assert received == content
        stream = await client.open("stat", sandbox=sandbox, path=b"/tmp/new/file")
        assert (await client.expect(FrameType.RESULT, stream)).map["mode"] & 0o7777 == 0o640


async def test_an_empty_file_can_be_written_and_read(door: Door) -> None:
    sandbox = await door.sandbox()
    assert await written(door, sandbox, b"/tmp/empty", b"") == {"size": 0}
    async with door.connect() as client:
        stream = await client.open("read", sandbox=sandbox, path=b"/tmp/empty", limit=0)
        frames = await client.next_until(FrameType.RESULT)
    assert [frame.type for frame in frames] == [FrameType.STARTED, FrameType.END, FrameType.RESULT]
    assert frames[0].stream == stream


async def test_a_part_of_a_file_is_read_with_offsets_from_zero(door: Door) -> None:
    sandbox = await door.sandbox()
    await written(door, sandbox, b"/tmp/file", b"0123456789")
    async with door.connect() as client:
        await client.open("read", sandbox=sandbox, path=b"/tmp/file", offset=3, length=4, limit=100)
        frames = await client.next_until(FrameType.RESULT)
    assert (frames[1].offset, frames[1].content) == (0, b"3456")


async def test_a_write_that_is_closed_before_its_end_leaves_the_old_file(door: Door) -> None:
    sandbox = await door.sandbox()
    await written(door, sandbox, b"/tmp/file", b"old")
    async with door.connect() as client:
        stream = await client.open("write", sandbox=sandbox, path=b"/tmp/file")
        await client.expect(FrameType.STARTED, stream)
        await client.data(stream, 0, b"new")
        await client.send(encode_frame(FrameType.CLOSE, stream))
        await client.send(encode_frame(FrameType.PING))
        await client.next_until(FrameType.PONG)
        await settle()
    assert door.node.files(sandbox).contents["/tmp/file"] == b"old"


async def test_a_long_directory_comes_in_results_that_fit_their_frames(door: Door) -> None:
    sandbox = await door.sandbox()
    files = door.node.files(sandbox)
    names = {f"{number:0>200}" for number in range(1000)}
    files.contents.update({f"/tmp/{name}": b"" for name in names})
    async with door.connect() as client:
        await client.open("list", sandbox=sandbox, path=b"/tmp")
        found: list[bytes] = []
        while True:
            frame = await client.expect(FrameType.RESULT)
            assert len(frame.payload) <= MAX_CONTROL
            found += [entry["name"] for entry in frame.map["entries"]]
            if not frame.map["more"]:
                break
    assert sorted(found) == sorted(name.encode() for name in names)


async def test_an_empty_directory_is_one_result(door: Door) -> None:
    sandbox = await door.sandbox()
    async with door.connect() as client:
        await client.open("list", sandbox=sandbox, path=b"/tmp")
        assert (await client.expect(FrameType.RESULT)).map == {"entries": [], "more": False}


async def test_names_that_are_no_utf_8_go_both_ways(door: Door) -> None:
    sandbox = await door.sandbox()
    await written(door, sandbox, b"/tmp/\xff\xfe", b"x")
    async with door.connect() as client:
        await client.open("list", sandbox=sandbox, path=b"/tmp")
        (entry,) = (await client.expect(FrameType.RESULT)).map["entries"]
        assert (entry["name"], entry["path"]) == (b"\xff\xfe", b"/tmp/\xff\xfe")
        await client.open("remove", sandbox=sandbox, path=entry["path"])
        assert (await client.expect(FrameType.RESULT)).map == {}
    assert door.node.files(sandbox).contents == {}


@pytest.mark.parametrize(
    ("op", "fields", "code", "kind"),
    [
        ("read", {"path": b"/tmp"}, "is_directory", "SandboxFilesystemIsADirectoryError"),
        ("read", {"path": b"/none"}, "file_not_found", "SandboxFilesystemNotFoundError"),
        ("read", {"path": b"none"}, "invalid_argument", "InvalidError"),
        ("stat", {"path": b"/a\0b"}, "invalid_argument", "InvalidError"),
        ("stat", {"path": b"/" + b"x" * 5000}, "invalid_argument", "InvalidError"),
        ("list", {"path": b"/none"}, "file_not_found", "SandboxFilesystemNotFoundError"),
        ("mkdir", {"path": b"/"}, "invalid_argument", "InvalidError"),
        ("mkdir", {"path": b"/tmp", "parents": False}, "path_exists", "SandboxFilesystemPathAlreadyExistsError"),
        ("remove", {"path": b"/none"}, "file_not_found", "SandboxFilesystemNotFoundError"),
        ("write", {"path": b"/tmp"}, "is_directory", "SandboxFilesystemIsADirectoryError"),
        ("write", {"path": b"/none/x", "parents": False}, "file_not_found", "SandboxFilesystemNotFoundError"),
        ("write", {"sandbox": "sb_none", "path": b"/x"}, "not_found", "NotFoundError"),
    ],
)
async def test_each_wrong_path_has_its_error_and_no_started(
    door: Door, op: str, fields: dict[str, object], code: str, kind: str
) -> None:
    sandbox = await door.sandbox()
    async with door.connect() as client:
        stream = await client.open(op, **{"sandbox": sandbox, **fields})
        error = (await client.expect(FrameType.ERROR, stream)).map
    assert (error["code"], error["kind"]) == (code, kind)


async def test_a_folder_is_made_and_removed_with_all_that_is_in_it(door: Door) -> None:
    sandbox = await door.sandbox()
    async with door.connect() as client:
        await client.open("mkdir", sandbox=sandbox, path=b"/tmp/a/b")
        await client.expect(FrameType.RESULT)
        await client.open("remove", sandbox=sandbox, path=b"/tmp/a")
        assert (await client.expect(FrameType.ERROR)).map["code"] == "not_empty"
        await client.open("remove", sandbox=sandbox, path=b"/tmp/a", recursive=True)
        await client.expect(FrameType.RESULT)


async def test_a_file_is_renamed(door: Door) -> None:
    sandbox = await door.sandbox()
    await written(door, sandbox, b"/tmp/a", b"x")
    async with door.connect() as client:
        await client.open("rename", sandbox=sandbox, path=b"/tmp/a", target=b"/tmp/b")
        assert (await client.expect(FrameType.RESULT)).map == {}
        await client.open("rename", sandbox=sandbox, path=b"/tmp/b", target=b"/")
        assert (await client.expect(FrameType.ERROR)).map["code"] == "invalid_argument"
    assert set(door.node.files(sandbox).contents) == {"/tmp/b"}


async def test_changes_come_as_records_within_the_credit_until_the_timeout(door: Door) -> None:
    sandbox = await door.sandbox()
    files = door.node.files(sandbox)
    async with door.connect() as client:
        stream = await client.open("watch", sandbox=sandbox, path=b"/tmp", kinds=["create"], timeout_s=5.0, limit=10)
        assert (await client.expect(FrameType.STARTED, stream)).map == {}
        await files.make_directory("/tmp/\udcff")
        frame = await client.expect(FrameType.DATA, stream)
        assert len(frame.content) == 10
        await client.credit(stream, STDOUT, 10, 10_000)
        content = frame.content + (await client.expect(FrameType.DATA, stream)).content
        reader = RecordReader(lambda payload: decode(payload, Change))
        assert reader.feed(content) == [Change(kind="create", paths=(b"/tmp/\xff",))]
        await door.clock.advance(5.0)
        frames = await client.next_until(FrameType.RESULT)
    assert [frame.type for frame in frames] == [FrameType.END, FrameType.RESULT]


@pytest.mark.parametrize("fields", [{"kinds": ["bored"]}, {"timeout_s": 0.0}, {"timeout_s": 1e9}, {"path": b"tmp"}])
async def test_a_watch_that_cannot_be_is_refused(door: Door, fields: dict[str, object]) -> None:
    sandbox = await door.sandbox()
    async with door.connect() as client:
        await client.open("watch", **{"sandbox": sandbox, "path": b"/tmp", **fields})
        assert (await client.expect(FrameType.ERROR)).map["code"] == "invalid_argument"


async def test_a_watch_that_is_closed_is_let_go_of(door: Door) -> None:
    sandbox = await door.sandbox()
    files = door.node.files(sandbox)
    async with door.connect() as client:
        stream = await client.open("watch", sandbox=sandbox, path=b"/tmp")
        await client.expect(FrameType.STARTED, stream)
        await client.send(encode_frame(FrameType.CLOSE, stream))
        await client.send(encode_frame(FrameType.PING))
        await client.next_until(FrameType.PONG)
        await settle()
    assert [watching.over for watching in files.watchings] == [True]


async def test_a_tree_goes_out_and_in_as_one_stream(door: Door) -> None:
    sandbox = await door.sandbox()
    await written(door, sandbox, b"/tmp/a/file", b"x" * 1000)
    async with door.connect() as client:
        stream = await client.open("pack", sandbox=sandbox, path=b"/tmp/a", limit=MIB)
        frames = await client.next_until(FrameType.RESULT)
        assert frames[0].type is FrameType.STARTED
        content = b"".join(frame.content for frame in frames if frame.type is FrameType.DATA)
        stream = await client.open("unpack", sandbox=sandbox, path=b"/tmp", name=b"copy")
        await client.expect(FrameType.STARTED, stream)
        await client.data(stream, 0, content)
        await client.end(stream, len(content))
        told = (await client.next_until(FrameType.RESULT))[-1].map
        assert told == {"path": b"/tmp/copy", "entries": 2, "size": 1000}
        await client.open("unpack", sandbox=sandbox, path=b"/tmp", name=b"../up")
        assert (await client.expect(FrameType.ERROR)).map["code"] == "invalid_argument"
    assert door.node.files(sandbox).contents["/tmp/copy/file"] == b"x" * 1000
