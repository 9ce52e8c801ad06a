"""Write THIRD-PARTY-LICENSES.txt: the licence of everything that the programs of the wheel contain.

Run as `.venv/bin/python tools/licences.py [--check]`, once the programs are built. Go's programs say themselves which
modules are in them, and cargo which crates; the texts are those that their authors packed beside the sources.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bootstrap import put_toolchains_on_path
from build_agent import BIN, PROGRAMS, musl_target

ROOT = Path(__file__).resolve().parent.parent
RUNTIME = ROOT / "runtime"
TARGET = ROOT / "THIRD-PARTY-LICENSES.txt"
OURS = "skerry/runtime"
GO_PROGRAMS = ("runsc", "skerry-image")
LLVM = "Apache-2.0 WITH LLVM-exception"
OPENING = """\
skerry's own sources are under the Apache License 2.0 (LICENSE). Its wheel also carries programs, and they contain
what is named here: runsc and skerry-image are built with Go, skerry-agent and skerry-launch with Rust. Written by
tools/licences.py; `make golden` writes it anew.
"""
# What is in the programs without being a module or a crate with a text of its own, and whose text is the same.
GO_ITSELF = "the Go runtime and standard library"
GO_TEXT_OF = "golang.org/x/sys"
RUST_ITSELF = "the Rust standard library"
RUST_TEXT_OF = "bitflags"
RUST_OWNER = "The Rust Project Developers"
COMPILER_RUNTIME = "LLVM's compiler runtime and unwinder, as Rust brings them"
LLVM_TEXT_OF = "rustix"
MUSL = "musl, the C library of the Rust programs"
MUSL_COPYRIGHT = "Copyright (c) 2005-2020 Rich Felker, et al.\nParts by others are named in musl's file COPYRIGHT."
# What each text can be told by; the first that fits counts.
MARKS = (
    ("Apache-2.0", r"Apache License\s+Version 2\.0"),
    ("BSD-3-Clause", r"Redistributions of source code.*Neither the name"),
    ("BSD-2-Clause", r"Redistributions of source code"),
    ("MIT", r"Permission is hereby granted, free of charge"),
)


class Part(NamedTuple):
    """Something that a program contains: what it is called, under which licence, and the text of it."""

    name: str
    licence: str
    text: str


class LicenceError(Exception):
    """The texts cannot be told: what is missing, and what to do."""


def ask(argv: Sequence[str], folder: Path) -> str:
    answer = subprocess.run(argv, cwd=folder, capture_output=True, text=True)
    if answer.returncode != 0:
        raise LicenceError(f"`{' '.join(argv)}` in {folder} ended with {answer.returncode}: {answer.stderr.strip()}")
    return answer.stdout


# Go


def go_modules() -> list[str]:
    """Return the modules that are in the Go programs."""
    missing = [name for name in GO_PROGRAMS if not (BIN / name).exists()]
    if missing:
        raise LicenceError(f"not built: {', '.join(missing)}; run: make setup")
    told = ask(["go", "version", "-m", *(str(BIN / name) for name in GO_PROGRAMS)], RUNTIME)
    # gVisor is the main module of its runsc; ours is that of the helper.
    return sorted(set(re.findall(r"^\t(?:dep|mod)\t(\S+)\t", told, re.M)) - {OURS})


def go_parts() -> Iterator[Part]:
    asked = ["go", "list", "-m", "-f", "{{.Path}}\t{{.Version}}\t{{.Dir}}", *go_modules()]
    for line in ask(asked, RUNTIME).splitlines():
        path, version, folder = line.split("\t")
        text = "\n".join(licence_texts(Path(folder)))
        yield Part(f"{path} {version}", licence_of(text, path), text)
        if path == GO_TEXT_OF:
            yield Part(GO_ITSELF, licence_of(text, path), text)


def licence_texts(folder: Path) -> list[str]:
    """Return what the authors of a Go module ask to be handed on with it."""
    files = sorted(path for path in folder.iterdir() if re.match(r"(?i)licen[cs]e|copying|notice", path.name))
    if not files:
        raise LicenceError(f"there is no licence in {folder}; find out which one holds, and teach tools/licences.py")
    return [clean(file.read_text()) for file in files]


def licence_of(text: str, name: str) -> str:
    for licence, mark in MARKS:
        if re.search(mark, text, re.S):
            return licence
    raise LicenceError(f"the licence of {name} is none that is known; read it, and add its mark to tools/licences.py")


# Rust


def rust_parts() -> Iterator[Part]:
    crates = {crate["name"]: crate for folder in PROGRAMS for crate in linked_crates(ROOT / folder)}
    for crate in crates.values():
        yield Part(f"{crate['name']} {crate['version']}", "MIT", mit_text(crate))
    of_rust = mit_text(crates[RUST_TEXT_OF])
    if RUST_OWNER not in of_rust:
        raise LicenceError(f"the licence of {RUST_TEXT_OF} is no longer that of Rust; name another crate's")
    yield Part(RUST_ITSELF, "MIT", of_rust)
    folder = Path(crates[LLVM_TEXT_OF]["manifest_path"]).parent
    yield Part(COMPILER_RUNTIME, LLVM, clean((folder / "LICENSE-Apache-2.0_WITH_LLVM-exception").read_text()))
    yield Part(MUSL, "MIT", f"{MUSL_COPYRIGHT}\n\n{of_rust[of_rust.index('Permission is hereby') :]}")


def linked_crates(folder: Path) -> list[dict[str, str]]:
    """Return the crates that end up in a program, without those that only the compiler runs."""
    chosen = ["--locked", "--target", musl_target()]
    tree = ask(["cargo", "tree", *chosen, "--edges", "normal,no-proc-macro", "--prefix", "none"], folder)
    linked = {(name, version) for name, version in re.findall(r"^(\S+) v(\S+)", tree, re.M)}
    asked = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", musl_target()]
    crates = json.loads(ask(asked, folder))["packages"]
    return [crate for crate in crates if (crate["name"], crate["version"]) in linked and crate["source"]]


def mit_text(crate: dict[str, str]) -> str:
    """Return the text of a crate that is offered under MIT; all that are linked today are."""
    folder = Path(crate["manifest_path"]).parent
    found = [folder / name for name in ("LICENSE-MIT", "LICENSE") if (folder / name).exists()]
    if "MIT" not in re.split(r"\W+", crate["license"]) or not found:
        raise LicenceError(f"the crate {crate['name']} is not under MIT ({crate['license']}); teach tools/licences.py")
    return clean(found[0].read_text())


# The file


def clean(text: str) -> str:
    lines = [line.rstrip() for line in text.replace("\f", "").expandtabs().splitlines()]
    return "\n".join(lines).strip("\n") + "\n"


def document() -> str:
    """Return the whole file: each text once, under the names of all that it holds for."""
    shared: dict[tuple[str, str], list[str]] = {}
    for part in (*go_parts(), *rust_parts()):
        shared.setdefault((part.licence, part.text), []).append(part.name)
    blocks = [
        f"{'=' * 100}\n{licence}\n\n" + "".join(f"  {name}\n" for name in names) + f"{'-' * 100}\n{text}"
        for (licence, text), names in shared.items()
    ]
    return "\n".join((OPENING, *blocks))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="only say whether the file is as it should be")
    check = parser.parse_args().check
    put_toolchains_on_path()
    try:
        text = document()
    except (LicenceError, OSError) as exc:
        print(f"licences: {exc}", file=sys.stderr)
        return 1
    if TARGET.exists() and TARGET.read_text() == text:
        return 0
    if check:
        print(f"licences: {TARGET.name} is not what the programs contain; run: make golden", file=sys.stderr)
        return 1
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
