"""The base of the default image: a Debian root filesystem with what code expects to find.

`build_base` makes it with mmdebstrap from the machine's own Debian mirror. The Python that comes with a
Debian release is the one an image has, so the asked version chooses the release.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from skerry.images import standins
from skerry.images.mirrors import KEYRING, Source, download_settings, machine_suite, sources_for
from skerry.model import variables
from skerry.model.errors import ImageBuildError, InvalidError

RECIPE = 1  # raise when the way of building changes what comes out

# The Python of each Debian release that is still of use, oldest first.
SUITES: Mapping[str, str] = {"3.9": "bullseye", "3.11": "bookworm", "3.13": "trixie"}
DEFAULT_SUITE = "bookworm"

# Beyond what dpkg and apt need. Sizes and what was left out: docs/decisions/0003.
PACKAGES = (
    "ca-certificates",
    "curl",
    "git",
    "jq",
    "less",
    "make",
    "netbase",
    "nodejs",
    "npm",
    "openssh-client",
    "patch",
    "procps",
    "psmisc",
    "python3",
    "python3-venv",
    "sudo",
    "tzdata",
    "unzip",
    "wget",
    "xz-utils",
    "zip",
)

# What nobody reads inside a sandbox; the same exclusions hold for packages installed later.
DPKG_OPTIONS = (
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-include=/usr/share/locale/locale.alias",
    "force-unsafe-io",  # a sandbox's disk is memory: nothing is gained by fsync
)

BUILD_VARIABLES = ("PATH", "TMPDIR", "http_proxy", "https_proxy", "no_proxy")

USER = "user"
UID = 1000
TAIL_LINES = 20
PROBE_S = 20.0
STOP_STEP_S = 0.2

# Each file of the image that is not a package's: path, mode, content.
FILES: tuple[tuple[str, int, str], ...] = (
    ("etc/hostname", 0o644, "sandbox\n"),
    ("etc/hosts", 0o644, "127.0.0.1 localhost\n"),
    ("etc/resolv.conf", 0o644, ""),
    ("etc/machine-id", 0o444, ""),
    ("etc/dpkg/dpkg.cfg.d/skerry", 0o644, "".join(f"{option}\n" for option in DPKG_OPTIONS)),
    (
        "etc/apt/apt.conf.d/skerry",
        0o644,
        # Translations and kept archives only cost memory in a sandbox.
        'Acquire::Languages "none";\n'
        'APT::Keep-Downloaded-Packages "false";\n'
        'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb || true"; };\n',
    ),
    # No init runs, so packages must not start their services (invoke-rc.d asks this program).
    ("usr/sbin/policy-rc.d", 0o755, "#!/bin/sh\nexit 101\n"),
    (
        f"etc/sudoers.d/{USER}",
        0o440,
        # Indexes, proxies and certificates are given to sandboxes as variables: sudo must not drop them.
        f'Defaults env_keep += "{" ".join(variables.SUDO_KEEPS)}"\n{USER} ALL=(ALL:ALL) NOPASSWD: ALL\n',
    ),
)

# Left by the build, of no use or different each time.
LEFTOVERS = (
    "dev/*",
    "etc/apt/apt.conf.d/99mmdebstrap",
    "etc/dpkg/dpkg.cfg.d/99mmdebstrap",
    "etc/*-",
    "root/.cache",
    "usr/local/bin/[aA]ctivate*",
    "var/cache/apt/*.bin",
    "var/cache/apt/archives/*.deb",
    "var/cache/apt/archives/lock",
    "var/cache/debconf/*-old",
    "var/cache/ldconfig/*",
    "var/lib/apt/lists/*_*",
    "var/lib/apt/lists/lock",
    "var/lib/dpkg/*-old",
    "var/log/*.log",
    "var/log/apt/*",
    "run/*",
    "tmp/*",
    "var/tmp/*",
)

# In the new root. A Python environment at /usr/local that sees Debian's modules: its python and pip come first
# on PATH, pip installs there without complaint, and Debian's EXTERNALLY-MANAGED marker stays where it is.
# Hash-checked .pyc files would be read back at every import and dated ones go stale when an image's times are
# fixed, so they are unchecked. Packages such as JREs link into man folders and fail where there is none.
SETUP = f"""
set -eu
useradd --create-home --uid {UID} --user-group --shell /bin/bash {USER}
python3 -m venv --system-site-packages /usr/local
/usr/bin/python3 -m compileall -f -q --invalidation-mode unchecked-hash /usr/local/lib
mkdir -p /usr/share/man/man1 /usr/share/man/man7 /usr/share/man/man8
"""

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class BaseImage:
    """A root filesystem that was built: where it lies, what is in it, and the newest time of its packages' files."""

    root: Path
    python_version: str
    suite: str
    timestamp: int
    packages: Mapping[str, str]


