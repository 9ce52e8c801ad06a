"""What a base is named by, and what an unknown Python gets. Building one is tests/integration/images."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from skerry.images import debian
from skerry.model.errors import ImageBuildError, InvalidError


def test_the_key_is_the_same_each_time_and_differs_by_python() -> None:
    keys = [debian.base_key(version) for version in debian.SUITES]
    assert len(set(keys)) == len(debian.SUITES)
    assert keys == [debian.base_key(version) for version in debian.SUITES]


def test_the_default_is_a_release_that_can_also_be_named() -> None:
    assert debian.base_key(None) in {debian.base_key(version) for version in debian.SUITES}


def test_the_key_changes_with_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    before = debian.base_key(None)
    monkeypatch.setattr(debian, "PACKAGES", (*debian.PACKAGES, "sl"))
    assert debian.base_key(None) != before


@pytest.mark.parametrize("version", ["3.10", "3.11.2", "2.7", "3", "", "3.11; rm -rf /"])
def test_a_python_that_does_not_exist_is_refused_with_those_that_do(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debian, "_mirror_has", lambda suite: suite != "bullseye")
    with pytest.raises(InvalidError) as refusal:
        debian.base_key(version)
    assert repr(version) in str(refusal.value)
    assert "it has 3.11, 3.13." in str(refusal.value)
    assert refusal.value.details == {"available": ["3.11", "3.13"]}


def test_a_release_that_the_mirror_lacks_is_refused_before_anything_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debian, "_mirror_has", lambda suite: suite == "bookworm")
    with pytest.raises(InvalidError, match=r"it has 3\.11\."):
        debian.build_base("3.13", tmp_path / "root", progress=print)
    assert not (tmp_path / "root").exists()


def test_a_failed_build_says_its_last_lines_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "bin" / "mmdebstrap"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\nmkdir {tmp_path}/root\necho 'I: start'\necho 'E: mirror gone'\nexit 25\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=":")
    told: list[str] = []
    with pytest.raises(ImageBuildError) as failure:
        debian.build_base(None, tmp_path / "root", progress=told.append)
    assert "ended with 25" in str(failure.value)
    assert "E: mirror gone" in str(failure.value)
    assert told == ["base image: start"]
    assert not (tmp_path / "root").exists()


def test_a_missing_mmdebstrap_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "sources_for", lambda _suite: [])
    monkeypatch.setattr(debian, "download_settings", list)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImageBuildError, match="apt-get install mmdebstrap"):
        debian.build_base(None, tmp_path / "root", progress=print)


def test_a_command_that_is_told_to_stop_ends_while_it_says_nothing() -> None:
    stop = threading.Event()
    with pytest.raises(ImageBuildError, match="ended with -15"):
        debian._run(["sh", "-c", "echo 'I: begun'; exec sleep 1000"], {}, lambda _: stop.set(), stop)
