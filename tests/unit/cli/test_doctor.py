from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
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


# As root first, so that all modules are loaded: the interpreter's own folder may be closed to others. Then as nobody.
AS_NOBODY = """
import contextlib, grp, io, os, sys
from pathlib import Path
from skerry.apps import probes
from skerry.cli import commands

with contextlib.redirect_stdout(io.StringIO()):
    commands.run(["doctor"])
probes.place = lambda name: Path(sys.argv[1]) / name
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
sys.exit(commands.run(["doctor", *sys.argv[2:]]))
"""


def doctor_as_nobody(closed: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {"SKERRY_DATA_DIR": f"{closed}/data/deep", "SKERRY_RUNTIME_DIR": f"{closed}/run", "LANG": "C.UTF-8"}
    command = [sys.executable, "-c", AS_NOBODY, str(closed / "bin"), *options]
    return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, timeout=60)


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """A folder into which only root can look, with a program in it."""
    if os.geteuid() != 0:
        pytest.skip("needs root: another user is played by giving root up")
    (tmp_path / "closed" / "bin").mkdir(parents=True)
    (tmp_path / "closed" / "bin" / "runsc").touch()
    (tmp_path / "closed").chmod(0o700)
    return tmp_path / "closed"


def test_another_user_is_told_what_only_root_can_see_and_how_to_go_on(closed: Path) -> None:
    answer = doctor_as_nobody(closed, "--json")
    assert answer.stderr == ""
    found = {one["name"]: one for one in json.loads(answer.stdout)}
    assert list(found) == list(probes.PROBES)
    for name in ("runsc", "agent", "disk", "images"):
        assert found[name]["status"] == "note", found[name]
        assert "only root can look into" in found[name]["text"]
        assert found[name]["mend"] == "sudo skerry doctor"
    assert "you are uid 65534" in found["root"]["text"]
    assert found["root"]["mend"].startswith("sudo skerry server --group ")
    assert found["server"]["mend"].startswith("sudo skerry server --group ")
    assert not any("Error" in one["text"] for one in found.values()), found


def test_another_user_sees_lines_and_no_traceback(closed: Path) -> None:
    answer = doctor_as_nobody(closed)
    assert answer.stderr == ""
    assert "Traceback" not in answer.stdout
    assert answer.returncode == ("MISSING" in answer.stdout)
