"""Write proto/trees.json: streams of records of trees that the tests of agent and client read.

Each case is `{name, hex, expect}`: what the stream's records are, a word each, or "bad" where one breaks the format,
and `to_agent` where an agent judges it otherwise. The records are packed here by hand, not by the codec that they test.

    python tools/golden_trees.py            write the file
    python tools/golden_trees.py --check    fail if the file is not what would be written
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
from pathlib import Path
from typing import Any

import msgspec

TARGET = Path(__file__).parents[1] / "proto" / "trees.json"
ENTRY, CONTENT, DONE, SKIPPED = range(1, 5)

FILE = {
    "path": b"a",
    "type": "file",
    "mode": 0o644,
    "modified_ns": 1_700_000_000_000_000_000,
    "size": 3,
    "target": None,
}
FOLDER = FILE | {"path": b"", "type": "directory", "mode": 0o755, "size": 0}
LINK = FILE | {"path": b"d/l", "type": "symlink", "mode": 0o777, "target": b"../a"}
LEFT = {"path": b"pipe", "reason": "it is a pipe"}


def record(kind: int, payload: bytes | dict[str, Any] = b"", *, length: int | None = None) -> bytes:
    body = msgspec.msgpack.encode(payload) if isinstance(payload, dict) else payload
    return struct.pack("<IB", len(body) if length is None else length, kind) + body


def cases() -> list[dict[str, str]]:
    """Return every case."""
    found: list[dict[str, str]] = []

    def case(name: str, stream: bytes, expect: str, to_agent: str | None = None) -> None:
        found.append(
            {"name": name, "hex": stream.hex(), "expect": expect} | ({"to_agent": to_agent} if to_agent else {})
        )

    done = record(DONE)
    case("nothing", b"", "")
    case("a file", record(ENTRY, FILE) + record(CONTENT, b"abc") + done, "file content done")
    case("an empty file", record(ENTRY, FILE | {"size": 0}) + done, "file done")
    case("a tree", record(ENTRY, FOLDER) + record(ENTRY, LINK), "directory symlink")
    case("a name of any bytes", record(ENTRY, FILE | {"path": b"\xff\x1b[2J\n"}), "file")
    case("an unknown key", record(ENTRY, FILE | {"later": 1}), "file")
    case("what was left out", record(SKIPPED, LEFT), "skipped", "bad")
    case("half a head", b"\x00\x00\x00\x00", "incomplete")
    case("half a record", record(ENTRY, FILE)[:-1], "incomplete")
    case("the longest path", record(ENTRY, FILE | {"path": b"/".join([b"x" * 255] * 16)}), "file")
    for name, path in {
        "an absolute path": b"/a",
        "a path out": b"../a",
        "a path up and down": b"a/../../b",
        "a path with a dot": b"a/./b",
        "a path with two slashes": b"a//b",
        "a path with a slash at its end": b"a/",
        "a path with NUL": b"a\0b",
        "a path that is too long": b"/".join([b"x" * 255] * 16) + b"x",
    }.items():
        case(name, record(ENTRY, FILE | {"path": path}), "bad")
    for name, fields in {
        "a path that is a string": {"path": "a"},
        "another type": {"type": "fifo"},
        "a mode that gives the owner's rights": {"mode": 0o4755},
        "a negative time": {"modified_ns": -1},
        "a negative size": {"size": -1},
        "a file with a target": {"target": b"b"},
    }.items():
        case(name, record(ENTRY, FILE | fields), "bad")
    for name, target in {"no target": None, "an empty target": b"", "a target with NUL": b"a\0b"}.items():
        case(f"a link with {name}", record(ENTRY, LINK | {"target": target}), "bad")
    for key in FILE:
        case(f"an entry without {key}", record(ENTRY, {name: one for name, one in FILE.items() if name != key}), "bad")
    case("a byte after the map", record(ENTRY, msgspec.msgpack.encode(FILE) + b"\0"), "bad")
    for kind in (0, 5, 255):
        case(f"kind {kind}", record(kind), "bad")
    case("an entry far too long", record(ENTRY, length=65_537), "bad")
    case("content of nothing", record(CONTENT), "bad")
    case("content that is too long", record(CONTENT, length=262_145), "bad")
    case("content of the most bytes", record(CONTENT, length=262_144), "incomplete")
    case("an end with something in it", record(DONE, b"x"), "bad")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the file is out of date")
    check = parser.parse_args().check
    text = "[\n" + ",\n".join(json.dumps(each) for each in cases()) + "\n]\n"
    if not check:
        TARGET.write_text(text)
        return 0
    if TARGET.is_file() and TARGET.read_text() == text:
        return 0
    print("proto/trees.json is out of date; run python tools/golden_trees.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
