"""Bases as the engine asks for them: given up, and swept."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from waiting import until

from skerry.images import bases
from skerry.images.bases import DebianBases
from skerry.model.errors import ImageBuildError


async def test_a_base_that_nobody_waits_for_stops_before_the_call_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def build(
        python_version: str | None, into: Path, *, progress: Callable[[str], None], stop: threading.Event
    ) -> None:
        into.mkdir()
        progress("first")
        assert stop.wait(10)
        progress("second")

    monkeypatch.setattr(bases, "build_base", build)
    making = asyncio.create_task(DebianBases(tmp_path / "bases").make(None, tmp_path / "image", told.append))
    await until(lambda: told)
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    assert told == ["first"]
    assert list((tmp_path / "bases").iterdir()) == []


async def test_a_failure_of_the_build_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*_: object, **__: object) -> None:
        raise ImageBuildError("no mirror")

    monkeypatch.setattr(bases, "build_base", build)
    with pytest.raises(ImageBuildError, match="no mirror"):
        await DebianBases(tmp_path).make(None, tmp_path / "image", lambda _: None)


def test_what_was_cut_off_is_swept(tmp_path: Path) -> None:
    (tmp_path / "base-abc" / "root").mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    assert DebianBases(tmp_path).sweep() == ["removed base-abc: a base that was never finished"]
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert DebianBases(tmp_path / "missing").sweep() == []


def test_a_folder_with_something_mounted_in_it_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "base-abc" / "root" / "dev").mkdir(parents=True)
    monkeypatch.setattr(bases, "_mount_points", lambda: [Path("/"), tmp_path / "base-abc" / "root" / "dev"])
    (line,) = DebianBases(tmp_path).sweep()
    assert "umount -R" in line
    assert (tmp_path / "base-abc" / "root" / "dev").is_dir()


def test_mount_points_are_read_with_their_escapes() -> None:
    assert Path("/proc") in bases._mount_points()
