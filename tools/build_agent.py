"""Build the static Rust programs, each once for each state of its source.

Run as `python3 tools/build_agent.py [CRATE...]`. A binary lies in src/skerry/_bin, and beside it a JSON file
says what it was built from. Nothing is done while that file's key still fits. The target is musl where Rust
has it, else glibc linked statically; either way the file that comes out has no interpreter.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import struct
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / "src" / "skerry" / "_bin"
PROGRAMS = {"agent": "skerry-agent", "launcher": "skerry-launch"}  # by the folder of their crate
RECIPE = "2"  # raise when the way of building changes the file that comes out
PT_INTERP = 3


class BuildError(Exception):
    """A program could not be built: what, why, and what to do next."""


def musl_target() -> str:
    return f"{platform.machine()}-unknown-linux-musl"


def glibc_target() -> str:
    return f"{platform.machine()}-unknown-linux-gnu"


def choose_target() -> str:
    """Return the musl target where its standard library is installed, else the glibc one."""
    asked = ["rustc", "--print", "target-libdir", "--target", musl_target()]
    answer = subprocess.run(asked, capture_output=True, text=True)
    if answer.returncode == 0 and any(Path(answer.stdout.strip()).glob("libstd-*.rlib")):
        return musl_target()
    return glibc_target()


def source_files(crate: Path) -> list[Path]:
    """Return the crate's files in a fixed order, without what cargo builds."""
    target = crate / "target"
    files = (path for path in crate.rglob("*") if target not in path.parents and path.is_file())
    return sorted(files)


def content_key(crate: Path, compiler: str, target: str) -> str:
    """Return a key that changes with any source file, the compiler, the target or the recipe."""
    digest = hashlib.sha256(f"{RECIPE}\n{compiler}\n{target}\n".encode())
    for path in source_files(crate):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(crate).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def interpreter(elf: bytes) -> str | None:
    """Return the dynamic loader that a 64-bit ELF file asks for, or None if it is static."""
    if elf[:5] != b"\x7fELF\x02":
        raise BuildError("what cargo built is no 64-bit ELF file")
    table, size, count = struct.unpack_from("<Q", elf, 32)[0], *struct.unpack_from("<HH", elf, 54)
    for index in range(count):
        kind, _flags, offset, _va, _pa, length = struct.unpack_from("<IIQQQQ", elf, table + index * size)
        if kind == PT_INTERP:
            return elf[offset : offset + length].rstrip(b"\0").decode()
    return None


def built_key(binary: Path) -> str | None:
    """Return the key of the binary that is there, or None if it is absent, changed or unexplained."""
    try:
        told = json.loads(_sidecar(binary).read_text())
        found = hashlib.sha256(binary.read_bytes()).hexdigest()
    except (OSError, ValueError):
        return None
    return str(told.get("key")) if told.get("sha256") == found else None


def build(crate: Path, binary: Path) -> bool:
    """Build the crate's program of that name unless it is there already; return whether anything was done."""
    if not (crate / "Cargo.lock").is_file():
        raise BuildError(f"{crate} has no Cargo.lock; run this in a complete checkout")
    compiler, target = _compiler(), choose_target()
    key = content_key(crate, compiler, target)
    if built_key(binary) == key:
        return False
    _cargo(crate, binary.name, target)
    built = crate / "target" / target / "release" / binary.name
    content = built.read_bytes()
    loader = interpreter(content)
    if loader is not None:
        raise BuildError(f"{built} is not static (it asks for {loader}); where it runs there is no such file")
    _install(
        built,
        binary,
        {"version": _version(crate), "key": key, "sha256": hashlib.sha256(content).hexdigest(), "target": target},
    )
    return True


def _compiler() -> str:
    try:
        return subprocess.run(["rustc", "-vV"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as exc:
        raise BuildError(f"no working rustc on PATH ({exc}); install Rust, for example with rustup") from exc


def _cargo(crate: Path, name: str, target: str) -> None:
    env = dict(os.environ)
    if target == glibc_target():
        env["RUSTFLAGS"] = f"{env.get('RUSTFLAGS', '')} -C target-feature=+crt-static".strip()
    # --target is given for glibc too: then the flags reach the program and not the build scripts.
    argv = ["cargo", "build", "--release", "--locked", "--bin", name, "--target", target, *_without_paths(target)]
    answer = subprocess.run(argv, cwd=crate, env=env)
    if answer.returncode != 0:
        raise BuildError(f"`{' '.join(argv)}` in {crate} ended with {answer.returncode}; see above")


def _without_paths(target: str) -> list[str]:
    """Return the options that keep the builder's folder of crates out of the program: all get the same bytes."""
    crates = os.environ.get("CARGO_HOME") or os.path.expanduser("~/.cargo")
    return ["--config", f"target.{target}.rustflags=['--remap-path-prefix={crates}=/cargo']"]


def _version(crate: Path) -> str:
    import tomllib  # not at the top: an older Python must come as far as being told that it is too old

    with (crate / "Cargo.toml").open("rb") as file:
        return str(tomllib.load(file)["package"]["version"])


def _install(built: Path, binary: Path, facts: dict[str, str]) -> None:
    binary.parent.mkdir(parents=True, exist_ok=True)
    partial = binary.with_suffix(".new")
    shutil.copyfile(built, partial)
    partial.chmod(0o755)
    partial.replace(binary)
    # Written last: until it is there, the binary counts as unexplained and is built again.
    sidecar = _sidecar(binary)
    partial.write_text(json.dumps(facts, indent=2) + "\n")
    partial.replace(sidecar)


def _sidecar(binary: Path) -> Path:
    return binary.with_name(binary.name + ".json")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("crates", nargs="*", metavar="CRATE", help=f"of {', '.join(PROGRAMS)}; all by default")
    chosen = parser.parse_args().crates or list(PROGRAMS)
    for crate in chosen:
        if crate not in PROGRAMS:
            parser.error(f"there is no crate {crate!r}; there are: {', '.join(PROGRAMS)}")
        try:
            done = build(ROOT / crate, BIN / PROGRAMS[crate])
        except BuildError as exc:
            print(f"build_agent: {exc}", file=sys.stderr)
            return 1
        print(f"{PROGRAMS[crate]}: {'built' if done else 'up to date'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
