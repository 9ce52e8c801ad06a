"""The Debian base, built for real and started in gVisor."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from skerry.images import debian, erofs, mirrors, standins
from skerry.model import variables

RUNSC = Path(debian.__file__).parents[1] / "_bin" / "runsc"
ENVIRONMENT = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"]
CAPABILITIES = [
    f"CAP_{name}"
    for name in ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETUID", "SETGID", "SETPCAP", "AUDIT_WRITE")
]
WHEEL = "skerry_sample-1.0-py3-none-any.whl"
SANDBOX_S = 60

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not RUNSC.exists(), reason="runsc is not built; run `make setup`"),
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is missing; run `make setup`"),
]

Shell = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[debian.BaseImage]:
    root = tmp_path_factory.mktemp("base") / "root"
    yield debian.build_base(None, root, progress=print)
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def image(built: debian.BaseImage) -> Iterator[Path]:
    path = built.root.parent / "base.erofs"
    erofs.pack(built.root, path, timestamp=built.timestamp)
    yield path
    erofs.remove(path)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel of one module, made by hand."""
    folder = tmp_path_factory.mktemp("wheels")
    folder.chmod(0o755)
    about = "skerry_sample-1.0.dist-info"
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        wheel.writestr("skerry_sample.py", "WORD = 'installed'\n")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: skerry_sample\nVersion: 1.0\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "skerry_sample.py,,\n")
    return folder


@pytest.fixture
def shell(image: Path, wheels: Path, tmp_path: Path) -> Iterator[Shell]:
    """Run a command line in a sandbox of this image; `/wheels` holds a wheel."""
    name = f"base{secrets.token_hex(8)}"
    state = tmp_path / "state"
    runsc = [str(RUNSC), f"--root={state}", "--ignore-cgroups", "--network=none", "--allow-suid"]

    def run(command: str, *, user: int = 0) -> subprocess.CompletedProcess[str]:
        bundle = tmp_path / "bundle"
        (bundle / "root").mkdir(parents=True, exist_ok=True)
        (bundle / "config.json").write_text(json.dumps(spec(command, user, image, wheels, bundle / "root")))
        argv = [*runsc, "run", f"--bundle={bundle}", name]
        return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SANDBOX_S)

    yield run
    subprocess.run([*runsc, "delete", "--force", name], capture_output=True)
    # runsc keeps an empty network namespace mounted in its state folder.
    subprocess.run(["umount", "--lazy", str(state / "null-netns")], capture_output=True)


def spec(command: str, user: int, image: Path, wheels: Path, root: Path) -> dict[str, object]:
    home = "/root" if user == 0 else "/home/user"
    kinds = {"bounding": CAPABILITIES, **dict.fromkeys(("effective", "permitted"), [] if user else CAPABILITIES)}
    return {
        "ociVersion": "1.0.0",
        "process": {
            "user": {"uid": user, "gid": user},
            "args": ["/bin/bash", "-c", command],
            "env": [*ENVIRONMENT, f"HOME={home}"],
            "cwd": home,
            "capabilities": kinds,
        },
        "root": {"path": str(root)},
        "hostname": "localhost",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/wheels", "type": "bind", "source": str(wheels), "options": ["ro"]},
        ],
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]},
        "annotations": {
            "dev.gvisor.spec.rootfs.source": str(image),
            "dev.gvisor.spec.rootfs.type": "erofs",
            "dev.gvisor.spec.rootfs.overlay": "memory",
        },
    }


INSTALL_SAMPLE = (
    f"pip install --no-index /wheels/{WHEEL} >&2 && python -c 'import skerry_sample as s; print(s.__file__)'"
)


def test_pip_simply_installs_for_root(shell: Shell) -> None:
    done = shell(f"{INSTALL_SAMPLE}; which python pip")
    assert done.returncode == 0, done.stderr
    module, python, pip = done.stdout.split()
    assert re.fullmatch(r"/usr/local/lib/python3\.\d+/site-packages/skerry_sample\.py", module)
    assert (python, pip) == ("/usr/local/bin/python", "/usr/local/bin/pip")


def test_pip_simply_installs_for_the_user_too(shell: Shell) -> None:
    done = shell(INSTALL_SAMPLE, user=debian.UID)
    assert done.stdout.startswith("/home/user/.local/lib/python3"), done.stderr


def test_the_user_becomes_root_without_a_password(shell: Shell) -> None:
    done = shell("id -un; sudo -n id -un", user=debian.UID)
    assert done.stdout.split() == [debian.USER, "root"], done.stderr


def test_sudo_hands_on_what_a_sandbox_was_given_and_nothing_else(shell: Shell) -> None:
    given = {name: f"http://{name}.example" for name in (*variables.SENT, *variables.SANDBOX_CERTIFICATES)}
    assigned = " ".join(f"{name}={value}" for name, value in {**given, "OF_THE_USER": "1"}.items())
    done = shell(f"{assigned} sudo -n --preserve-env=NOTHING printenv", user=debian.UID)
    env = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert {name: env.get(name) for name in given} == given, done.stderr
    assert "OF_THE_USER" not in env


@pytest.mark.parametrize("program", ["git", "curl", "apt-get", "ps", "jq", "make", "wget", "ssh -V 2>&1; true"])
def test_what_code_expects_is_there(program: str, shell: Shell) -> None:
    done = shell(program if " " in program else f"{program} --version")
    assert done.returncode == 0, done.stderr
    assert re.search(r"\d+\.\d+", done.stdout)