def available_python_versions() -> list[str]:
    """Return the Python versions whose Debian release this machine's mirror has, oldest first."""
    return [version for version, suite in SUITES.items() if _mirror_has(suite)]


def base_key(python_version: str | None) -> str:
    """Return a key that is the same for bases built the same way from the same mirror.

    It does not change when Debian publishes an update: an image stays as it was built until it is removed.
    """
    suite = _suite(python_version)
    told = {
        "recipe": RECIPE,
        "suite": suite,
        "machine": platform.machine(),
        "packages": PACKAGES,
        "files": FILES,
        "setup": SETUP,
        "stand_ins": standins.script(),
        "sources": _sources_file(sources_for(suite)),
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def build_base(
    python_version: str | None, into: Path, *, progress: Progress, stop: threading.Event | None = None
) -> BaseImage:
    """Return the base, built in the new folder `into`; nothing is left there if that fails, or `stop` is set meanwhile.

    Takes about half a minute and needs root. Raises InvalidError for a Python version that the mirror does
    not have, and ImageBuildError with mmdebstrap's last lines when the build fails.
    """
    suite = _suite(python_version)
    if python_version is not None and not _mirror_has(suite):
        raise _no_such_version(python_version)
    sources = sources_for(suite)
    started = time.time()
    try:
        _mmdebstrap(suite, sources, into, progress, stop or threading.Event())
        progress("base image: clean up")
        _remove_leftovers(into)
        _write_files(into, sources)
        timestamp = _newest(into, before=started)
        _settle(into, timestamp)
    except BaseException:
        shutil.rmtree(into, ignore_errors=True)
        raise
    return BaseImage(
        root=into,
        python_version=next(version for version, name in SUITES.items() if name == suite),
        suite=suite,
        timestamp=timestamp,
        packages=_packages(into),
    )


def _suite(python_version: str | None) -> str:
    if python_version is None:
        own = machine_suite()
        return own if own is not None and own in SUITES.values() else DEFAULT_SUITE
    if python_version not in SUITES:
        raise _no_such_version(python_version)
    return SUITES[python_version]


def _no_such_version(version: str) -> InvalidError:
    exist = available_python_versions()
    return InvalidError(
        f"python_version {version!r}: this machine's Debian mirror has no such Python; "
        f"it has {', '.join(exist) or 'none that can be reached'}. "
        "Name one of these, or leave python_version out for the default.",
        available=exist,
    )


def _mirror_has(suite: str) -> bool:
    sources = [source for source in sources_for(suite) if source.suite == suite]
    if not sources:
        # mmdebstrap then takes Debian's own mirror, which has every release that is not archived.
        return True
    with tempfile.TemporaryDirectory() as folder:
        return any(_fetch(f"{source.uri.rstrip('/')}/dists/{suite}/InRelease", folder) for source in sources)


def _fetch(uri: str, folder: str) -> bool:
    """Say whether a file is there, asked through apt, so that the machine's proxy and certificates count."""
    quick = ["-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=5", "-o", "Acquire::https::Timeout=5"]
    argv = ["/usr/lib/apt/apt-helper", *quick, "download-file", uri, f"{folder}/InRelease"]
    try:
        return subprocess.run(argv, capture_output=True, timeout=PROBE_S).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _mmdebstrap(suite: str, sources: Sequence[Source], into: Path, progress: Progress, stop: threading.Event) -> None:
    argv = [
        "mmdebstrap",
        "--mode=root",
        "--format=directory",
        "--variant=minbase",
        f"--include={','.join(PACKAGES)}",
        '--aptopt=Apt::Install-Recommends "false"',
        '--aptopt=Acquire::Languages "none"',
        *(f"--aptopt={option}" for option in download_settings()),
        *(f"--dpkgopt={option}" for option in DPKG_OPTIONS),
        '--essential-hook=printf %s "$SKERRY_STAND_INS" | chroot "$1" sh -s',
        '--customize-hook=printf %s "$SKERRY_SETUP" | chroot "$1" sh -s',
        suite,
        str(into),
        *(source.line(f"/{KEYRING}") for source in sources),
    ]
    # Few variables reach the packages' scripts: PYTHONDONTWRITEBYTECODE, say, would make another image.
    env = {name: value for name, value in os.environ.items() if name in BUILD_VARIABLES}
    scripts = {"SKERRY_SETUP": SETUP, "SKERRY_STAND_INS": standins.script()}
    _run(argv, {**env, **scripts, "LC_ALL": "C.UTF-8"}, progress, stop)


def _run(argv: Sequence[str], env: Mapping[str, str], progress: Progress, stop: threading.Event) -> None:
    """Run a command to its end, or till `stop`, telling its lines; raise ImageBuildError with the last if it fails."""
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    try:
        child = subprocess.Popen(
            argv,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            umask=0o022,  # the server's own would close the image to its users
            start_new_session=True,
        )
    except OSError as exc:
        raise ImageBuildError(
            f"the base image cannot be built: {argv[0]}: {exc.strerror}; run `apt-get install {argv[0]}`"
        ) from exc
    threading.Thread(target=_end_at, args=(stop, child), daemon=True).start()
    try:
        for line in child.stdout or ():
            tail.append(line.rstrip())
            if line.startswith("I: "):
                progress(f"base image: {line[3:].strip()}")
        code = child.wait()
    finally:
        _end(child)
    if code != 0:
        raise ImageBuildError(
            f"the base image cannot be built: {argv[0]} ended with {code}. Its last lines:\n"
            + "\n".join(tail)
            + "\nCheck that `apt-get update` works on this machine and that its disk has 1 GiB free."
        )


def _end_at(stop: threading.Event, child: subprocess.Popen[str]) -> None:
    """End a child once `stop` is set: whoever reads its lines may wait for the next one for long."""
    while child.poll() is None:
        if stop.wait(STOP_STEP_S):
            _end(child)


def _end(child: subprocess.Popen[str]) -> None:
    """Let mmdebstrap take down what it mounted; kill its group only if it does not."""
    if child.poll() is not None:
        return
    os.killpg(child.pid, signal.SIGTERM)
    try:
        child.wait(30.0)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _write_files(root: Path, sources: Sequence[Source]) -> None:
    for name, mode, content in FILES:
        _write(root / name, mode, content)
    if sources:
        _remove(root / "etc/apt/sources.list")
        for path in (root / "etc/apt/sources.list.d").iterdir():
            _remove(path)
        _write(root / "etc/apt/sources.list.d/debian.sources", 0o644, _sources_file(sources))


def _sources_file(sources: Sequence[Source]) -> str:
    return "\n".join(source.stanza(f"/{KEYRING}") for source in sources)


def _write(path: Path, mode: int, content: str) -> None:
    _remove(path)  # /etc/resolv.conf may be a link that means a file of this machine
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(mode)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_leftovers(root: Path) -> None:
    for pattern in LEFTOVERS:
        for path in list(root.glob(pattern)):
            _remove(path)


def _newest(root: Path, *, before: float) -> int:
    """Return the newest time of a file that came with a package: the same for every build of the same packages."""
    times = (status.st_mtime for _, status in _walk(root) if stat.S_ISREG(status.st_mode))
    return int(max(when for when in times if when < before))


def _settle(root: Path, timestamp: int) -> None:
    """Make what the build itself dated say the packages' time instead."""
    for path, status in _walk(root):
        if status.st_mtime > timestamp:
            os.utime(path, (timestamp, timestamp), follow_symlinks=False)
    shadow = root / "etc/shadow"
    days = str(timestamp // 86400)
    entries = [line.split(":") for line in shadow.read_text().splitlines()]
    mode = stat.S_IMODE(shadow.stat().st_mode)
    shadow.write_text("".join(":".join([*entry[:2], days, *entry[3:]]) + "\n" for entry in entries))
    shadow.chmod(mode)
    os.utime(shadow, (timestamp, timestamp))


def _walk(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            yield path, os.lstat(path)


def _packages(root: Path) -> dict[str, str]:
    argv = ["dpkg-query", f"--root={root}", "--show", "--showformat=${Package} ${Version}\n"]
    lines = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    return dict(line.split(" ", 1) for line in lines)
