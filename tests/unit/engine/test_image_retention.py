"""Which images go, when, and what a kill in between leaves."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.engine.image_retention import Collected, ImageBounds, ImageRetention, unneeded
from skerry.images.erofs import xattrs_path
from skerry.images.files import ImageFolder
from skerry.model.ids import ImageId
from skerry.model.sandboxes import ImageView, StoredImage
from skerry.model.specs import ImageDefinition
from skerry.testing.clock import VirtualClock
from skerry.testing.ids import CountingIds
from skerry.testing.store import MemoryStore

BOUNDS = ImageBounds(unused_s=1000.0, total_bytes=300, free_bytes=50, grace_s=10.0)
NOW = 5000.0
BLOCK = 4096


def stored(*images: tuple[str, float, int]) -> list[StoredImage]:
    """Return images that were used so many seconds ago, each with a file of its own."""
    return [
        StoredImage(id=ImageId(name), inode=number, size=size, used_at=NOW - ago)
        for number, (name, ago, size) in enumerate(images)
    ]


def gone(images: list[StoredImage], *in_use: str, free: int = 1000, bounds: ImageBounds = BOUNDS) -> list[str]:
    files = unneeded(images, in_use={ImageId(one) for one in in_use}, free_bytes=free, now=NOW, bounds=bounds)
    return [image for file in files for image in file.images]


def test_nothing_goes_within_the_bounds() -> None:
    assert gone(stored(("a", 900, 100), ("b", 20, 200))) == []


def test_what_nobody_used_for_too_long_goes() -> None:
    assert gone(stored(("a", 1001, 1), ("b", 999, 1))) == ["a"]


def test_those_unused_for_the_longest_go_until_the_rest_fits() -> None:
    assert gone(stored(("new", 20, 200), ("old", 90, 100), ("older", 99, 100))) == ["older"]


def test_a_disk_that_is_nearly_full_takes_as_many_as_it_needs() -> None:
    assert gone(stored(("a", 40, 20), ("b", 30, 20), ("c", 20, 20)), free=20) == ["a", "b"]


def test_what_is_in_use_stays_whatever_the_bounds_say() -> None:
    assert gone(stored(("a", 2000, 900), ("b", 30, 10)), "a", free=0) == ["b"]


def test_what_was_used_a_moment_ago_stays() -> None:
    assert gone(stored(("a", 9, 900)), free=0) == []


def test_images_with_one_file_go_together_or_not_at_all() -> None:
    two = [StoredImage(id=ImageId(name), inode=7, size=900, used_at=NOW - 90) for name in ("a", "b")]
    assert gone(two) == ["a", "b"]
    assert gone(two, "b") == []


images_strategy = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 200), st.booleans()), max_size=10)


@given(images_strategy, st.integers(0, 200))
def test_what_is_left_is_needed_or_within_the_bounds(images: list[tuple[int, int, bool]], free: int) -> None:
    there = stored(*((str(number), ago, size) for number, (ago, size, _) in enumerate(images)))
    used = [str(number) for number, (_, _, used) in enumerate(images) if used]
    goes = gone(there, *used, free=free)
    assert not set(goes) & set(used)
    stays = [one for one in there if one.id not in goes]
    assert all(NOW - one.used_at >= BOUNDS.grace_s for one in there if one.id in goes)
    may_go = [one for one in stays if one.id not in used and NOW - one.used_at >= BOUNDS.grace_s]
    if may_go:
        assert sum(one.size for one in stays) <= BOUNDS.total_bytes
        assert free + sum(one.size for one in there if one.id in goes) >= BOUNDS.free_bytes
        assert all(NOW - one.used_at <= BOUNDS.unused_s for one in may_go)


@dataclass
class Shop:
    """A folder of images with their rows, and who uses them."""

    folder: Path
    clock: VirtualClock = field(default_factory=lambda: VirtualClock(time.time()))  # files have the machine's time
    in_use: set[ImageId] = field(default_factory=set)
    ids: CountingIds = field(default_factory=CountingIds)

    def __post_init__(self) -> None:
        self.files = ImageFolder(self.folder)
        self.files.open()
        self.store = MemoryStore(ids=self.ids)

    def retention(self, **bounds: float) -> ImageRetention:
        given = ImageBounds(**{"free_bytes": 0, "total_bytes": 0, **bounds})  # type: ignore[arg-type]
        return ImageRetention(store=self.store, files=self.files, in_use=self._used, clock=self.clock, bounds=given)

    def _used(self) -> Collection[ImageId]:
        return self.in_use

    async def image(self, *, ago: float = 7200.0, row: bool = True) -> ImageId:
        image = ImageId(self.ids.new("im"))
        with self.files.draft() as draft:
            draft.write_bytes(bytes(BLOCK))
            xattrs_path(draft).write_text("[]")
            self.files.keep(draft, image)
        at = self.clock.now() - ago
        os.utime(self.files.path(image), (at, at))
        if row:
            await self.row(image)
        return image

    async def row(self, image: ImageId) -> None:
        view = ImageView(id=image, definition_key=image, size=BLOCK, created_at=0.0)
        await self.store.put_image(view, ImageDefinition())

    def left(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if path.name != "drafts")


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


async def test_what_goes_takes_its_file_its_attributes_and_its_row_with_it(shop: Shop) -> None:
    image = await shop.image()
    collected = await shop.retention().collect()
    assert collected.images == (image,)
    assert collected.freed_bytes >= BLOCK
    assert shop.left() == []
    assert shop.store.image(image) is None


async def test_what_a_sandbox_or_a_build_uses_stays_whole(shop: Shop) -> None:
    image = await shop.image()
    shop.in_use.add(image)
    assert await shop.retention().collect() == Collected()
    assert shop.left() == [f"{image}.erofs", f"{image}.erofs.xattrs.json"]
    assert shop.store.image(image) is not None


async def test_use_is_noted_and_keeps_an_image(shop: Shop) -> None:
    image = await shop.image()
    shop.files.touch(image)
    assert await shop.retention().collect() == Collected()


async def test_a_second_name_of_a_file_keeps_both(shop: Shop) -> None:
    parent = await shop.image()
    child = ImageId(shop.ids.new("im"))
    shop.files.share(parent, child)
    await shop.row(child)
    shop.in_use.add(child)
    assert (await shop.retention().collect()).images == ()
    shop.in_use.clear()
    collected = await shop.retention().collect()
    assert set(collected.images) == {parent, child}
    assert collected.freed_bytes < 2 * BLOCK + BLOCK


async def test_two_at_once_remove_each_image_once(shop: Shop) -> None:
    images = [await shop.image() for _ in range(5)]
    retention = shop.retention()
    both = await asyncio.gather(retention.collect(), retention.collect())
    assert sorted([*both[0].images, *both[1].images]) == sorted(images)


async def test_two_that_know_nothing_of_each_other_do_no_harm(shop: Shop) -> None:
    kept, *_ = [await shop.image() for _ in range(5)]
    shop.in_use.add(kept)
    await asyncio.gather(shop.retention().collect(), shop.retention().collect())
    assert shop.store.images() == [kept]
    assert len(shop.left()) == 2


async def test_a_file_that_is_about_to_get_its_row_is_left_alone(shop: Shop) -> None:
    image = await shop.image(row=False)
    await shop.retention().collect()
    assert shop.files.path(image).exists()


async def test_a_kill_between_file_and_row_is_made_good_by_the_next_turn(shop: Shop) -> None:
    images = [await shop.image() for _ in range(3)]

    async def killed(_image: ImageId) -> None:
        raise KeyboardInterrupt

    delete, shop.store.delete_image = shop.store.delete_image, killed  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        await shop.retention().collect()
    assert shop.left() == []
    assert len(shop.store.images()) == len(images)
    shop.store.delete_image = delete  # type: ignore[method-assign]
    assert await shop.retention().collect() == Collected()
    assert not shop.store.images()


async def test_a_kill_between_two_files_leaves_whole_images(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    await shop.image(ago=9000.0)
    second = await shop.image(ago=8000.0)
    remove = shop.files.remove

    def killed(image: ImageId) -> None:
        if image == second:
            raise KeyboardInterrupt
        remove(image)

    with monkeypatch.context() as kill:
        kill.setattr(shop.files, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            await shop.retention().collect()
    assert shop.left() == [f"{second}.erofs", f"{second}.erofs.xattrs.json"]
    await shop.retention(total_bytes=1 << 30).collect()
    assert shop.store.images() == [second]


async def test_what_is_gone_may_be_removed_and_touched_again(shop: Shop) -> None:
    image = await shop.image()
    shop.files.remove(image)
    shop.files.remove(image)
    shop.files.touch(image)
    assert shop.files.stored() == []
