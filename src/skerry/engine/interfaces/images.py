"""What the engine asks of images: those that can be started, their bases, their files."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from skerry.model.ids import ImageId
from skerry.model.nodes import RootImage
from skerry.model.sandboxes import ImageView, StoredImage
from skerry.model.specs import HostAccess, ImageConfig, ImageDefinition


@dataclass(frozen=True, kw_only=True)
class BuildStep:
    """A build has come to step `index` of `count`, counted from 1."""

    index: int
    count: int
    title: str


@dataclass(frozen=True, kw_only=True)
class BuildOutput:
    """What a build printed: bytes of a guest, as text with replacements."""

    text: str


BuildEvent = BuildStep | BuildOutput


class Images(Protocol):
    """Images that can be started, and the way to new ones."""

    async def resolve(
        self,
        definition: ImageDefinition,
        host_access: HostAccess,
        force_build: bool,
        on_event: Callable[[BuildEvent], None],
    ) -> ImageView:
        """Return the image of a definition, built now if there is none; ten callers share one build.

        A caller that is cancelled does not end the build for the others. `on_event` never blocks.
        Raises ImageBuildError, InvalidError.
        """

    def get(self, image: ImageId) -> ImageView:
        """Raises NotFoundError."""

    def root(self, image: ImageId) -> RootImage:
        """Raises NotFoundError."""

    def in_use(self) -> Collection[ImageId]:
        """The images that builds need at this moment."""


class Bases(Protocol):
    """Where the images without steps come from."""

    def key(self, python_version: str | None) -> str:
        """Return what changes when the base would come out differently. Raises InvalidError for an unknown version."""

    async def make(self, python_version: str | None, into: Path, progress: Callable[[str], None]) -> ImageConfig:
        """Write the base to the file `into`. Raises ImageBuildError, InvalidError."""


class ImageFiles(Protocol):
    """The folder of image files."""

    def path(self, image: ImageId) -> Path: ...

    def draft(self) -> AbstractContextManager[Path]:
        """Yield a path where a file may be made; what is still there at the end is removed."""

    def keep(self, draft: Path, image: ImageId) -> int:
        """Make the draft the file of an image, durably, and return its size in bytes."""

    def share(self, parent: ImageId, image: ImageId) -> int:
        """Let an image have the same file as its parent; return its size in bytes."""

    def touch(self, image: ImageId) -> None:
        """Note that an image is used now; of one that is gone there is nothing to note."""

    def remove(self, image: ImageId) -> None:
        """Remove the file of an image, if it is there. Whoever has it open reads on."""

    def stored(self) -> Sequence[StoredImage]:
        """Every file of an image, with the time at which it was used last."""

    def free_bytes(self) -> int:
        """How much space their disk has."""
