"""Prepare this machine to run and test skerry; does only what is not done yet.

Run as `python3 tools/bootstrap.py` (the Makefile does). Needs Python 3.11, Go and Rust. As root it installs
the Debian packages that are missing; as another user it names them and stops. Then it makes `.venv` from
requirements.lock, adds Rust's musl target where rustup can, and builds the agent and the pinned runsc.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from build_agent import musl_target
from steps import Step, StepFailed, Steps

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements.lock"
VENV_STAMP = VENV / "skerry-stamp"
RUST_STAMP = BUILD / "stamps" / "rust"
IMAGE_HELPER = ROOT / "src" / "skerry" / "_bin" / "skerry-image"
MIN_PYTHON = (3, 11)
RUSTUP_PATIENCE_S = "120"
APT_PATIENCE_S = 300

# Where installers put toolchains that sudo or cron leave off PATH.
TOOLCHAIN_FOLDERS = ("/usr/local/go/bin", "~/.cargo/bin", "/usr/local/cargo/bin", "/usr/sbin", "/sbin")


class Package(NamedTuple):
    """A Debian package and how to see that what it brings is there."""

    name: str
    present: Callable[[], bool]


def command(name: str) -> Callable[[], bool]:
    return lambda: shutil.which(name) is not None


def file(*patterns: str) -> Callable[[], bool]:
    return lambda: any(True for pattern in patterns for _ in Path("/").glob(pattern))


def module(*names: str) -> Callable[[], bool]:
    return lambda: all(importlib.util.find_spec(name) is not None for name in names)


# What runs or tests skerry beyond Python, Go and Rust themselves. Looked for by what it brings,
# so that a machine which has it from elsewhere is left alone.
PACKAGES = (
    Package("mmdebstrap", command("mmdebstrap")),  # the base of the default image
    Package("erofs-utils", command("mkfs.erofs")),  # images are EROFS files
    Package("nftables", command("nft")),  # `doctor` and the tests show rules with it
    Package("libnftables1", file("usr/lib/*/libnftables.so.1*", "usr/lib*/libnftables.so.1*")),  # the node
    Package("iptables", command("iptables-nft")),  # tests make Docker's chains
    Package("ufw", command("ufw")),  # tests have one at work beside sandboxes
    Package("iproute2", command("ip")),  # tests play the internet in a namespace
    Package("conntrack", command("conntrack")),  # tests count tracked connections
    Package("procps", command("ps")),  # tests look for what was left behind
    Package("ca-certificates", file("etc/ssl/certs/ca-certificates.crt")),  # package indexes over https
    Package("debian-archive-keyring", file("usr/share/keyrings/debian-archive-keyring.gpg")),  # mmdebstrap
    Package("python3-venv", module("venv", "ensurepip")),
    Package("patch", command("patch")),  # runsc is built from a patched gVisor
    Package("gcc", command("cc")),  # Rust links with it
    Package("libc6-dev", file("usr/lib/*/crt1.o", "usr/lib*/crt1.o")),  # Rust links with it
)


def missing_packages() -> list[str]:
    return [package.name for package in PACKAGES if not package.present()]


def install_packages(step: Step, names: list[str]) -> None:
    """Install through apt as root; otherwise raise with the command that would."""
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *names]
    if shutil.which("apt-get") is None:
        raise StepFailed(
            f"missing: {', '.join(names)} (Debian's names), and this machine has no apt-get.\n"
            "Install them with its own package manager, then run this again."
        )
    if os.geteuid() != 0:
        raise StepFailed(
            f"missing Debian packages: {', '.join(names)}. Installing them needs root; run\n"
            f"    sudo apt-get update && sudo {' '.join(install)}\nand then this again."
        )
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    patient = ["-o", f"DPkg::Lock::Timeout={APT_PATIENCE_S}"]
    step.run(["dpkg", "--configure", "-a"], env=env)  # an interrupted apt refuses to work until this ran
    update_lists(step, env)
    step.run([install[0], *patient, *install[1:]], env=env)
    still = missing_packages()
    if still:
        raise StepFailed(f"apt-get installed {', '.join(names)}, but what they bring is not there: {still}")


def update_lists(step: Step, env: dict[str, str]) -> None:
    """Fetch apt's package lists, after a run of apt that is at work (a new machine's first update, say)."""
    deadline = time.monotonic() + APT_PATIENCE_S
    while True:
        try:
            step.run(["apt-get", "update"], env=env)
            return
        except StepFailed as exc:
            # apt waits for dpkg's lock by itself, but never for that of its lists.
            if "Could not get lock" not in str(exc) or time.monotonic() > deadline:
                raise
            step.note("another apt is at work; waiting for it")
            time.sleep(1.0)


def put_toolchains_on_path() -> None:
    """Let this process and its children find Go and Rust where their installers put them."""
    folders = [os.path.expanduser(folder) for folder in TOOLCHAIN_FOLDERS]
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), *folders])


def check_tools() -> None:
    """Raise StepFailed naming the toolchains that are missing; they are not ours to install."""
    absent = [name for name in ("go", "cargo", "rustc") if shutil.which(name) is None]
    if absent:
        raise StepFailed(
            f"not on PATH: {', '.join(absent)}. skerry builds its runtime with Go and its agent with Rust.\n"
            "Install a current Go (https://go.dev/dl) and Rust (https://rustup.rs), then run this again."
        )


def venv_key() -> str:
    """Return a key that changes with the interpreter, the lock or the project's own metadata."""
    digest = hashlib.sha256(f"{sys.executable} {sys.version}\n".encode())
    for path in (LOCK, ROOT / "pyproject.toml"):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def venv_is_current() -> bool:
    try:
        return VENV_STAMP.read_text() == venv_key() and (VENV / "bin" / "python").exists()
    except OSError:
        return False


