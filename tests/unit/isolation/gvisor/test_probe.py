"""What is said where gVisor cannot run."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from skerry.isolation.gvisor import probe
from skerry.model.errors import IsolationUnavailableError


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    path = tmp_path / "program"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def refused(**files: list[Path]) -> str:
    with pytest.raises(IsolationUnavailableError) as caught:
        probe.check_machine(programs=files.get("programs", []), images=files.get("images", []))
    return str(caught.value)


def test_this_machine_passes(program: Path) -> None:
    probe.check_machine(programs=[program], images=[program])


def test_another_user_is_told_to_be_root(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "user 1000; run it as root" in refused()


@pytest.mark.parametrize("release", ["5.8.0-1-amd64", "4.19.0", "3.10.0-1160.el7.x86_64", "strange"])
def test_an_old_kernel_is_named(program: Path, monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    monkeypatch.setattr(platform, "release", lambda: release)
    assert release in refused()
    assert "boot 5.9 or later" in refused()


def test_a_newer_major_version_is_no_old_kernel(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "release", lambda: "6.1.0")
    probe.check_machine(programs=[program], images=[])


def test_what_is_missing_or_cannot_run_is_named(program: Path) -> None:
    gone = program.with_name("gone")
    assert f"{gone} is missing" in refused(programs=[gone])
    assert f"{gone} is missing" in refused(images=[gone])
    if os.stat(program).st_uid == 0:
        program.chmod(0o644)
        assert f"chmod +x {program}" in refused(programs=[program])


@pytest.mark.parametrize(
    ("cause", "advice"),
    [
        ("skerry-launch: cannot make new namespaces: No space left on device (os error 28)", "max_user_namespaces"),
        ("skerry-launch: cannot join /sys/fs/cgroup/x: Permission denied", "control groups"),
        ("the program was not executed: cannot mount tmpfs at /tmp: Operation not permitted", "CAP_SYS_ADMIN"),
        ("no answer within 10 s", "skerry doctor"),
    ],
)
def test_each_cause_has_its_next_step(cause: str, advice: str) -> None:
    text = str(probe.unavailable(cause))
    assert cause in text
    assert advice in text
