from __future__ import annotations

from pathlib import Path

import pytest

from skerry.apps.settings import Settings, from_environment
from skerry.engine.image_retention import ImageBounds
from skerry.engine.retention import Bounds
from skerry.model.errors import InvalidError


def test_without_settings_the_folders_are_those_of_the_system() -> None:
    settings = from_environment({})
    assert settings == Settings(runtime_dir=Path("/run/skerry"), data_dir=Path("/var/lib/skerry"))
    assert settings.socket == Path("/run/skerry/v1.sock")


def test_folders_come_from_the_environment() -> None:
    settings = from_environment({"SKERRY_RUNTIME_DIR": "/a", "SKERRY_DATA_DIR": "/b"}, group="g", foreground=True)
    assert (settings.socket, settings.log, settings.group) == (Path("/a/v1.sock"), Path("/b/server.log"), "g")


def test_bounds_of_images_come_from_the_environment() -> None:
    images = from_environment({"SKERRY_IMAGES_GIB": "1.5", "SKERRY_IMAGES_DAYS": "2"}).images
    assert (images.total_bytes, images.unused_s) == (3 << 29, 172800.0)
    assert from_environment({"SKERRY_IMAGES_GIB": ""}).images == ImageBounds()


def test_bounds_of_ended_sandboxes_come_from_the_environment() -> None:
    ended = from_environment({"SKERRY_ENDED_DAYS": "0.5", "SKERRY_ENDED_MAX": "7"}).ended
    assert (ended.age_s, ended.rows) == (43200.0, 7)
    assert from_environment({}).ended == Bounds()


@pytest.mark.parametrize("text", ["-1", "many", "nan", "inf"])
def test_a_bound_that_is_no_number_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidError, match=r"SKERRY_IMAGES_DAYS.*no number"):
        from_environment({"SKERRY_IMAGES_DAYS": text})


@pytest.mark.parametrize("name", ["SKERRY_RUNTIME_DIR", "SKERRY_DATA_DIR"])
def test_a_relative_folder_is_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidError, match=f"{name}.*relative"):
        from_environment({name: "here"})
