from __future__ import annotations

from pathlib import Path

from skerry.apps.storage import DataFolder, disk_bytes
from skerry.model.storage import StoredKind


async def test_what_lies_in_the_folder_is_told_with_its_size_and_why_it_stays(tmp_path: Path) -> None:
    for name in ("agent/abc/member.erofs", "trust/def.erofs", "bases/base-x/root/file", "skerry.db", "output/sb_1/a"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(10_000))
    things = {thing.id: thing for thing in await DataFolder(tmp_path).look()}
    assert {name: thing.kind for name, thing in things.items()} == {
        "abc": StoredKind.AGENT,
        "def.erofs": StoredKind.TRUST,
        "base-x": StoredKind.BUILD,
        "skerry.db": StoredKind.SERVER,
    }
    assert all(10_000 <= thing.bytes < 40_000 and thing.why and not thing.goes for thing in things.values())
    assert await DataFolder(tmp_path / "nothing").look() == []


def test_a_size_is_what_the_disk_gives_and_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with (tmp_path / "in" / "sparse").open("wb") as file:
        file.truncate(1 << 30)
    big = tmp_path / "big"
    big.write_bytes(bytes(1 << 20))
    (tmp_path / "in" / "link").symlink_to(big)
    assert disk_bytes(tmp_path / "in") < 1 << 16
    assert disk_bytes(tmp_path / "gone") == 0
