from __future__ import annotations

from pathlib import Path

import pytest

from skerry.apps.settings import Settings, from_environment
from skerry.model.errors import InvalidError


def test_without_settings_the_folders_are_those_of_the_system() -> None:
    settings = from_environment({})
    assert settings == Settings(runtime_dir=Path("/run/skerry"), data_dir=Path("/var/lib/skerry"))
    assert settings.socket == Path("/run/skerry/v1.sock")


def test_folders_come_from_the_environment() -> None:
    settings = from_environment({"SKERRY_RUNTIME_DIR": "/a", "SKERRY_DATA_DIR": "/b"}, group="g", foreground=True)
    assert (settings.socket, settings.log, settings.group) == (Path("/a/v1.sock"), Path("/b/server.log"), "g")


@pytest.mark.parametrize("name", ["SKERRY_RUNTIME_DIR", "SKERRY_DATA_DIR"])
def test_a_relative_folder_is_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidError, match=f"{name}.*relative"):
        from_environment({name: "here"})
