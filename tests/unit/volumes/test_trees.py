from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from skerry.model.errors import InvalidError
from skerry.volumes import trees


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def put(root: int, path: bytes, content: bytes) -> int:
    draft = trees.Draft(root, path)
    try:
        draft.write(content)
        return draft.keep()
    finally:
        draft.close()


def paths(root: int, path: bytes = b"") -> list[bytes]:
    return sorted(found.path for found in trees.walk(root, path, recursive=True))


def test_a_list_has_every_kind_of_file_and_follows_nothing(tmp_path: Path, root: int) -> None:
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "d" / "link").symlink_to("/")
    os.mkfifo(tmp_path / "d" / "pipe")
    (tmp_path / os.fsdecode(b"\xff\x1b")).write_text("x")
    found = {one.path: one.entry() for one in trees.walk(root, recursive=True)}
    kinds = {path: entry.type for path, entry in found.items()}
    assert kinds == {
        b"d": "directory",
        b"d/e": "directory",
        b"d/link": "symlink",
        b"d/pipe": "fifo",
        b"\xff\x1b": "file",
    }
    assert found[b"d/link"].target == "/"
    assert found[b"\xff\x1b"].path == "/\udcff\x1b"


def test_a_file_that_is_put_shows_only_when_it_is_whole(tmp_path: Path, root: int) -> None:
    draft = trees.Draft(root, b"a/b")
    draft.write(b"half")
    assert paths(root) == [b"a"]
    draft.close()
    assert put(root, b"a/b", b"whole") == 5
    assert (tmp_path / "a" / "b").read_bytes() == b"whole"
    assert put(root, b"a/b", b"") == 0
    assert paths(root) == [b"a", b"a/b"]


def test_a_file_is_put_in_place_of_a_link_and_never_through_one(tmp_path: Path, root: int) -> None:
    outside = tmp_path.with_name("outside")
    outside.write_text("theirs")
    (tmp_path / "link").symlink_to(outside)
    (tmp_path / "folder").symlink_to(outside.parent)
    put(root, b"link", b"mine")
    assert outside.read_text() == "theirs"
    assert not (tmp_path / "link").is_symlink()
    with pytest.raises(OSError, match=r"."):
        put(root, b"folder/outside", b"mine")
    assert outside.read_text() == "theirs"


def test_a_tree_is_removed_whole_and_what_its_links_lead_to_stays(tmp_path: Path, root: int) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    (tmp_path / "tree" / "deep" / "er").mkdir(parents=True)
    (tmp_path / "tree" / "deep" / "file").write_text("x")
    (tmp_path / "tree" / "link").symlink_to("../kept")
    with pytest.raises(OSError, match="not empty"):
        trees.remove(root, b"tree", recursive=False)
    trees.remove(root, b"tree", recursive=True)
    assert paths(root) == [b"kept", b"kept/file"]
    trees.remove(root, b"kept/file", recursive=False)
    with pytest.raises(InvalidError, match="root"):
        trees.remove(root, b"", recursive=True)


def test_a_tree_too_deep_for_a_path_is_told_and_never_cut_in_silence(tmp_path: Path, root: int) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("x" * 250, dir_fd=here)
        inner = os.open("x" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    with pytest.raises(InvalidError, match="longer than"):
        paths(root)
