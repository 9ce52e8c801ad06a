#!/usr/bin/env python3
"""Build the pinned runsc, and the Go programs beside it, from `runtime/`; standard library only.

build_runtime.py                            src/skerry/_bin/runsc and runsc.json, unless they are up to date
build_runtime.py --plain --output PATH      the module as upstream ships it, for the test that compares
build_runtime.py --program NAME --output P  a Go program of ours, runtime/cmd/NAME
build_runtime.py --shapes [--check]         refresh (or verify) the shapes of gVisor's control calls
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import errno
import fcntl
import hashlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

REPOSITORY = Path(__file__).resolve().parent.parent
RUNTIME = REPOSITORY / "runtime"
GENERATOR = RUNTIME / "cmd" / "precompiled"
PATCHES = RUNTIME / "patches"
WORK = REPOSITORY / "build" / "runtime"
RUNSC = REPOSITORY / "src" / "skerry" / "_bin" / "runsc"
SHAPES = REPOSITORY / "src" / "skerry" / "isolation" / "gvisor" / "shapes.json"

MODULE = "gvisor.dev/gvisor"
FILTERS = tuple(Path("runsc") / part / "filter" / "filter_precompiled.go" for part in ("boot", "fsgofer"))
VERSION_VARIABLE = f"{MODULE}/runsc/version.version"
# -trimpath also makes Go's build cache fit every folder: the plain build reuses what the real one compiled.
BUILD_FLAGS = ("-trimpath", "-buildvcs=false")
STRIP = "-s -w"
RECIPE = 1  # raise it when the steps below change what they make
HEARTBEAT_SECONDS = 15.0
NO_NETWORK = re.compile(
    r"dial tcp|i/o timeout|connection refused|no such host|proxyconnect|TLS handshake|x509|network is unreachable"
    r"|server misbehaving|: 40[347] |: 50[234] "
)


class BuildError(Exception):
    """What the person who runs the build can act on: the thing, the cause, the next step."""


# Progress


class Step:
    """One named step: a live line with the elapsed time on a terminal, plain lines elsewhere."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._started = time.monotonic()
        self._spoken = self._started
        self._live = sys.stderr.isatty()
        if not self._live:
            self._line(f"{name} ...\n")

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._started

    def tick(self, note: str = "") -> None:
        """Show that the step is alive, and what it is at."""
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            self._line(f"\r\x1b[K{f'{self.name} {self.elapsed:6.1f} s  {note}'[:width]}")
        elif time.monotonic() - self._spoken >= HEARTBEAT_SECONDS:
            self._spoken = time.monotonic()
            self._line(f"  {self.name}: {self.elapsed:.0f} s so far  {note}\n")

    def end(self, outcome: str) -> None:
        self._line(("\r\x1b[K" if self._live else "") + f"{self.name}: {outcome} {self.elapsed:.1f} s\n")

    @staticmethod
    def _line(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


@contextlib.contextmanager
def step(name: str) -> Iterator[Step]:
    """Show a step from its beginning to its end, whatever the end is."""
    shown = Step(name)
    shown.tick()
    try:
        yield shown
    except BaseException:
        shown.end("stopped after")
        raise
    shown.end("done in")


# Go


@dataclass(frozen=True)
class Go:
    """A Go toolchain that is new enough, and the environment in which we call it."""

    path: str
    version: str
    target: str

    def environment(self) -> dict[str, str]:
        # GOTOOLCHAIN=local: the version is part of the cache key, so Go must not replace itself by another one.
        fixed = {"CGO_ENABLED": "0", "GOOS": "linux", "GOTOOLCHAIN": "local", "GOWORK": "off"}
        return {**os.environ, **fixed, "GOFLAGS": "-buildvcs=false"}


def needed_go() -> str:
    return pinned(r"^go (\S+)$")


def gvisor_version() -> str:
    return pinned(rf"^(?:require |\t){re.escape(MODULE)} (\S+)$")


def pinned(pattern: str) -> str:
    found = re.search(pattern, (RUNTIME / "go.mod").read_text(), re.MULTILINE)
    if found is None:
        raise BuildError(f"{RUNTIME / 'go.mod'} has no line like {pattern!r}; restore it from git")
    return found.group(1)


def find_go() -> Go:
    """Return the machine's Go; raises BuildError when it is missing or too old."""
    needed = needed_go()
    advice = f"install Go {needed} or newer (https://go.dev/dl/) and put its bin folder on PATH"
    path = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if path is None:
        raise BuildError(f"runsc cannot be built: Go was not found; {advice}")
    probe = Go(path=path, version="", target="")
    asked = ("GOVERSION", "GOOS", "GOARCH", "GOAMD64", "GOARM64", "GOEXPERIMENT")
    answer = subprocess.run(
        [path, "env", *asked], cwd="/", env=probe.environment(), capture_output=True, text=True, check=False
    )
    if answer.returncode != 0:
        raise BuildError(f"runsc cannot be built: {path} does not run ({answer.stderr.strip()}); {advice}")
    version, *target = answer.stdout.split("\n")
    if numbers(version) < numbers(needed):
        raise BuildError(f"runsc cannot be built: {path} is {version}, too old; {advice}")
    return Go(path=path, version=version, target=" ".join(target).strip())


def numbers(version: str) -> tuple[int, ...]:
    found = re.search(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found.group().split(".")) if found else ()


# Running commands


def run(command: Sequence[str], go: Go, shown: Step) -> str:
    """Run a command in `runtime/` under a live step; return its output, or raise with its last lines."""
    process = subprocess.Popen(
        command,
        cwd=RUNTIME,
        env=go.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # so that one signal reaches Go and all its compilers
    )
    try:
        output = follow(process, shown)
    except BaseException:
        stop(process)
        raise
    if process.returncode != 0:
        raise failure(shown.name, output, process.returncode)
    return output


def follow(process: subprocess.Popen[bytes], shown: Step) -> str:
    pipe = process.stdout
    assert pipe is not None
    received = b""
    while True:
        readable, _, _ = select.select([pipe], [], [], 0.2)
        if readable:
            chunk = os.read(pipe.fileno(), 65536)
            if not chunk:
                break
            received += chunk
        lines = received.decode(errors="replace").splitlines()
        shown.tick(lines[-1] if lines else "")
    pipe.close()
    process.wait()
    return received.decode(errors="replace")


def stop(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
            return


def failure(name: str, output: str, status: int) -> BuildError:
    tail = "\n".join(f"    {line}" for line in output.strip().splitlines()[-15:])
    if "no space left on device" in output:
        return full_disk(output)
    if NO_NETWORK.search(output):
        proxy = os.environ.get("GOPROXY") or "what `go env GOPROXY` says"
        return BuildError(
            f"{name}: Go's module proxy cannot be reached (GOPROXY is {proxy})\n{tail}\n"
            "check the network, or set GOPROXY to a proxy that this machine reaches, and run the build again"
        )
    return BuildError(f"{name}: failed with status {status}\n{tail}\ncorrect the cause and run the build again")


def full_disk(detail: object) -> BuildError:
    return BuildError(
        f"the disk is full: {str(detail).strip().splitlines()[-1]}\n"
        f"the build needs about 2 GiB, in {WORK}, in Go's caches (`go env GOCACHE GOMODCACHE`) and in "
        f"{os.environ.get('TMPDIR', '/tmp')}: free some and run it again"
    )


# The result and its key


@dataclass(frozen=True)
class Built:
    """What the sidecar says about a binary."""

    version: str
    gvisor_version: str
    go_version: str
    sha256: str
    key: str


def sidecar(binary: Path) -> Path:
    return binary.with_name(binary.name + ".json")


def cache_key(go: Go, *, plain: bool) -> str:
    """Return what decides the content of the binary, as one hash."""
    inputs = [RUNTIME / "go.mod", RUNTIME / "go.sum"]
    if not plain:
        inputs += sorted(set(GENERATOR.glob("*.go")) - set(GENERATOR.glob("*_test.go")))
        inputs += sorted(PATCHES.glob("*.patch"))
    content = {str(path.relative_to(RUNTIME)): path.read_text() for path in inputs}
    decides = [RECIPE, plain, BUILD_FLAGS, STRIP, go.version, go.target, content]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def version_stamp(key: str, *, plain: bool) -> str:
    """Return what `runsc --version` says; it differs between builds, so a checkpoint only meets its own binary."""
    date, revision = gvisor_version().split("-")[1:]
    return f"skerry-{date}-{revision}-{'plain-' if plain else ''}{key[:12]}"


def sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def up_to_date(binary: Path, key: str) -> Built | None:
    """Return what is known of the binary if it was made from this key and is intact."""
    try:
        known = Built(**json.loads(sidecar(binary).read_text()))
        return known if known.key == key and known.sha256 == sha256(binary) else None
    except (OSError, ValueError, TypeError):
        return None


# Building


@contextlib.contextmanager
def only_builder() -> Iterator[None]:
    """Hold the build folder alone; a second build waits, since both use the same paths."""
    WORK.mkdir(parents=True, exist_ok=True)
    with (WORK / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with step("wait for another build"):
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build_runsc(go: Go, binary: Path, *, plain: bool) -> None:
    key = cache_key(go, plain=plain)
    if report_if_current(binary, key):
        return
    with only_builder():
        if report_if_current(binary, key):
            return
        version = version_stamp(key, plain=plain)
        with step("download modules") as shown:
            source = download(go, shown)
        with staging(binary) as staged:
            if plain:
                compile_runsc(go, staged, version, modfile=None)
            else:
                with patched_module(go, source) as modfile:
                    compile_runsc(go, staged, version, modfile=modfile)
            publish(go, staged, binary, version, key)
    sys.stderr.write(f"{shown_path(binary)}: built, {version}\n")


def report_if_current(binary: Path, key: str) -> bool:
    known = up_to_date(binary, key)
    if known is not None:
        sys.stderr.write(f"{shown_path(binary)}: up to date, {known.version}\n")
    return known is not None


def shown_path(path: Path) -> str:
    return str(path.relative_to(REPOSITORY)) if path.is_relative_to(REPOSITORY) else str(path)


def download(go: Go, shown: Step) -> Path:
    """Fetch every pinned module and return the folder of gVisor's."""
    run([go.path, "mod", "download"], go, shown)
    return Path(run([go.path, "list", "-m", "-f", "{{.Dir}}", MODULE], go, shown).split("\n")[-2])


@contextlib.contextmanager
def patched_module(go: Go, source: Path) -> Iterator[Path]:
    """Give a go.mod that uses a copy of gVisor with our patches and the precompiled seccomp programs in it.

    A copy, since `go build -overlay` is refused for files in the module cache.
    """
    copy, modfile = WORK / "gvisor", WORK / "go.mod"
    remove(copy)
    try:
        generator = WORK / "precompiled"
        build_program(go, "precompiled", generator)
        with step("copy gVisor's module"):
            shutil.copytree(source, copy)
            for folder, _, files in os.walk(copy):
                make_writable(Path(folder), *(Path(folder, file) for file in files))
        apply_patches(go, copy)
        with step("generate seccomp programs") as shown:
            run([str(generator), "-module", str(copy)], go, shown)
        # The path is relative and always the same: it ends up in the binary.
        replacement = f"\nreplace {MODULE} => {os.path.relpath(copy, RUNTIME)}\n"
        modfile.write_text((RUNTIME / "go.mod").read_text() + replacement)
        shutil.copyfile(RUNTIME / "go.sum", WORK / "go.sum")
        yield modfile
    finally:
        remove(copy)


def apply_patches(go: Go, copy: Path) -> None:
    if shutil.which("patch") is None:
        raise BuildError("runsc cannot be built: the command patch was not found; install it (Debian: patch)")
    for patch in sorted(PATCHES.glob("*.patch")):
        with step(f"apply {patch.name}") as shown:
            # Exactly as it was written: a patch that fits only nearly may change something else.
            run(["patch", "-p1", "--fuzz=0", f"--directory={copy}", f"--input={patch}"], go, shown)


def make_writable(*paths: Path) -> None:
    for path in paths:  # modules are read-only in Go's cache, and so is a copy of one
        path.chmod(path.stat().st_mode | 0o200)


def remove(tree: Path) -> None:
    if tree.exists():
        for folder, _, _ in os.walk(tree):
            make_writable(Path(folder))
        shutil.rmtree(tree)


def compile_runsc(go: Go, staged: Path, version: str, *, modfile: Path | None) -> None:
    linker = f"{STRIP} -X {VERSION_VARIABLE}={version}"
    chosen = [] if modfile is None else [f"-modfile={modfile}"]
    command = [go.path, "build", "-v", *BUILD_FLAGS, *chosen, "-ldflags", linker, "-o", str(staged)]
    with step("compile runsc") as shown:
        run([*command, f"{MODULE}/runsc"], go, shown)


def build_program(go: Go, name: str, output: Path) -> None:
    """Build runtime/cmd/NAME statically."""
    if not (RUNTIME / "cmd" / name).is_dir():
        known = ", ".join(sorted(path.name for path in (RUNTIME / "cmd").iterdir()))
        raise BuildError(f"there is no program {name!r} in {RUNTIME / 'cmd'}; there are: {known}")
    output.parent.mkdir(parents=True, exist_ok=True)
    with step(f"build {name}") as shown:
        command = [go.path, "build", "-v", *BUILD_FLAGS, "-ldflags", STRIP, "-o", str(output), f"./cmd/{name}"]
        run(command, go, shown)


@contextlib.contextmanager
def staging(binary: Path) -> Iterator[Path]:
    """Give a name beside the binary to build under; nothing stays under it."""
    binary.parent.mkdir(parents=True, exist_ok=True)
    staged = binary.with_name(f".{binary.name}.partial")
    try:
        yield staged
    finally:
        staged.unlink(missing_ok=True)


def publish(go: Go, staged: Path, binary: Path, version: str, key: str) -> None:
    """Put the binary and its sidecar in place once it says the version that it was given."""
    answer = subprocess.run([staged, "--version"], capture_output=True, text=True, check=False)
    if answer.stdout.split("\n")[0] != f"runsc version {version}":
        raise BuildError(
            f"the new runsc says {answer.stdout.strip() or answer.stderr.strip()!r} instead of version {version}; "
            f"gVisor no longer keeps it in {VERSION_VARIABLE}: adapt VERSION_VARIABLE in {__file__}"
        )
    facts = Built(
        version=version,
        gvisor_version=gvisor_version(),
        go_version=go.version,
        sha256=sha256(staged),
        key=key,
    )
    write_atomically(sidecar(binary), json.dumps(asdict(facts), indent=2) + "\n")
    staged.replace(binary)


def write_atomically(path: Path, text: str) -> None:
    with staging(path) as staged:
        staged.write_text(text)
        staged.replace(path)


# Shapes


def build_shapes(go: Go, *, check: bool) -> None:
    """Write shapes.json from gVisor's own types, or fail with the differences when it is not what they say."""
    with only_builder():
        program = WORK / "shapes"
        build_program(go, "shapes", program)
        answer = subprocess.run([program], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise BuildError(f"runtime/cmd/shapes failed: {answer.stderr.strip()}; adapt it to the pinned gVisor")
    found = SHAPES.read_text() if SHAPES.exists() else ""
    if found == answer.stdout:
        sys.stderr.write(f"{shown_path(SHAPES)}: up to date\n")
    elif check:
        lines = difflib.unified_diff(found.splitlines(), answer.stdout.splitlines(), "checked in", "gVisor", "", "", 1)
        shortened = "\n".join(list(lines)[:40])
        raise BuildError(f"{SHAPES} does not fit the pinned gVisor; run {__file__} --shapes\n{shortened}")
    else:
        SHAPES.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(SHAPES, answer.stdout)
        sys.stderr.write(f"{shown_path(SHAPES)}: written\n")


# The command


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--plain", action="store_true", help="build the module as upstream ships it")
    what.add_argument("--program", metavar="NAME", help="build runtime/cmd/NAME")
    what.add_argument("--shapes", action="store_true", help="refresh shapes.json")
    parser.add_argument("--check", action="store_true", help="with --shapes: verify only")
    parser.add_argument("--output", type=Path, metavar="PATH", help="with --plain or --program: where it goes")
    chosen = parser.parse_args(arguments)
    if (chosen.output is not None) != (chosen.plain or chosen.program is not None):
        parser.error("--output goes together with --plain or --program")
    if chosen.check and not chosen.shapes:
        parser.error("--check goes together with --shapes")
    return chosen


def build(chosen: argparse.Namespace) -> None:
    go = find_go()
    if chosen.shapes:
        build_shapes(go, check=chosen.check)
    elif chosen.program is not None:
        build_program(go, chosen.program, chosen.output.absolute())
    elif chosen.plain:
        build_runsc(go, chosen.output.absolute(), plain=True)
    else:
        build_runsc(go, RUNSC, plain=False)


def interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str]) -> int:
    signal.signal(signal.SIGTERM, interrupt)
    try:
        build(parse(arguments))
    except KeyboardInterrupt:
        sys.stderr.write("stopped; partial files were removed\n")
        return 130
    except BuildError as error:
        sys.stderr.write(f"build_runtime: {error}\n")
        return 1
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        sys.stderr.write(f"build_runtime: {full_disk(error)}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
