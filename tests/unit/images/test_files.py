"""The folder of image files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from skerry.images.erofs import xattrs_path
from skerry.images.files import ImageFolder
from skerry.model.ids import ImageId

ONE, TWO = ImageId("im_1"), ImageId("im_2")


@pytest.fixture
def folder(tmp_path: Path) -> ImageFolder:
    made = ImageFolder(tmp_path / "images")
    made.open()
    return made


def kept(folder: ImageFolder, image: ImageId, *, attributes: bool = False) -> Path:
    with folder.draft() as draft:
        draft.write_bytes(b"image")
        if attributes:
            xattrs_path(draft).write_text("[]")
        assert folder.keep(draft, image) == 5
    return folder.path(image)


def names(tmp_path: Path) -> list[str]:
    return sorted(str(path.relative_to(tmp_path / "images")) for path in (tmp_path / "images").rglob("*"))


def test_a_draft_that_is_not_kept_leaves_nothing(folder: ImageFolder, tmp_path: Path) -> None:
    with folder.draft() as draft:
        draft.write_bytes(b"half")
        xattrs_path(draft).write_text("[]")
    assert names(tmp_path) == ["drafts"]


def test_an_image_keeps_the_attributes_beside_it(folder: ImageFolder, tmp_path: Path) -> None:
    kept(folder, ONE, attributes=True)
    kept(folder, TWO)
    assert names(tmp_path) == ["drafts", "im_1.erofs", "im_1.erofs.xattrs.json", "im_2.erofs"]


def test_a_shared_file_takes_no_space_of_its_own(folder: ImageFolder) -> None:
    parent = kept(folder, ONE, attributes=True)
    assert folder.share(ONE, TWO) == 5
    assert folder.path(TWO).samefile(parent)
    assert xattrs_path(folder.path(TWO)).samefile(xattrs_path(parent))


def test_what_an_earlier_server_left_is_swept(folder: ImageFolder, tmp_path: Path) -> None:
    kept(folder, ONE, attributes=True)
    kept(folder, TWO, attributes=True)
    (tmp_path / "images" / "drafts" / "half.tar").write_bytes(b"left by kill -9")
    folder.open()
    assert folder.sweep(lambda image: image == TWO) == [
        "removed im_1.erofs: no image of that id is known",
        "removed im_1.erofs.xattrs.json: no image of that id is known",
    ]
    assert names(tmp_path) == ["drafts", "im_2.erofs", "im_2.erofs.xattrs.json"]


def test_the_folder_is_closed_to_others(folder: ImageFolder, tmp_path: Path) -> None:
    assert os.stat(tmp_path / "images").st_mode & 0o077 == 0
