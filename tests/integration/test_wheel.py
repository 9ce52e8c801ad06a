"""The wheel: what is in it, where it installs, that the sdist gives the same, and that what it installs works."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import stat
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path

import build_agent
import pytest
from benchmarks.base_image import give
from bootstrap import put_toolchains_on_path
from packages import CHECKOUT, Installed, Packages, build_packages, pip
from realserver import Server, wait_for

from skerry.apps.probes import PROBES
from skerry.version import version

pytestmark = pytest.mark.timeout(300)

PROGRAMS = {"runsc", "skerry-agent", "skerry-launch", "skerry-image"}
STAMPS = {"runsc.json", "skerry-agent.json", "skerry-launch.json"}
LICENCES = {"LICENSE", "NOTICE", "THIRD-PARTY-LICENSES.txt"}
BIN = "skerry/_bin/"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    missing = [name for name in PROGRAMS if not (CHECKOUT / "src" / BIN / name).exists()]
    if missing:
        pytest.skip(f"not built: {', '.join(missing)}; run `make setup`")
    return build_packages(tmp_path_factory.mktemp("dist"))


# What is in it


def document(wheel: Path, name: str) -> Message:
    with zipfile.ZipFile(wheel) as opened:
        (found,) = (file for file in opened.namelist() if file.endswith(f".dist-info/{name}"))
        return Parser().parsestr(opened.read(found).decode())


def test_the_wheel_carries_every_program_static_and_executable_by_all(packages: Packages) -> None:
    with zipfile.ZipFile(packages.wheel) as wheel:
        carried = {info.filename.removeprefix(BIN): info for info in wheel.infolist() if info.filename.startswith(BIN)}
        assert set(carried) == PROGRAMS | STAMPS
        for name, info in carried.items():
            mode = info.external_attr >> 16
            assert stat.S_IMODE(mode) == (0o755 if name in PROGRAMS else 0o644), name
            assert name in STAMPS or build_agent.interpreter(wheel.read(info)) is None, name


def test_the_wheel_has_what_the_package_reads_and_nothing_of_the_checkout(packages: Packages) -> None:
    with zipfile.ZipFile(packages.wheel) as wheel:
        names = {name for name in wheel.namelist() if not name.startswith(BIN)}
    source = CHECKOUT / "src"
    tracked = {
        str(path.relative_to(source))
        for path in (source / "skerry").rglob("*")
        if path.is_file() and not {"__pycache__", "_bin"} & set(path.parts)
    }
    assert "skerry/py.typed" in tracked
    assert {name for name in names if ".dist-info/" not in name} == tracked


def test_its_metadata_names_versions_licences_and_commands(packages: Packages) -> None:
    said = document(packages.wheel, "METADATA")
    assert said["Version"] == version()
    assert set(said.get_all("License-File", [])) == LICENCES
    assert "Typing :: Typed" in said.get_all("Classifier", [])
    with zipfile.ZipFile(packages.wheel) as wheel:
        kept = {name.rpartition("/")[2] for name in wheel.namelist() if ".dist-info/licenses/" in name}
    assert kept == LICENCES
    assert "skerry = skerry.cli:main" in document(packages.wheel, "entry_points.txt").as_string()


@pytest.mark.parametrize(
    ("machine", "taken"),
    [
        (f"manylinux_2_17_{platform.machine()}", True),
        (f"musllinux_1_1_{platform.machine()}", True),
        ("manylinux_2_17_s390x", False),
        ("macosx_11_0_arm64", False),
        ("win_amd64", False),
    ],
)
def test_pip_takes_it_for_either_c_library_of_this_architecture_alone(
    packages: Packages, tmp_path: Path, machine: str, taken: bool
) -> None:
    chosen = ["--platform", machine, "--only-binary", ":all:", "--target", str(tmp_path)]
    told = pip("install", "--dry-run", "--no-deps", "--no-index", *chosen, str(packages.wheel), path="")
    assert (told.returncode == 0) == taken, told.stderr
    assert taken or "is not a supported wheel on this platform" in told.stderr


# The sdist


def unpack(sdist: Path, folder: Path) -> Path:
    shutil.unpack_archive(sdist, folder)
    (root,) = folder.iterdir()
    return root


def wheel_of(source: Path, into: Path, path: str) -> subprocess.CompletedProcess[str]:
    # Without isolation: the back end is the locked one, and nothing is fetched.
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(into)]
    return pip("wheel", *options, str(source), path=path)


def test_the_sdist_gives_the_same_wheel_byte_for_byte(
    packages: Packages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = unpack(packages.sdist, tmp_path / "source")
    assert not (source / "src" / BIN).exists()
    # Programs that fit its sources count as built: a file that it lacked would make another key, and another wheel.
    (source / "src" / BIN).mkdir()
    for name in {*PROGRAMS, *STAMPS} - {"skerry-image"}:  # this one has no key, and is built from what the sdist has
        shutil.copy2(CHECKOUT / "src" / BIN / name, source / "src" / BIN)
    monkeypatch.setenv("PATH", os.environ["PATH"])
    put_toolchains_on_path()
    told = wheel_of(source, tmp_path, os.environ["PATH"])
    assert told.returncode == 0, told.stdout + told.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == packages.wheel.name
    assert wheel.read_bytes() == packages.wheel.read_bytes()


def test_the_sdist_without_go_and_rust_says_what_is_missing(packages: Packages, tmp_path: Path) -> None:
    told = wheel_of(packages.sdist, tmp_path, path=str(tmp_path))
    assert told.returncode != 0
    said = told.stdout + told.stderr
    assert "not on PATH: go, cargo, rustc" in said
    assert "Install a current Go" in said
    assert "Traceback" not in said


# Installed


class Place:
    """Where a user of the wheel works: a folder of his own, and a server of his own that commands start."""

    def __init__(self, installed: Installed, folder: Path, server: Server) -> None:
        self.installed = installed
        self.folder = folder
        self.server = server
        self._environ = {
            "PATH": installed.path,
            "HOME": str(folder),
            "SKERRY_RUNTIME_DIR": str(server.runtime),
            "SKERRY_DATA_DIR": str(server.data),
        }

    def run(self, *argv: str) -> str:
        told = self.ask(*argv)
        assert told.returncode == 0, f"{told.stdout}{told.stderr}{self.server.said()}"
        return told.stdout

    def ask(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [str(self.installed.folder / "bin" / program), *arguments]
        return subprocess.run(argv, cwd=self.folder, env=self._environ, capture_output=True, text=True, timeout=100)

    def server_pid(self) -> int | None:
        found = json.loads(self.run("skerry", "version", "--json"))["server"]
        return None if found is None else int(found["pid"])

    def stop(self) -> None:
        """End its server in order, and before it what a failed test left running."""
        left = [sandbox["id"] for sandbox in json.loads(self.run("skerry", "ls", "--json"))]
        if left:
            self.run("skerry", "terminate", *left)
        pid = self.server_pid()
        if pid is not None:
            os.kill(pid, signal.SIGTERM)
            wait_for(lambda: not ours(pid, self.installed), f"the end of the server {pid}")

    def force_end(self) -> None:
        """End what a failed test left: only processes of this environment's Python or this server's folder."""
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        for pid in [*filter(lambda pid: ours(pid, self.installed), pids), *self.server.sentries()]:
            os.kill(pid, signal.SIGKILL)


def ours(pid: int, installed: Installed) -> bool:
    """Say whether a process, which is alive, was started by an environment's Python."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(os.fsencode(installed.folder) + b"/")
    except OSError:
        return False


