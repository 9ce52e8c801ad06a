"""What the build leaves behind, and what it says when it cannot do its work."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import BUILD, REPOSITORY, build_runtime

pytestmark = pytest.mark.timeout(600)


def needed_go() -> str:
    found = re.search(r"^go (\S+)$", (REPOSITORY / "runtime" / "go.mod").read_text(), re.MULTILINE)
    assert found is not None
    return found.group(1)


def test_runsc_says_the_version_that_its_sidecar_names(runsc: Path) -> None:
    said = subprocess.run([runsc, "--version"], capture_output=True, text=True, check=True).stdout
    facts = json.loads(runsc.with_name("runsc.json").read_text())
    assert said.splitlines()[0] == f"runsc version {facts['version']}"
    assert facts["gvisor_version"].removeprefix("v0.0.0-") in facts["version"]
    assert facts["key"][:12] in facts["version"]


def test_runsc_is_the_file_that_its_sidecar_describes(runsc: Path) -> None:
    facts = json.loads(runsc.with_name("runsc.json").read_text())
    assert hashlib.sha256(runsc.read_bytes()).hexdigest() == facts["sha256"]


def test_runsc_is_static(runsc: Path) -> None:
    segments = subprocess.run(["readelf", "--program-headers", runsc], capture_output=True, text=True, check=True)
    assert "LOAD" in segments.stdout
    assert "INTERP" not in segments.stdout


def test_the_generated_programs_do_not_depend_on_who_generates_them(tmp_path: Path) -> None:
    generator = tmp_path / "precompiled"
    assert build_runtime("--program", "precompiled", "--output", generator).returncode == 0
    query = ["go", "list", "-m", "-f", "{{.Dir}}", "gvisor.dev/gvisor"]
    module = subprocess.run(query, cwd=REPOSITORY / "runtime", capture_output=True, text=True, check=True)
    files = [Path("runsc") / part / "filter" / "filter_precompiled.go" for part in ("boot", "fsgofer")]
    made = []
    for copy in (tmp_path / "one", tmp_path / "two"):
        for file in files:
            (copy / file.parent).mkdir(parents=True)
            (copy / file).write_bytes((Path(module.stdout.strip()) / file).read_bytes())
        subprocess.run([generator, "-module", copy], check=True, capture_output=True)
        made.append([(copy / file).read_bytes() for file in files])
    assert made[0] == made[1]


def test_a_second_build_says_in_one_line_that_there_is_nothing_to_do(runsc: Path) -> None:
    before = runsc.stat()
    answer = build_runtime()
    assert answer.returncode == 0
    assert re.fullmatch(r"src/skerry/_bin/runsc: up to date, skerry-\S+\n", answer.stderr)
    assert (runsc.stat().st_ino, runsc.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_damaged_binary_is_built_again(plain_runsc: Path) -> None:
    with plain_runsc.open("r+b") as binary:
        binary.truncate(1000)
    answer = build_runtime("--plain", "--output", plain_runsc)
    assert answer.returncode == 0, answer.stderr
    subprocess.run([plain_runsc, "--version"], capture_output=True, check=True)


def test_the_shapes_that_are_checked_in_are_those_of_the_pinned_gvisor() -> None:
    answer = build_runtime("--shapes", "--check")
    assert answer.returncode == 0, answer.stderr


def test_without_go_the_version_that_is_needed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("build_runtime", BUILD)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "build_runtime", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module.shutil, "which", lambda *_, **__: None)
    with pytest.raises(module.BuildError, match=f"Go was not found; install Go {needed_go()} or newer"):
        module.find_go()


def test_a_go_that_does_not_run_is_named(tmp_path: Path) -> None:
    go = tmp_path / "go"
    go.write_text("#!/bin/sh\necho broken >&2; exit 1\n")
    go.chmod(0o755)
    answer = build_runtime(PATH=f"{tmp_path}:/usr/bin:/bin")
    assert answer.returncode == 1
    assert f"{go} does not run (broken)" in answer.stderr


def test_a_go_that_is_too_old_is_named_with_the_version_that_is_needed(tmp_path: Path) -> None:
    go = tmp_path / "go"
    go.write_text("#!/bin/sh\necho go1.19.8\n")
    go.chmod(0o755)
    answer = build_runtime(PATH=f"{tmp_path}:/usr/bin:/bin")
    assert answer.returncode == 1
    assert f"{go} is go1.19.8, too old; install Go {needed_go()} or newer" in answer.stderr


def test_a_module_proxy_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    answer = build_runtime(
        "--plain", "--output", tmp_path / "runsc", GOPROXY="http://127.0.0.1:9", GOMODCACHE=str(tmp_path / "modules")
    )
    assert answer.returncode == 1
    assert "download modules: Go's module proxy cannot be reached (GOPROXY is http://127.0.0.1:9)" in answer.stderr
    assert "set GOPROXY" in answer.stderr
    assert not (tmp_path / "runsc").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("a small disk needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "skerry-test", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.root
def test_a_full_disk_is_named_and_nothing_partial_stays(small_disk: Path) -> None:
    answer = build_runtime("--plain", "--output", small_disk / "runsc")
    assert answer.returncode == 1
    assert "the disk is full" in answer.stderr
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_build_that_is_stopped_leaves_nothing_partial(tmp_path: Path, number: signal.Signals) -> None:
    output = tmp_path / "out" / "runsc"
    command = [sys.executable, BUILD, "--plain", "--output", output]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as build:
        assert build.stderr is not None
        for line in build.stderr:
            if line.startswith("compile runsc ..."):
                build.send_signal(number)
                break
        said = build.stderr.read()
    assert build.returncode == 130
    assert said.endswith("stopped; partial files were removed\n")
    assert list(output.parent.iterdir()) == []
