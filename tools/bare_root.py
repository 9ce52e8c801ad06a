"""Run `make test` (or another command) in a bare Debian root that has only Python, Go and Rust.

Run as root: `.venv/bin/python tools/bare_root.py`. The root is new each time: Debian's smallest, with python3
in it, this machine's Go and Rust mounted read-only, and the files that git tracks. It gets namespaces of its
own for mounts, processes, network and cgroups; the network is slirp4netns, so nothing of this machine's is
changed. This machine's package mirror, index and certificate settings are carried in. Everything is removed at
the end, after a failure and after Ctrl-C too.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from bootstrap import put_toolchains_on_path
from steps import Step, StepFailed, Steps

from skerry.images import mirrors

ROOT = Path(__file__).resolve().parent.parent
BARE = ROOT / "build" / "bare"
SUITE = "bookworm"
CHECKOUT = "/srv/skerry"
PATH = "/usr/local/go/bin:/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MUSL = "/usr/local/rust/lib/rustlib/x86_64-unknown-linux-musl"
PR_SET_PDEATHSIG = 1

TEST = "bash .ci/run"
QUICK = "python3 tools/bootstrap.py && .venv/bin/python -m pytest tests/unit"
WITH_MAKE = "command -v make >/dev/null || (apt-get -qq update; apt-get -qq install make) >/dev/null 2>&1\n"

# Settings of package tools, by the start of their names; and the files that hold more of them.
CARRIED_VARIABLES = (
    *("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "PIP_", "UV_"),
    *("SSL_CERT_", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO", "CARGO_HTTP_", "CARGO_NET_"),
    *("CARGO_REGISTRIES_", "GOPROXY", "GOSUMDB", "GONOSUMDB", "GOPRIVATE", "GONOPROXY"),
)
CARRIED_FILES = (
    *("/etc/pip.conf", "~/.pip/pip.conf", "~/.config/pip/pip.conf", "~/.config/go/env", "~/.cargo/config.toml"),
    *("/etc/ssl/certs", "/usr/local/share/ca-certificates", "/etc/apt/auth.conf", "/etc/apt/auth.conf.d"),
)


def demand() -> None:
    """Raise StepFailed unless this can be done here; say what to install."""
    if os.geteuid() != 0:
        raise StepFailed("a bare root needs mounts and namespaces; run this as root")
    needs = {"slirp4netns": "slirp4netns", "mmdebstrap": "mmdebstrap", "unshare": "util-linux", "git": "git"}
    absent = [package for name, package in needs.items() if shutil.which(name) is None]
    if absent:
        raise StepFailed(f"missing; run: apt-get install --yes {' '.join(absent)}")


def make_root(step: Step, root: Path) -> None:
    """Build Debian's smallest root with python3 in it, from this machine's mirror."""
    sources = [source.line(f"/{mirrors.KEYRING}") for source in mirrors.sources_for(SUITE)]
    settings = [f"--aptopt={setting}" for setting in mirrors.download_settings()]
    bare = ["--mode=root", "--format=directory", "--variant=minbase", "--include=python3"]
    step.run(["mmdebstrap", *bare, *settings, SUITE, str(root), *sources])


def carry_files(root: Path) -> None:
    """Copy this machine's settings and certificates in, and name the network's resolver."""
    for name in CARRIED_FILES:
        source = Path(name).expanduser()
        target = root / ("root" + name[1:] if name.startswith("~") else name.lstrip("/"))
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        elif source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    for name, content in (
        ("etc/resolv.conf", "nameserver 10.0.2.3\n"),  # slirp4netns answers there (slirp4netns(1))
        ("etc/hosts", "127.0.0.1 localhost bare\n"),
        ("etc/hostname", "bare\n"),
    ):
        (root / name).unlink(missing_ok=True)
        (root / name).write_text(content)


def copy_checkout(root: Path) -> None:
    """Copy what git tracks, as it lies in the work tree: a file that nobody added is missed."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        source, target = ROOT / name, root / CHECKOUT.lstrip("/") / name
        if source.exists() or source.is_symlink():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)


