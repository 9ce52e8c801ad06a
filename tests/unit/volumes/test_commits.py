from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from skerry.model.errors import (
    ResourceExhaustedError,
    SandboxFilesystemNotFoundError,
    SandboxFilesystemNotRegularError,
)
from skerry.model.ids import CommitId
from skerry.model.limits import GIB
from skerry.volumes import blobs as blobs_module
from skerry.volumes import commits as module
from skerry.volumes.commits import Commits

ONE, TWO = CommitId("vc_1"), CommitId("vc_2")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    made = tmp_path / "tree"
    made.mkdir()
    return made


@pytest.fixture
def root(tree: Path) -> Iterator[int]:
    descriptor = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def commits(tmp_path: Path) -> Commits:
    (tmp_path / "volume").mkdir()
    return Commits(tmp_path / "volume")


def blobs(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "volume" / "blobs").glob("??/*"))


def content(commits: Commits, commit: CommitId, path: bytes) -> bytes:
    descriptor, size = commits.open_file(commit, path)
    try:
        return os.pread(descriptor, size + 1, 0)
    finally:
        os.close(descriptor)


def test_a_commit_has_all_that_was_there(tree: Path, root: int, commits: Commits) -> None:
    (tree / "d").mkdir()
    (tree / "d" / "file").write_bytes(b"content")
    (tree / "d" / "file").chmod(0o640)
    (tree / "link").symlink_to("d/file")
    os.mkfifo(tree / "pipe")
    size = commits.make(ONE, root, previous=None, size_bytes=GIB)
    assert (size.files, size.size) == (4, 7)
    found = {one.path: one for one in commits.files(ONE, b"", recursive=True)}
    assert {path: one.type for path, one in found.items()} == {
        "/d": "directory",
        "/d/file": "file",
        "/link": "symlink",
        "/pipe": "fifo",
    }
    assert found["/link"].target == "d/file"
    assert found["/d/file"].permissions == "0640"
    assert [one.path for one in commits.files(ONE, b"d", recursive=False)] == ["/d/file"]
    assert content(commits, ONE, b"d/file") == b"content"
    with pytest.raises(SandboxFilesystemNotRegularError):
        commits.open_file(ONE, b"link")
    with pytest.raises(SandboxFilesystemNotFoundError):
        commits.open_file(ONE, b"other")


def test_contents_are_kept_once_and_those_that_did_not_change_are_not_even_read(
    tree: Path, root: int, commits: Commits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TICK_NS", 0)
    for name in ("a", "b", "c"):
        (tree / name).write_bytes(b"the same" if name != "c" else b"another")
    commits.make(ONE, root, previous=None, size_bytes=GIB)
    assert len(blobs(tmp_path)) == 2
    (tree / "c").write_bytes(b"changed")
    read: list[bytes] = []
    opened = module.open_regular
    monkeypatch.setattr(module, "open_regular", lambda root, path: read.append(path) or opened(root, path))
    commits.make(TWO, root, previous=ONE, size_bytes=GIB)
    assert read == [b"c"]
    assert content(commits, ONE, b"c") == b"another"
    assert content(commits, TWO, b"c") == b"changed"
    assert content(commits, TWO, b"a") == b"the same"


def test_a_change_within_the_clocks_tick_is_seen(tree: Path, root: int, commits: Commits) -> None:
    (tree / "a").write_bytes(b"old")
    commits.make(ONE, root, previous=None, size_bytes=GIB)
    status = (tree / "a").stat()
    (tree / "a").write_bytes(b"new")
    os.utime(tree / "a", ns=(status.st_atime_ns, status.st_mtime_ns))
    commits.make(TWO, root, previous=ONE, size_bytes=GIB)
    assert content(commits, TWO, b"a") == b"new"


def test_holes_cost_nothing_and_stay_holes(tree: Path, root: int, commits: Commits, tmp_path: Path) -> None:
    with (tree / "long").open("wb") as file:
        file.seek(1 << 40)
        file.write(b"end")
    commits.make(ONE, root, previous=None, size_bytes=GIB)  # a test that read a tebibyte would run out of time
    (blob,) = blobs(tmp_path)
    assert blob.stat().st_size == (1 << 40) + 3
    assert blob.stat().st_blocks * 512 < 1 << 20


def test_removing_a_commit_removes_what_no_other_one_has(
    tree: Path, root: int, commits: Commits, tmp_path: Path
) -> None:
    (tree / "both").write_bytes(b"both")
    (tree / "one").write_bytes(b"one")
    commits.make(ONE, root, previous=None, size_bytes=GIB)
    (tree / "one").unlink()
    commits.make(TWO, root, previous=ONE, size_bytes=GIB)
    commits.remove(ONE)
    assert len(blobs(tmp_path)) == 1
    assert content(commits, TWO, b"both") == b"both"


def test_the_contents_of_all_commits_have_a_bound(tree: Path, root: int, commits: Commits, tmp_path: Path) -> None:
    (tree / "a").write_bytes(os.urandom(1 << 20))
    commits.make(ONE, root, previous=None, size_bytes=1 << 20)
    (tree / "a").write_bytes(os.urandom(2 << 20))
    with pytest.raises(ResourceExhaustedError, match="remove some"):
        commits.make(TWO, root, previous=ONE, size_bytes=1 << 20)
    assert len(blobs(tmp_path)) == 1
    assert not list((tmp_path / "volume" / "blobs").glob("*.new"))


def test_what_a_kill_left_of_a_commit_is_removed(tree: Path, root: int, commits: Commits, tmp_path: Path) -> None:
    (tree / "a").write_bytes(b"a")
    commits.make(ONE, root, previous=None, size_bytes=GIB)
    (tree / "a").write_bytes(b"b")
    commits.make(TWO, root, previous=ONE, size_bytes=GIB)  # but no row was ever written
    (tmp_path / "volume" / "blobs" / "0.new").write_bytes(b"half")
    assert commits.sweep({ONE}) == 1
    assert len(blobs(tmp_path)) == 1
    assert content(commits, ONE, b"a") == b"a"
    assert not list((tmp_path / "volume" / "blobs").glob("*.new"))


def test_a_content_that_was_there_already_is_synced_with_its_folder_all_the_same(
    tree: Path, root: int, commits: Commits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between the name of a content and the sync of its folder leaves one that a power failure may take."""
    (tree / "a").write_bytes(b"a")
    commits.make(ONE, root, previous=None, size_bytes=GIB)  # taken for one that was cut off there
    synced: list[Path] = []
    monkeypatch.setattr(blobs_module, "sync", synced.append)
    commits.make(TWO, root, previous=None, size_bytes=GIB)
    (blob,) = blobs(tmp_path)
    assert blob.parent in synced
    assert blob.parent.parent in synced


def test_what_is_appended_or_cut_while_a_file_is_read_never_makes_up_bytes(
    tree: Path, root: int, commits: Commits, monkeypatch: pytest.MonkeyPatch
) -> None:
    was = os.urandom(3 << 20)
    (tree / "a").write_bytes(was)
    read = os.pread

    def while_it_grows(descriptor: int, size: int, at: int) -> bytes:
        with (tree / "a").open("ab") as file:
            file.write(b"x" * 4096)
        return read(descriptor, size, at)

    monkeypatch.setattr(blobs_module.os, "pread", while_it_grows)
    commits.make(ONE, root, previous=None, size_bytes=GIB)
    monkeypatch.setattr(blobs_module.os, "pread", read)
    assert content(commits, ONE, b"a") == was
    assert commits.look(ONE, b"a").size == len(was)
