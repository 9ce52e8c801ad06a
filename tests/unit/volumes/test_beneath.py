from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from skerry.model.errors import InvalidError, SandboxFilesystemIsADirectoryError, SandboxFilesystemNotRegularError
from skerry.volumes.beneath import open_beneath, open_regular, parse


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A volume's root, with a secret beside it."""
    (tmp_path / "secret").write_text("secret")
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "file").write_text("mine")
    return root


@pytest.fixture
def root(tree: Path) -> Iterator[int]:
    descriptor = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def read(root: int, path: bytes) -> bytes:
    descriptor, status = open_regular(root, path)
    try:
        return os.read(descriptor, status.st_size)
    finally:
        os.close(descriptor)


def test_a_file_below_the_root_is_read(root: int) -> None:
    assert read(root, b"sub/file") == b"mine"


@pytest.mark.parametrize("target", ["../secret", "sub/file", ".", "/"])
def test_no_link_is_followed_wherever_it_leads(tree: Path, root: int, target: str) -> None:
    (tree / "link").symlink_to(target)
    with pytest.raises(SandboxFilesystemNotRegularError):
        open_regular(root, b"link")
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        open_beneath(root, b"link/x", os.O_PATH)


@pytest.mark.parametrize("path", [b"../secret", b"sub/../../secret", b"/etc/passwd"])
def test_no_path_leads_out_of_the_root(root: int, path: bytes) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EXDEV)):
        open_beneath(root, path, os.O_PATH)


def test_pipes_sockets_and_devices_are_never_opened(tree: Path, root: int) -> None:
    os.mkfifo(tree / "pipe")  # an open for reading would wait for a writer
    names = [b"pipe"]
    if os.geteuid() == 0:
        os.mknod(tree / "null", 0o600 | 0o020000, os.makedev(1, 3))
        names.append(b"null")
    for name in names:
        with pytest.raises(SandboxFilesystemNotRegularError, match="no regular file"):
            open_regular(root, name)
    with pytest.raises(SandboxFilesystemIsADirectoryError):
        open_regular(root, b"sub")


def test_a_race_of_renames_never_leads_out(tree: Path, root: int) -> None:
    """A guest swaps a folder for a link to the folder above, again and again, while the host reads through it."""
    (tree / "out").symlink_to("..")
    (tree / "sub" / "secret").write_text("mine")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            os.rename(tree / "sub", tree / "spare")
            os.rename(tree / "out", tree / "sub")
            os.rename(tree / "sub", tree / "out")
            os.rename(tree / "spare", tree / "sub")

    guest = threading.Thread(target=swap)
    guest.start()
    found, plain = [], []
    try:
        for _ in range(3000):
            try:
                found.append(read(root, b"sub/secret"))
            except OSError:
                continue
            finally:
                try:
                    plain.append((tree / "sub" / "secret").read_bytes())  # as a program reads that follows links
                except OSError:
                    plain.append(b"")
    finally:
        stop.set()
        guest.join()
    assert set(found) == {b"mine"}
    assert b"secret" in plain, "the race was never won by who is not protected, so it proves nothing"


@pytest.mark.parametrize(
    ("path", "clean"), [("/", b""), ("", b""), ("/a//b/./c/", b"a/b/c"), ("a", b"a"), ("/\udcff", b"\xff")]
)
def test_a_path_starts_at_the_root(path: str, clean: bytes) -> None:
    assert parse(path) == clean


@pytest.mark.parametrize("path", ["..", "/a/../b", "/a\0b", "/" + "x/" * 3000])
def test_a_path_that_cannot_be_one_is_refused(path: str) -> None:
    with pytest.raises(InvalidError):
        parse(path)