def environment() -> dict[str, str]:
    """Return the variables of the command: few, and this machine's settings of package tools."""
    carried = {name: value for name, value in os.environ.items() if name.startswith(CARRIED_VARIABLES)}
    term = os.environ.get("TERM", "dumb")
    return {**carried, "PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", "CI": "true", "TERM": term}


def ask(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


def folders(place: Path, *, warm: bool, musl: bool) -> list[dict[str, str]]:
    """Return what is mounted inside: the toolchains, and with `warm` the download and build caches."""
    mounts = [(ask("go", "env", "GOROOT"), "/usr/local/go"), (ask("rustc", "--print", "sysroot"), "/usr/local/rust")]
    plain = [{"source": source, "target": target, "layer": ""} for source, target in mounts]
    if not musl:
        empty = place / "empty"
        empty.mkdir()
        plain.append({"source": str(empty), "target": MUSL, "layer": ""})
    caches = {
        ask("go", "env", "GOMODCACHE"): "/root/go/pkg/mod",
        ask("go", "env", "GOCACHE"): "/root/.cache/go-build",
        os.path.expanduser("~/.cargo/registry"): "/root/.cargo/registry",
        os.path.expanduser("~/.cache/pip"): "/root/.cache/pip",
    }
    layered = [
        {"source": source, "target": target, "layer": str(place / "layers" / str(index))}
        for index, (source, target) in enumerate(caches.items())
        if warm and os.path.isdir(source)
    ]
    return plain + layered


def cgroup_mounts() -> list[dict[str, str]]:
    """Return this machine's cgroup trees: where, of which version, with which controllers."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, after = line.split(" - ")
        where, (kind, _, options) = before.split()[4], after.split()[:3]
        if kind in ("cgroup", "cgroup2") and where.startswith("/sys/fs/cgroup"):
            chosen = [option for option in options.split(",") if option not in ("rw", "ro", "xattr", "nsdelegate")]
            below = where.removeprefix("/sys/fs/cgroup").lstrip("/")
            found.append({"type": kind, "below": below, "options": ",".join(chosen) if kind == "cgroup" else ""})
    return found


@contextmanager
def own_cgroups(name: str, cgroups: list[dict[str, str]]) -> Iterator[list[Path]]:
    """Make a cgroup in every tree, and remove it with everything in it."""
    made = [Path("/sys/fs/cgroup") / cgroup["below"] / name for cgroup in cgroups]
    try:
        for path in made:
            path.mkdir()
            for setting in ("cpuset.cpus", "cpuset.mems"):  # empty ones take no process (cpusets, version 1)
                if (path / setting).exists() and (path / "cgroup.clone_children").exists():
                    (path / setting).write_text((path.parent / setting).read_text())
        yield made
    finally:
        ignore_interrupts()
        for path in made:
            remove_cgroup(path)


def remove_cgroup(path: Path) -> None:
    deadline = time.monotonic() + 10.0
    for folder, _, _ in os.walk(path, topdown=False):
        while True:
            try:
                os.rmdir(folder)
            except FileNotFoundError:
                pass
            except OSError:
                # Its last processes are on their way out: they were killed with their namespace.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
                continue
            break


@contextmanager
def place_of_our_own() -> Iterator[Path]:
    """Make a folder, and remove it; removes before what a killed run left."""
    BARE.mkdir(parents=True, exist_ok=True)
    for left in BARE.iterdir():
        sweep(left)
    place = BARE / str(os.getpid())
    place.mkdir()
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield place
        finally:
            ignore_interrupts()
            shutil.rmtree(place)


def sweep(left: Path) -> None:
    """Remove another run's folder and cgroups, unless it is at work: it holds its lock as long as it lives."""
    with (left / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        for cgroup in cgroup_mounts():
            remove_cgroup(Path("/sys/fs/cgroup") / cgroup["below"] / f"skerry-bare-{left.name}")
        shutil.rmtree(left)


@contextmanager
def ended(child: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """End the child with the block."""
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def die_with_parent() -> None:
    """Have the kernel kill the calling child when this script dies, even by SIGKILL (prctl(2))."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def enter(place: Path, plan: dict[str, object], cgroups: list[Path]) -> int:
    """Run the plan's command in new namespaces; return its exit status."""
    (place / "plan.json").write_text(json.dumps(plan))
    ready, told = os.pipe()
    waits, go = os.pipe()
    # --kill-child: should this process die, PID 1 in there dies, and with it everything else.
    argv = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc", "--net", "--cgroup"]
    inner = [sys.executable, str(ROOT / "tools" / "bare_enter.py"), str(place / "plan.json"), str(told), str(waits)]

    def join() -> None:
        die_with_parent()
        for cgroup in cgroups:
            (cgroup / "cgroup.procs").write_text(str(os.getpid()))

    with ExitStack() as stack:
        child = subprocess.Popen([*argv, *inner], pass_fds=(told, waits), preexec_fn=join, start_new_session=True)
        stack.enter_context(ended(child))
        os.close(told)
        os.close(waits)
        if os.read(ready, 1) != b"1":
            raise StepFailed(f"the namespaces cannot be made: `{' '.join(argv)}` ended with {child.wait()}")
        stack.enter_context(ended(connect(child.pid, place / "network.log")))
        os.close(go)
        return child.wait()


def connect(pid: int, log: Path) -> subprocess.Popen[bytes]:
    """Give a process's network namespace a way out that changes nothing on this machine; return what carries it."""
    ready, told = os.pipe()
    argv = ["slirp4netns", "--configure", "--mtu=1500", "--disable-host-loopback", f"--ready-fd={told}"]
    with log.open("wb") as output:
        child = subprocess.Popen(
            [*argv, str(pid), "tap0"],
            pass_fds=(told,),
            stdout=output,
            stderr=output,
            preexec_fn=die_with_parent,
            start_new_session=True,
        )
    os.close(told)
    up = os.read(ready, 1)
    os.close(ready)
    if up != b"1":
        child.kill()
        child.wait()
        raise StepFailed(f"slirp4netns gave no network: {log.read_text()}")
    return child


def prove(command: str, *, warm: bool, musl: bool) -> int:
    """Run the command in a bare root; return its exit status."""
    demand()
    put_toolchains_on_path()
    steps = Steps("bare root", ROOT / "build" / "logs" / "bare")
    with place_of_our_own() as place:
        root = place / "root"
        with steps.step("Debian with python3") as step:
            make_root(step, root)
        with steps.step("settings and checkout"):
            carry_files(root)
            copy_checkout(root)
        trees = cgroup_mounts()
        plan = {
            "root": str(root),
            "folders": folders(place, warm=warm, musl=musl),
            "cgroups": trees,
            "command": command,
            "workdir": CHECKOUT,
            "env": environment(),
        }
        print(f"bare root: $ {command}", flush=True)
        with own_cgroups(f"skerry-bare-{os.getpid()}", trees) as cgroups:
            return enter(place, plan, cgroups)


def interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    ignore_interrupts()
    raise KeyboardInterrupt


def ignore_interrupts() -> None:
    """Let nothing cut the clean-up short: it takes a second or two."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--command", help="run this instead of what CI runs, for example 'make demo'")
    parser.add_argument("--quick", action="store_true", help="bootstrap and the unit tests only")
    parser.add_argument("--warm", action="store_true", help="let it read this machine's download and build caches")
    parser.add_argument("--no-musl", action="store_true", help="hide Rust's musl target")
    chosen = parser.parse_args()
    command = QUICK if chosen.quick else TEST
    if chosen.command:
        command = WITH_MAKE + chosen.command
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    started = time.monotonic()
    try:
        code = prove(command, warm=chosen.warm, musl=not chosen.no_musl)
    except StepFailed as exc:
        print(f"bare root: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nbare root: interrupted; everything was removed", file=sys.stderr)
        return 130
    print(f"bare root: `{command.strip()}` ended with {code} after {time.monotonic() - started:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