def make_venv(step: Step) -> None:
    """Install exactly the locked packages, checked by hash, and this project as an editable."""
    VENV_STAMP.unlink(missing_ok=True)
    python = str(VENV / "bin" / "python")
    if not _works(python):
        step.run([sys.executable, "-m", "venv", "--clear", str(VENV)])
    # Plain pip, so that the machine's index, proxy and certificate settings count.
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
    step.run([*pip, "--require-hashes", "--requirement", str(LOCK)])
    step.run([*pip, "--no-deps", "--no-build-isolation", "--editable", str(ROOT)])
    step.run([python, "-m", "pip", "check"])
    VENV_STAMP.write_text(venv_key())


def _works(python: str) -> bool:
    """Say whether a venv's interpreter runs and is the version that runs now."""
    asked = [python, "-c", "import pip, sys; print(sys.version)"]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True)
    except OSError:
        return False
    return answer.returncode == 0 and answer.stdout.strip() == sys.version


def rust_wants() -> list[tuple[str, str]]:
    """Return what this Rust lacks, as rustup names it: the static target, and the tools that checks use."""
    told = subprocess.run(
        ["rustc", "--print", "target-libdir", "--target", musl_target()], capture_output=True, text=True
    ).stdout.strip()
    wants = [] if told and Path(told).is_dir() else [("target", musl_target())]
    tools = {"rustfmt": "rustfmt", "cargo-clippy": "clippy"}
    return wants + [("component", part) for name, part in tools.items() if not _has_rust_tool(name)]


def _has_rust_tool(name: str) -> bool:
    # rustup has a proxy of each name on PATH whether the tool is installed or not.
    asked = subprocess.run(["rustc", "--print", "sysroot"], capture_output=True, text=True).stdout.strip()
    return (Path(asked) / "bin" / name).exists()


