"""What counts as the agent being built, and what as a static binary."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import build_agent
import pytest


def crate(folder: Path) -> Path:
    (folder / "src").mkdir(parents=True)
    (folder / "Cargo.toml").write_text('[package]\nname = "skerry-agent"\nversion = "0.1.0"\n')
    (folder / "src" / "main.rs").write_text("fn main() {}\n")
    return folder


def key(folder: Path, compiler: str = "rustc 1", target: str = "musl") -> str:
    return build_agent.content_key(folder, compiler, target)


def test_the_key_stays_the_same_whatever_cargo_builds(tmp_path: Path) -> None:
    agent = crate(tmp_path)
    before = key(agent)
    (agent / "target" / "release").mkdir(parents=True)
    (agent / "target" / "release" / "skerry-agent").write_bytes(b"built")
    assert key(agent) == before


def test_the_key_changes_with_a_source_its_name_the_compiler_and_the_target(tmp_path: Path) -> None:
    agent = crate(tmp_path)
    keys = {key(agent), key(agent, compiler="rustc 2"), key(agent, target="gnu")}
    (agent / "src" / "main.rs").write_text("fn main() { }\n")
    keys.add(key(agent))
    (agent / "src" / "main.rs").rename(agent / "src" / "other.rs")
    keys.add(key(agent))
    assert len(keys) == 5


def test_a_binary_that_was_changed_counts_as_not_built(tmp_path: Path) -> None:
    binary = tmp_path / "skerry-agent"
    binary.write_bytes(b"agent")
    facts = {"key": "k", "sha256": hashlib.sha256(b"agent").hexdigest()}
    (tmp_path / "skerry-agent.json").write_text(json.dumps(facts))
    assert build_agent.built_key(binary) == "k"
    binary.write_bytes(b"other")
    assert build_agent.built_key(binary) is None


def test_a_binary_without_its_facts_counts_as_not_built(tmp_path: Path) -> None:
    binary = tmp_path / "skerry-agent"
    binary.write_bytes(b"agent")
    assert build_agent.built_key(binary) is None
    (tmp_path / "skerry-agent.json").write_text("{")
    assert build_agent.built_key(binary) is None


def test_a_dynamic_program_tells_its_interpreter() -> None:
    loader = build_agent.interpreter(Path("/usr/bin/env").read_bytes())
    assert loader is not None
    assert Path(loader).exists()


def test_a_program_without_an_interpreter_segment_is_static() -> None:
    header = bytearray(64)
    header[:6] = b"\x7fELF\x02\x01"
    struct.pack_into("<Q", header, 32, 64)  # program headers begin behind this one
    struct.pack_into("<HH", header, 54, 56, 1)  # one of 56 bytes
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, 120, 120, 4096)
    assert build_agent.interpreter(bytes(header) + load) is None


def test_a_file_that_is_no_program_is_refused() -> None:
    with pytest.raises(build_agent.BuildError, match="no 64-bit ELF"):
        build_agent.interpreter(b"#!/bin/sh\n")


def test_a_checkout_without_the_agent_is_named(tmp_path: Path) -> None:
    with pytest.raises(build_agent.BuildError, match=r"has no Cargo\.lock"):
        build_agent.build(tmp_path, tmp_path / "skerry-agent")


@pytest.mark.parametrize("name", build_agent.PROGRAMS.values())
def test_what_was_built_is_static(name: str) -> None:
    binary = build_agent.BIN / name
    if not binary.exists():
        pytest.skip(f"{name} is not built; run `make setup`")
    assert build_agent.interpreter(binary.read_bytes()) is None