@pytest.fixture(scope="module")
def installed(packages: Packages, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    installed = Installed(tmp_path_factory.mktemp("installed") / "env")
    installed.install(packages.wheel)
    return installed


@pytest.fixture(scope="module")
def place(installed: Installed, base_image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("work")
    disk = CHECKOUT / "build" / "servers"  # of the image, which is given as a second name
    disk.mkdir(parents=True, exist_ok=True, mode=0o700)
    data = Path(tempfile.mkdtemp(dir=disk))
    server = Server(folder / "run", data)
    place = Place(installed, folder, server)
    try:
        give(base_image, server.settings)
        yield place
        place.stop()
        server.check_nothing_left()
    finally:
        place.force_end()
        shutil.rmtree(data, ignore_errors=True)


PROGRAM = """
import sys, skerry
with skerry.Sandbox.create() as sandbox:
    process = sandbox.exec("sh", "-c", "uname -v; echo $((6 * 7))")
    print(process.stdout.read(), process.wait(), sys.modules["skerry"].__file__)
"""


def test_neither_go_nor_rust_nor_pip_is_there(installed: Installed) -> None:
    assert [name for name in ("go", "cargo", "rustc", "pip") if shutil.which(name, path=installed.path)] == []


@pytest.mark.parametrize("command", [("skerry",), ("python", "-m", "skerry")], ids=" ".join)
def test_both_ways_to_call_it_say_its_version(place: Place, command: tuple[str, ...]) -> None:
    assert place.run(*command, "version").splitlines()[0].startswith(f"skerry {version()} ")
    assert place.run(*command, "--help").startswith("Usage: skerry ")


def test_the_doctor_of_the_wheel_finds_the_programs_of_the_wheel(place: Place) -> None:
    told = place.ask("skerry", "doctor", "--json")
    assert told.returncode in (0, 1), told.stderr
    found = {one["name"]: one for one in json.loads(told.stdout)}
    assert list(found) == list(PROBES)
    assert {found[name]["status"] for name in ("runsc", "agent", "images")} == {"ok"}, told.stdout


def test_a_missing_program_is_told_with_what_brings_it_back(installed: Installed, place: Place) -> None:
    (runsc,) = installed.folder.glob("lib/python*/site-packages/skerry/_bin/runsc")
    aside = runsc.with_name("aside")
    runsc.rename(aside)
    try:
        told = place.ask("skerry", "doctor")
    finally:
        aside.rename(runsc)
    assert told.returncode == 1
    assert f"-> {installed.python} -m pip install --force-reinstall" in told.stdout


def test_a_program_runs_a_command_in_a_sandbox(installed: Installed, place: Place) -> None:
    kernel, answer, rest = place.run("python", "-c", PROGRAM).strip().split("\n")
    assert kernel != platform.version()
    assert answer == "42"
    status, file = rest.split()
    assert status == "0"
    assert Path(file).is_relative_to(installed.folder)
    place.server.check_no_sandbox_left()


def test_an_example_runs_from_a_folder_of_the_users(place: Place) -> None:
    shutil.copy(CHECKOUT / "examples" / "seed_hello.py", place.folder)
    assert place.run("skerry", "run", "seed_hello.py") == "hello from sandbox\n\n"
    place.server.check_no_sandbox_left()


def test_the_server_that_it_started_is_its_own(installed: Installed, place: Place) -> None:
    place.run("skerry", "ls")  # starts one where none runs
    pid = place.server_pid()
    assert pid is not None
    assert ours(pid, installed)


def test_uninstalling_leaves_nothing(packages: Packages, tmp_path: Path) -> None:
    installed = Installed(tmp_path / "env")
    before = installed.files()
    installed.install(packages.wheel, "--no-deps")
    assert {path.rpartition("/")[2] for path in installed.files()} >= {"_bin", *PROGRAMS}
    told = installed.pip("uninstall", "--yes", "skerry")
    assert told.returncode == 0, told.stderr
    assert installed.files() - before == {"constraints.txt"}
