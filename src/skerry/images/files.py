"""The folder of image files: one EROFS file for each image, named by its id, and its attributes beside it."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from skerry.images import erofs
from skerry.images.erofs import xattrs_path
from skerry.model import limits
from skerry.model.ids import ImageId
from skerry.model.sandboxes import StoredImage


class ImageFolder:
    """Image files in one folder. A file appears whole or not at all, and is on disk when `keep` returns."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._drafts = folder / "drafts"

    def open(self) -> None:
        """Make the folder, and remove drafts that an earlier server left."""
        for folder in (self._folder, self._drafts):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in self._drafts.iterdir():
            left.unlink()

    def sweep(self, known: Callable[[ImageId], bool]) -> list[str]:
        """Remove the files of images that nobody knows; return a line for each."""
        lines = []
        for left in sorted(self._folder.glob("*.erofs*")):
            if not known(ImageId(left.name.partition(".")[0])):
                left.unlink()
                lines.append(f"removed {left.name}: no image of that id is known")
        return lines

    def path(self, image: ImageId) -> Path:
        return self._folder / f"{image}.erofs"

    @contextmanager
    def draft(self) -> Iterator[Path]:
        """Yield a path for a file to be made; whatever is there at the end, and beside it, is removed."""
        path = self._drafts / secrets.token_hex(8)
        try:
            yield path
        finally:
            for left in self._drafts.glob(f"{path.name}*"):
                left.unlink(missing_ok=True)

    def keep(self, draft: Path, image: ImageId) -> int:
        """Make the draft the file of an image; return its size in bytes."""
        size = _synced(draft)
        # The image last: whoever sees it finds its attributes too.
        if xattrs_path(draft).exists():
            _synced(xattrs_path(draft))
            os.rename(xattrs_path(draft), xattrs_path(self.path(image)))
        os.rename(draft, self.path(image))
        _synced(self._folder)
        return size

    def share(self, parent: ImageId, image: ImageId) -> int:
        """Give an image the file of its parent, as a second name; return its size in bytes."""
        if xattrs_path(self.path(parent)).exists():
            os.link(xattrs_path(self.path(parent)), xattrs_path(self.path(image)))
        os.link(self.path(parent), self.path(image))
        _synced(self._folder)
        return self.path(image).stat().st_size

    def touch(self, image: ImageId) -> None:
        """Note that an image is used now, by the time of its file; those who share it share that too."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.path(image))

    def remove(self, image: ImageId) -> None:
        """Remove the file of an image and what lies beside it, if they are there."""
        erofs.remove(self.path(image))

    def stored(self) -> list[StoredImage]:
        """Return every file of an image."""
        return [one for path in self._folder.glob("*.erofs") if (one := _stored(path)) is not None]

    def free_bytes(self) -> int:
        """Return how much space the disk has."""
        found = os.statvfs(self._folder)
        return found.f_bavail * found.f_frsize


def _stored(path: Path) -> StoredImage | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    size = found.st_blocks * limits.STAT_BLOCK
    return StoredImage(id=ImageId(path.stem), inode=found.st_ino, size=size, used_at=found.st_mtime)


def _synced(path: Path) -> int:
    """Bring a file or folder to the disk; return its size."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)
