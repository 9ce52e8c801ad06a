from __future__ import annotations

import os
import time
from typing import Any

import pytest

from skerry.apps import probes
from skerry.apps.probes import Finding
from skerry.cli import commands, doctor
from skerry.cli.bounded import Hung, run_all


def hang() -> None:
    time.sleep(60)


def die() -> None:
    os._exit(3)


def fail() -> None:
    raise OSError(1, "not permitted")


def test_what_hangs_dies_or_fails_costs_no_other_its_answer() -> None:
    begun = time.monotonic()
    good, hung, dead, failed = run_all([lambda: {"a": [1]}, hang, die, fail], 0.3)
    assert time.monotonic() - begun < 30
    assert good == {"a": [1]}
    assert isinstance(hung, Hung)
    assert isinstance(dead, RuntimeError)
    assert str(failed) == "PermissionError: [Errno 1] not permitted"
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_too_long_an_answer_is_none() -> None:
    (answer,) = run_all([lambda: "x" * 1_000_000], 5)
    assert isinstance(answer, Hung)


def test_every_probe_answers_on_any_machine() -> None:
    findings = doctor.examine()
    assert [one["name"] for one in findings] == list(probes.PROBES)
    assert all(one["status"] in ("ok", "note", "missing") and one["text"] for one in findings)


def test_every_line_that_is_missing_names_what_mends_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found: dict[str, Any] = {
        "kernel": lambda: Finding("ok", "Linux"),
        "server": lambda: Finding("missing", "is \x1b[31mill", "see its log"),
        "runsc": fail,
    }
    monkeypatch.setattr(probes, "PROBES", found)
    assert commands.run(["doctor"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "kernel  ok       Linux",
        "server  MISSING  is \\x1b[31mill",
        "                 -> see its log",
        "runsc   MISSING  PermissionError: [Errno 1] not permitted",
        "                 -> make clean setup",
    ]


def test_a_machine_that_lacks_nothing_is_0(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(probes, "PROBES", {"root": lambda: Finding("note", "you are uid 1000", "sudo")})
    assert commands.run(["doctor", "--json"]) == 0
    assert '"status": "note"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("probe", "patch", "told"),
    [
        ("runsc", ("place", lambda name: probes.Path("/nowhere") / name), "make setup"),
        ("agent", ("place", lambda name: probes.Path("/nowhere") / name), "make setup"),
        ("image_tools", ("SERVER_PATH", "/nowhere"), "apt-get install --yes erofs-utils mmdebstrap"),
        ("disk", ("DISK_MIN_GIB", 1e9), "SKERRY_DATA_DIR"),
        ("memory", ("MEMORY_MIN_GIB", 1e9), "end other programs"),
        ("kernel", ("KERNEL_MIN", (99, 0)), "full-upgrade"),
        ("cgroups", ("CONTROLLERS", ("none",)), "unified_cgroup_hierarchy"),
    ],
)
def test_what_is_missing_is_found(
    monkeypatch: pytest.MonkeyPatch, probe: str, patch: tuple[str, Any], told: str
) -> None:
    monkeypatch.setattr(probes, *patch)
    finding = getattr(probes, probe)()
    assert finding.status == "missing"
    assert told in finding.mend
