"""Copies on this machine's side: what is read, and that nothing hostile is written outside its place."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skerry.client.copies import writing
from skerry.client.copies.reading import LocalTree
from skerry.client.copies.report import Report
from skerry.client.copies.writing import LocalPlace, stays_inside
from skerry.model import limits
from skerry.model.errors import SandboxFilesystemError
from skerry.wire.frames import ProtocolViolation
from skerry.wire.trees import DONE, Entry, Record, Skipped, TreeReader


def entry(path: bytes, kind: str = "file", *, mode: int = 0o644, target: bytes | None = None, size: int = 0) -> Entry:
    fields = {"path": path, "type": kind, "mode": mode, "modified_ns": 10**18, "size": size, "target": target}
    return Entry(**fields)  # type: ignore[arg-type]


def folder(path: bytes = b"", mode: int = 0o755) -> Entry:
    return entry(path, "directory", mode=mode)


def link(path: bytes, target: bytes) -> Entry:
    return entry(path, "symlink", target=target)


def file(path: bytes, content: bytes = b"x", mode: int = 0o644) -> list[Record]:
    return [entry(path, mode=mode), memoryview(content), DONE]


def write(target: Path, records: Iterable[Record]) -> Report:
    report = Report()
    place = LocalPlace(target, report)
    try:
        for record in records:
            place.take(record)
        place.finish()
    finally:
        place.close()
    return report


def read(path: Path) -> tuple[list[Record], Report]:
    report, reader = Report(), TreeReader()
    records: list[Record] = []
    for batch in LocalTree(path, report).batches():
        found = reader.feed(bytes(batch))
        records += [memoryview(bytes(one)) if isinstance(one, memoryview) else one for one in found]
    reader.end()
    return records, report


def everything(root: Path) -> dict[str, tuple[int, bytes | str | None]]:
    """Return every path below a root with its mode and its content or target."""
    found: dict[str, tuple[int, bytes | str | None]] = {}
    for base, folders, names in os.walk(os.fsencode(root)):
        for name in [*folders, *names]:
            path = os.path.join(base, name)
            seen = os.lstat(path)
            content: bytes | str | None = None
            if stat.S_ISLNK(seen.st_mode):
                content = os.fsdecode(os.readlink(path))
            elif stat.S_ISREG(seen.st_mode):
                content = Path(os.fsdecode(path)).read_bytes()
            found[os.fsdecode(os.path.relpath(path, os.fsencode(root)))] = (seen.st_mode, content)
    return found


def left_behind(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".skerry-*")]


# Both ways


def test_a_tree_comes_back_as_it_was_read(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep/er").mkdir(parents=True)
    (source / "empty").mkdir(mode=0o700)
    (source / "deep/er/file").write_bytes(os.urandom(700_000))
    (source / "tool").write_text("#!/bin/sh\n")
    (source / "tool").chmod(0o751)
    (source / "read-only").mkdir()
    (source / "read-only/file").write_text("x")
    (source / "read-only").chmod(0o555)
    (source / "deep/link").symlink_to("../tool")
    Path(os.fsdecode(os.fsencode(source) + b"/\xff\x1b[2J")).write_text("y")
    os.utime(source / "tool", ns=(5 * 10**17, 5 * 10**17))
    records, told = read(source)
    report = write(tmp_path / "target", records)
    assert everything(tmp_path / "target") == everything(source)
    assert (tmp_path / "target/tool").stat().st_mtime_ns == 5 * 10**17
    assert report == told == Report(entries=10, size=700_000 + 10 + 1 + 1)


def test_bits_that_give_the_owners_rights_do_not_travel(tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("x")
    (tmp_path / "tool").chmod(0o6755)
    records, _ = read(tmp_path / "tool")
    assert isinstance(records[0], Entry)
    assert records[0].mode == 0o755


# Reading


def test_what_is_no_file_folder_or_link_is_left_out_and_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        records, report = read(tmp_path)
    assert [one.path for one in records if isinstance(one, Entry)] == [b""]
    assert sorted(report.named) == [(name, "it is a pipe, a socket or a device") for name in ("pipe", "socket")]
    with pytest.raises(SandboxFilesystemError, match=r"2 of the tree's entries were not copied: .*pipe"):
        report.check()


def test_a_pipe_named_itself_is_refused_without_waiting_for_its_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="neither a file nor a folder"):
        LocalTree(tmp_path / "pipe", Report())


def test_a_file_that_grows_while_it_is_read_ends_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(bytes(600_000))
    report = Report()
    with (tmp_path / "log").open("ab") as log:
        size = 0
        for batch in LocalTree(tmp_path / "log", report).batches():
            log.write(bytes(600_000))
            log.flush()
            size += len(batch)
    assert report.size == 600_000
    assert size < 601_000


def test_a_link_to_what_is_copied_is_followed_and_links_in_it_are_not(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/out").symlink_to("/etc/passwd")
    (tmp_path / "way").symlink_to("real")
    records, _ = read(tmp_path / "way")
    assert [(one.type, one.target) for one in records if isinstance(one, Entry)] == [
        ("directory", None),
        ("symlink", b"/etc/passwd"),
    ]


def test_a_tree_deeper_than_the_bound_is_cut_and_named(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(130):
        deep /= "d"
        deep.mkdir()
    records, report = read(tmp_path)
    assert len(records) == 128
    assert report.named == [("/".join("d" * 128), "it lies deeper than 128 folders")]


# Writing what is hostile


@pytest.mark.parametrize(
    "records",
    [
        [],
        [entry(b"a")],
        [folder(), folder()],
        [folder(), entry(b"a"), entry(b"b")],
        [folder(), entry(b"a/b")],
        [folder(), *file(b"a"), *file(b"a/b")],
        [memoryview(b"x")],
        [folder(), memoryview(b"x")],
        [folder(), DONE],
        [*file(b""), *file(b"")],
        [folder(), *[folder(b"/".join([b"d"] * depth)) for depth in range(1, 130)]],
    ],
    ids=str,
)
def test_records_that_are_no_tree_end_the_copy(tmp_path: Path, records: list[Record]) -> None:
    with pytest.raises(SandboxFilesystemError, match="no tree"):
        write(tmp_path / "target", records)
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize(
    "target", [b"/etc/passwd", b"..", b"../x", b"a/../../x", b"a/..", b"../../../../etc", b"./../x"]
)
def test_a_link_that_leads_out_is_not_made(tmp_path: Path, target: bytes) -> None:
    report = write(tmp_path / "target", [folder(), link(b"out", target)])
    assert everything(tmp_path / "target") == {}
    assert report.named == [("out", "it is a link that leads out of the tree")]


NAMES = st.sampled_from([b"a", b"b", b"d", b"e"])
TARGETS = st.lists(st.sampled_from([b"a", b"b", b"d", b"e", b"..", b"."]), min_size=1, max_size=6).map(b"/".join)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.sampled_from([b"", b"d/", b"d/e/"]), NAMES, TARGETS), max_size=6))
def test_no_links_lead_out_together_either(
    tmp_path_factory: pytest.TempPathFactory, links: list[tuple[bytes, bytes, bytes]]
) -> None:
    root = tmp_path_factory.mktemp("links") / "root"
    made = [folder(), *[link(name, target) for above, name, target in links if not above and name != b"d"]]
    made += [folder(b"d"), *[link(above + name, to) for above, name, to in links if above == b"d/" and name != b"e"]]
    made += [folder(b"d/e"), *[link(above + name, target) for above, name, target in links if above == b"d/e/"]]
    write(root, made)
    for path in root.rglob("*"):
        if path.is_symlink():
            led = Path(os.path.realpath(path))
            assert led == root or root in led.parents, (path, os.readlink(path), led)


def test_the_rule_for_links_keeps_those_that_stay_inside() -> None:
    inside = [(b"l", b"a/b"), (b"d/l", b"../a"), (b"d/e/l", b"../../a/b"), (b"l", b".")]
    assert all(stays_inside(path, target) for path, target in inside)
    outside = [(b"l", b"../a"), (b"d/l", b"../../a"), (b"d/l", b"x/../../a"), (b"l", b"/a"), (b"l", b"")]
    assert not any(stays_inside(path, target) for path, target in outside)


def test_a_link_that_is_there_already_is_not_written_through(tmp_path: Path) -> None:
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()
    (outside / "file").write_text("kept")
    target.mkdir()
    (target / "way").symlink_to(outside)
    (target / "file").symlink_to(outside / "file")
    report = write(target, [folder(), folder(b"way"), *file(b"way/file"), folder(b"way/d"), *file(b"file", b"new")])
    assert everything(outside) == {"file": (0o100644, b"kept")}
    assert report.named == [("way", "Not a directory")] or report.named == [("way", "a link is in the way")]
    assert not (target / "file").is_symlink()
    assert (target / "file").read_text() == "new"


def test_a_folder_that_is_swapped_for_a_link_in_the_middle_is_not_followed(tmp_path: Path) -> None:
    outside, target, report = tmp_path / "outside", tmp_path / "target", Report()
    outside.mkdir()
    place = LocalPlace(target, report)
    for record in [folder(), folder(b"d"), *file(b"d/one")]:
        place.take(record)
    (target / "d").rename(target / "moved")
    (target / "d").symlink_to(outside)
    for record in [*file(b"d/two"), folder(b"d/e"), *file(b"d/e/three")]:
        place.take(record)
    place.finish()
    place.close()
    assert everything(outside) == {}
    assert {path.name for path in (target / "moved").iterdir()} == {"one", "two", "e"}


def test_what_stands_in_the_way_of_one_entry_costs_that_one_alone(tmp_path: Path) -> None:
    target = tmp_path / "target"
    (target / "file").mkdir(parents=True)
    (target / "folder").write_text("kept")
    long = b"x" * 256
    report = write(
        target, [folder(), *file(b"file"), folder(b"folder"), *file(b"folder/a"), *file(long), *file(b"good", b"new")]
    )
    assert [path for path, _ in report.named] == ["file", "folder", long.decode()]
    assert (target / "good").read_text() == "new"
    assert (target / "folder").read_text() == "kept"
    assert left_behind(tmp_path) == []


def test_a_file_that_could_not_be_read_whole_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "target"
    write(target, [folder(), *file(b"a", b"old")])
    half: list[Record] = [folder(), entry(b"a"), memoryview(b"half"), Skipped(path=b"a", reason="Input/output error")]
    report = write(target, [*half, *file(b"b")])
    assert report.named == [("a", "Input/output error")]
    assert ((target / "a").read_text(), (target / "b").read_text()) == ("old", "x")
    assert left_behind(tmp_path) == []


def test_a_copy_that_is_given_up_leaves_no_half_file(tmp_path: Path) -> None:
    place = LocalPlace(tmp_path / "target", Report())
    for record in [folder(), entry(b"a"), memoryview(b"half")]:
        place.take(record)
    place.close()
    assert everything(tmp_path / "target") == {}


def test_a_full_disk_ends_the_copy_with_the_place_and_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_fd: int, _content: memoryview) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writing.os, "write", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*target/d/a'"):
        write(tmp_path / "target", [folder(), folder(b"d"), *file(b"d/a")])
    assert left_behind(tmp_path) == []


def test_a_tree_without_end_ends_at_the_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "COPY_ENTRIES", 3)
    with pytest.raises(SandboxFilesystemError, match="more than 3 entries"):
        write(tmp_path / "entries", [folder(), *(one for name in (b"a", b"b", b"c") for one in file(name))])
    monkeypatch.setattr(limits, "COPY_BYTES", 5)
    with pytest.raises(SandboxFilesystemError, match="more than 5 bytes"):
        write(tmp_path / "bytes", [folder(), *file(b"a", b"xxx"), *file(b"b", b"xxx")])
    monkeypatch.setattr(limits, "FILE_READ_BYTES", 2)
    report = write(tmp_path / "file", [folder(), *file(b"a", b"xxx"), *file(b"b", b"xx")])
    assert report.named == [("a", "it has more than 2 bytes")]
    assert left_behind(tmp_path) == []


def test_of_a_flood_of_things_left_out_the_first_are_named_and_the_others_counted(tmp_path: Path) -> None:
    report = write(
        tmp_path / "target", [folder(), *(Skipped(path=b"\x1b[2J%d" % number, reason="no") for number in range(5000))]
    )
    lines = report.lines()
    assert (report.left_out, len(lines), lines[-1]) == (5000, 101, "not copied: 4,900 more")
    assert not any("\x1b" in line for line in lines)


def test_any_records_end_in_a_report_or_an_error_and_stay_inside(tmp_path_factory: pytest.TempPathFactory) -> None:
    paths = st.lists(st.sampled_from([b"a", b"b"]), max_size=3).map(b"/".join)
    records = st.one_of(
        paths.map(folder),
        paths.map(entry),
        st.builds(link, paths, TARGETS),
        st.just(DONE),
        st.just(memoryview(b"x")),
        paths.map(lambda path: Skipped(path=path, reason="no")),
    )

    @settings(max_examples=300, deadline=None)
    @given(st.lists(records, max_size=12))
    def run(found: list[Record]) -> None:
        base = tmp_path_factory.mktemp("any")
        with contextlib.suppress(SandboxFilesystemError, ProtocolViolation):
            write(base / "root", [folder(), *found])
        assert {path.name for path in base.iterdir()} == {"root"}
        assert left_behind(base) == []

    run()
