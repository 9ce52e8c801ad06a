from __future__ import annotations

from pathlib import Path

import pytest

from skerry.client.settings import ServerAddress, server_address
from skerry.exception import InvalidError, UnimplementedError


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SKERRY_URL", "SKERRY_RUNTIME_DIR", "SKERRY_AUTOSTART"):
        monkeypatch.delenv(name, raising=False)


def test_the_local_server_is_the_default_and_may_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    assert server_address() == ServerAddress(Path("/run/skerry/v1.sock"), autostart=True)
    monkeypatch.setenv("SKERRY_RUNTIME_DIR", "/elsewhere")
    monkeypatch.setenv("SKERRY_AUTOSTART", "0")
    assert server_address() == ServerAddress(Path("/elsewhere/v1.sock"), autostart=False)
    assert server_address(autostart=True).autostart


def test_a_socket_that_was_named_is_never_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKERRY_URL", "unix:///some/v1.sock")
    assert server_address() == ServerAddress(Path("/some/v1.sock"), autostart=False)


def test_a_server_elsewhere_is_not_there_yet() -> None:
    with pytest.raises(UnimplementedError, match="unset SKERRY_URL"):
        server_address("https://sandboxes.example")


@pytest.mark.parametrize("url", ["unix://relative.sock", "ftp://x", "/run/skerry/v1.sock"])
def test_what_is_no_address_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(InvalidError, match="unix:///"):
        server_address(url)


def test_a_relative_folder_is_refused_by_name_as_the_server_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKERRY_RUNTIME_DIR", "here")
    with pytest.raises(InvalidError, match=r"SKERRY_RUNTIME_DIR.*relative"):
        server_address()