def test_node_and_npm_install_a_package_without_an_index(shell: Shell) -> None:
    done = shell(
        "mkdir -p /root/lib /root/app && cd /root/lib"
        ' && echo \'{"name": "sample", "version": "1.2.3", "main": "index.js"}\' > package.json'
        " && echo 'module.exports = 6 * 7' > index.js && npm pack --silent >&2"
        " && cd /root/app && npm init --yes >/dev/null"
        " && npm install --offline --no-audit /root/lib/sample-1.2.3.tgz >&2"
        ' && node -e \'console.log(require("sample"), require("sample/package.json").version)\''
        " && npm ls --depth=0 --parseable && npm query '#sample' | jq -r '.[].name'"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["42", "1.2.3", "/root/app", "/root/app/node_modules/sample", "sample"]


def test_node_installs_for_the_user_too_and_speaks_tls(shell: Shell) -> None:
    done = shell(
        "npm config get prefix && node -p 'require(\"tls\").rootCertificates.length > 50 && process.versions.openssl'"
        " && npx --offline --yes --version",
        user=debian.UID,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("/usr/local\n3."), done.stdout


def test_what_stands_for_others_holds_nothing_and_hinders_nobody(built: debian.BaseImage) -> None:
    assert standins.NAME in built.packages
    assert not set(standins.PROVIDED) & set(built.packages)
    files = (built.root / f"var/lib/dpkg/info/{standins.NAME}.list").read_text().split()
    assert files == ["/."]
    checked = subprocess.run(["chroot", str(built.root), "dpkg", "--audit"], capture_output=True, text=True, check=True)
    assert checked.stdout == ""


def test_unzip_and_ps_do_their_work(shell: Shell) -> None:
    done = shell(f"cd /root && unzip -q /wheels/{WHEEL} && cat skerry_sample.py && ps -o comm= -p 1; true")
    assert done.stdout == "WORD = 'installed'\nbash\n", done.stderr


def test_modules_of_debian_packages_can_be_imported(shell: Shell) -> None:
    # What apt_install("python3-...") brings lies in this folder.
    done = shell("touch /usr/lib/python3/dist-packages/from_debian.py && python -c 'import from_debian'")
    assert done.returncode == 0, done.stderr


def test_an_environment_of_ones_own_can_be_made(shell: Shell) -> None:
    done = shell("python -m venv /root/own && /root/own/bin/pip --version")
    assert "/root/own/lib" in done.stdout, done.stderr


def test_nothing_is_compiled_again_at_an_import(shell: Shell) -> None:
    done = shell("python -v -c 'import asyncio, json, pip._internal.cli.main' 2>&1 | grep -E '^# (wrote|code object)'")
    lines = done.stdout.splitlines()
    assert len(lines) > 50
    assert [line for line in lines if not line.endswith((".pyc'", ".pyc"))] == []


def test_apt_reads_the_sources_of_the_image(built: debian.BaseImage, shell: Shell) -> None:
    done = shell("apt-get update --print-uris")
    assert f"/dists/{built.suite}/InRelease" in done.stdout, done.stderr


def test_debians_own_python_stays_marked_as_debians(built: debian.BaseImage) -> None:
    assert (built.root / f"usr/lib/python{built.python_version}/EXTERNALLY-MANAGED").exists()


def test_nothing_of_this_machine_is_in_the_image(built: debian.BaseImage) -> None:
    etc = built.root / "etc"
    bundle = (etc / "ssl/certs/ca-certificates.crt").read_text()
    debians = list((built.root / "usr/share/ca-certificates/mozilla").iterdir())
    assert bundle.count("BEGIN CERTIFICATE") <= len(debians)
    assert (etc / "resolv.conf").read_text() == ""
    assert (etc / "hosts").read_text() == "127.0.0.1 localhost\n"
    assert not (etc / "apt/apt.conf.d/99mmdebstrap").exists()
    settings = [path.read_text() for path in (etc / "apt").rglob("*") if path.is_file() and path.suffix != ".asc"]
    told = [setting.split(" ", 1)[1].strip('"') for setting in mirrors.download_settings() if "Proxy" in setting]
    assert [word for word in told if any(word in text for text in settings)] == []


def test_nothing_that_the_build_used_is_left(built: debian.BaseImage) -> None:
    for folder in ("dev", "run", "tmp", "proc", "sys", "var/tmp", "var/log/apt", "var/cache/apt/archives/partial"):
        assert os.listdir(built.root / folder) == [], folder
    assert [path.name for path in (built.root / "var/lib/apt/lists").iterdir() if path.is_file()] == []


def test_the_image_is_below_400_mib_and_newer_than_nothing(built: debian.BaseImage, image: Path) -> None:
    assert image.stat().st_size < 400 * 2**20
    newest = max(os.lstat(path).st_mtime for path in built.root.rglob("*"))
    assert newest <= built.timestamp


def test_the_mirror_is_asked_which_releases_it_has(built: debian.BaseImage) -> None:
    if not mirrors.sources_for(built.suite):
        pytest.skip("this machine has no Debian mirror of its own; mmdebstrap's default is used unasked")
    assert debian._mirror_has(built.suite)
    assert not debian._mirror_has("no-such-release")
