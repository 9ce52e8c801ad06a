"""The lock file, and what a machine that lacks something is told."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import bootstrap
import pytest
import steps

LOCK = bootstrap.LOCK.read_text()
PROJECT = tomllib.loads((bootstrap.ROOT / "pyproject.toml").read_text())


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned() -> dict[str, str]:
    found = re.findall(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==(\S+)", LOCK, re.MULTILINE)
    return {normal(name): version for name, version in found}


def test_the_lock_file_names_no_host() -> None:
    assert "://" not in LOCK
    assert "index-url" not in LOCK


def test_every_locked_package_has_hashes() -> None:
    entries = re.split(r"^(?=[A-Za-z0-9])", LOCK, flags=re.MULTILINE)[1:]
    without = [entry.split("\n")[0] for entry in entries if "--hash=sha256:" not in entry]
    assert entries
    assert without == []


def test_every_dependency_of_the_project_is_locked() -> None:
    asked = [*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["dev"]]
    names = {normal(re.match(r"[A-Za-z0-9._-]+", requirement)[0]) for requirement in asked}  # type: ignore[index]
    assert names - pinned().keys() == set()


def test_the_build_backend_is_locked_at_the_version_that_builds() -> None:
    (backend,) = PROJECT["build-system"]["requires"]
    name, version = backend.split("==")
    assert pinned()[name] == version


def test_another_user_is_told_what_is_missing_and_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(bootstrap.shutil, "which", lambda _: "/usr/bin/apt-get")
    step = steps.Step("x", tmp_path / "x.log")
    with pytest.raises(steps.StepFailed) as failure:
        bootstrap.install_packages(step, ["erofs-utils", "conntrack"])
    assert "missing Debian packages: erofs-utils, conntrack" in str(failure.value)
    assert "sudo apt-get install --yes --no-install-recommends erofs-utils conntrack" in str(failure.value)


def test_a_machine_without_apt_is_told_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap.shutil, "which", lambda _: None)
    step = steps.Step("x", tmp_path / "x.log")
    with pytest.raises(steps.StepFailed, match=r"missing: erofs-utils .* no apt-get"):
        bootstrap.install_packages(step, ["erofs-utils"])


def test_missing_toolchains_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "go").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(steps.StepFailed, match="not on PATH: cargo, rustc"):
        bootstrap.check_tools()
