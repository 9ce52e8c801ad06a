"""What an EROFS file holds, with the real mkfs.erofs on folders of a few files."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from skerry.images import erofs
from skerry.model.errors import ImageBuildError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "name").write_text("value\n")
    (root / "bin").mkdir()
    (root / "bin" / "tool").write_bytes(bytes(range(256)) * 64)
    (root / "bin" / "tool").chmod(0o4755)
    (root / "bin" / "link").symlink_to("tool")
    for path in root.rglob("*"):
        os.utime(path, (1_000_000, 1_000_000), follow_symlinks=False)
    return root


def unpacked(image: Path, into: Path) -> Path:
    subprocess.run(["fsck.erofs", f"--extract={into}", str(image)], check=True, capture_output=True)
    return into


def test_a_packed_folder_comes_back_the_same(tree: Path, tmp_path: Path) -> None:
    erofs.pack(tree, tmp_path / "image")
    back = unpacked(tmp_path / "image", tmp_path / "back")
    assert (back / "etc" / "name").read_text() == "value\n"
    assert (back / "bin" / "tool").read_bytes() == (tree / "bin" / "tool").read_bytes()
    assert (back / "bin" / "link").readlink() == Path("tool")
    assert (back / "bin" / "tool").stat().st_mtime == 1_000_000


def test_the_same_tree_gives_the_same_bytes(tree: Path, tmp_path: Path) -> None:
    erofs.pack(tree, tmp_path / "first")
    erofs.pack(tree, tmp_path / "second")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_newer_files_are_dated_back_and_older_ones_are_not(tree: Path, tmp_path: Path) -> None:
    os.utime(tree / "etc" / "name", (3_000_000, 3_000_000))
    erofs.pack(tree, tmp_path / "image", timestamp=2_000_000)
    back = unpacked(tmp_path / "image", tmp_path / "back")
    assert (back / "etc" / "name").stat().st_mtime == 2_000_000
    assert (back / "bin" / "tool").stat().st_mtime == 1_000_000


def test_attributes_stay_out_of_the_image_and_are_told_beside_it(tree: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    erofs.pack(tree, plain)
    os.setxattr(tree / "bin" / "tool", "user.note", b"\x00\xff")
    os.setxattr(tree, "user.top", b"t")
    (tree / ".hidden").write_text("")
    os.setxattr(tree / ".hidden", "user.dot", b"d")
    os.utime(tree, (1_000_000, 1_000_000))
    image = tmp_path / "image"
    erofs.pack(tree, image)
    assert erofs.image_xattrs(plain) == []
    assert erofs.image_xattrs(image) == [
        erofs.Xattr(path="/", name="user.top", value=b"t"),
        erofs.Xattr(path="/.hidden", name="user.dot", value=b"d"),
        erofs.Xattr(path="/bin/tool", name="user.note", value=b"\x00\xff"),
    ]
    assert b"note" not in image.read_bytes()
    json.loads((tmp_path / "image.xattrs.json").read_text())


def test_a_new_image_does_not_inherit_its_predecessors_attributes(tree: Path, tmp_path: Path) -> None:
    os.setxattr(tree / "bin" / "tool", "user.note", b"n")
    erofs.pack(tree, tmp_path / "image")
    os.removexattr(tree / "bin" / "tool", "user.note")
    erofs.pack(tree, tmp_path / "image")
    assert erofs.image_xattrs(tmp_path / "image") == []


def test_a_failure_leaves_the_old_image_and_nothing_else(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "images" / "image"
    erofs.pack(tree, image)
    before = image.read_bytes()
    tool = tmp_path / "bin" / "mkfs.erofs"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho 'No space left on device' >&2\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=":")
    with pytest.raises(ImageBuildError, match="No space left on device"):
        erofs.pack(tree, image)
    assert image.read_bytes() == before
    assert os.listdir(image.parent) == ["image"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageBuildError, match="no-such-root"):
        erofs.pack(tmp_path / "no-such-root", tmp_path / "image")


def test_a_missing_mkfs_is_named_with_its_package(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImageBuildError, match="apt-get install erofs-utils"):
        erofs.pack(tree, tmp_path / "image")


def test_the_agents_images_hold_the_agent_and_the_folders_of_mounts(tmp_path: Path) -> None:
    agent = tmp_path / "agent"
    agent.write_bytes(b"\x7fELF agent")
    mask = os.umask(0o077)  # as the server has it
    try:
        erofs.pack_agent(agent, tmp_path / "member", tmp_path / "image")
    finally:
        os.umask(mask)
    member = unpacked(tmp_path / "member", tmp_path / "m")
    assert sorted(os.listdir(member)) == sorted(["skerry-agent", *erofs.MEMBER_FOLDERS])
    assert (member / "skerry-agent").read_bytes() == b"\x7fELF agent"
    assert (member / "skerry-agent").stat().st_mode & 0o7777 == 0o755
    assert {(member / name).stat().st_mode & 0o7777 for name in erofs.MEMBER_FOLDERS} == {0o755}
    assert sorted(os.listdir(unpacked(tmp_path / "image", tmp_path / "i"))) == ["agent", erofs.TRUST_FOLDER]


@pytest.mark.parametrize("name", ["../out", "/etc/passwd", "a/../../out", ""])
def test_a_name_that_leads_out_of_the_image_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ImageBuildError, match="cannot pack"):
        erofs.pack_tree({name: erofs.File(content=b"")}, tmp_path / "image")


def test_removing_an_image_twice_is_the_same_as_once(tree: Path, tmp_path: Path) -> None:
    os.setxattr(tree, "user.top", b"t")
    erofs.pack(tree, tmp_path / "image")
    erofs.remove(tmp_path / "image")
    erofs.remove(tmp_path / "image")
    assert sorted(os.listdir(tmp_path)) == ["root"]