def add_to_rust(step: Step, wants: list[tuple[str, str]]) -> None:
    """Add through rustup what is missing, and note what cannot be had, so that it is not asked for again."""
    refused = []
    for kind, name in wants:
        try:
            step.run(["timeout", RUSTUP_PATIENCE_S, "rustup", kind, "add", name])
        except StepFailed:
            refused.append(name)
    if refused:
        step.result = f"rustup cannot add {', '.join(refused)}; going on without"
    RUST_STAMP.parent.mkdir(parents=True, exist_ok=True)
    RUST_STAMP.write_text(repr(rust_wants()))


def rust_is_settled(wants: list[tuple[str, str]]) -> bool:
    """Say whether Rust has everything, or lacks just what rustup refused before."""
    return not wants or (RUST_STAMP.exists() and RUST_STAMP.read_text() == repr(wants))


@contextmanager
def alone() -> Iterator[None]:
    """Hold the bootstrap's lock, so that two runs in one checkout go one after the other."""
    BUILD.mkdir(exist_ok=True)
    with (BUILD / "bootstrap.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("bootstrap: another run is at work in this checkout; waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def do_packages(steps: Steps) -> None:
    names = missing_packages()
    if not names:
        steps.skipped("Debian packages", "all there")
        return
    with steps.step("Debian packages") as step:
        step.result = f"installed {' '.join(names)}"
        install_packages(step, names)


def do_venv(steps: Steps) -> None:
    if venv_is_current():
        steps.skipped("Python environment")
        return
    with steps.step("Python environment") as step:
        make_venv(step)


def do_rust(steps: Steps) -> None:
    wants = rust_wants() if shutil.which("rustup") else []
    if rust_is_settled(wants):
        return
    with steps.step("Rust target and tools") as step:
        add_to_rust(step, wants)


def do_agent(steps: Steps) -> None:
    _build(steps, "agent", "build_agent.py", "agent")


def do_launcher(steps: Steps) -> None:
    _build(steps, "launcher", "build_agent.py", "launcher")


def do_runtime(steps: Steps) -> None:
    _build(steps, "runsc", "build_runtime.py")


def do_helper(steps: Steps) -> None:
    _build(steps, "image helper", "build_runtime.py", "--program", IMAGE_HELPER.name, "--output", str(IMAGE_HELPER))


def _build(steps: Steps, name: str, script: str, *arguments: str) -> None:
    """Run a script that builds unless it need not, which its last line then says."""
    with steps.step(name) as step:
        said = step.run([str(VENV / "bin" / "python"), str(ROOT / "tools" / script), *arguments])
        step.result = "up to date" if "up to date" in said.rstrip().rpartition("\n")[2] else "done"


STEPS: dict[str, Callable[[Steps], None]] = {
    "packages": do_packages,
    "venv": do_venv,
    "rust": do_rust,
    "agent": do_agent,
    "launcher": do_launcher,
    "runtime": do_runtime,
    "helper": do_helper,
}


def bootstrap(wanted: list[str]) -> None:
    """Carry out the wanted steps in their order."""
    if sys.version_info < MIN_PYTHON:
        raise StepFailed(
            f"{sys.executable} is Python {sys.version.split()[0]}; skerry needs 3.11 or newer.\n"
            "Name one that is: make PYTHON=python3.11 ..."
        )
    put_toolchains_on_path()
    if set(wanted) - {"packages", "venv"}:
        check_tools()
    steps = Steps("bootstrap", BUILD / "logs" / "bootstrap")
    with alone():
        for name, do in STEPS.items():
            if name in wanted:
                do(steps)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", action="append", choices=STEPS, help="carry out this step; may be repeated")
    wanted = parser.parse_args().only or list(STEPS)
    try:
        bootstrap(wanted)
    except StepFailed as exc:
        print(f"bootstrap: {exc}", file=sys.stderr)
        return 1
    except OSError as exc:
        print(f"bootstrap: {exc}; this user must be able to write in {ROOT}, and its disk have room", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nbootstrap: interrupted; run it again to go on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
