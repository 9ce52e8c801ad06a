"""The files of a fake sandbox as one stream of records, and back."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping

from skerry.model.errors import InvalidError
from skerry.model.sandboxes import FileEntry
from skerry.wire.frames import ProtocolViolation
from skerry.wire.trees import (
    CONTENT_BYTES,
    ENCODED_DONE,
    Done,
    Entry,
    Skipped,
    TreeReader,
    encode_content_head,
    encode_entry,
)


def packed(path: str, entry: FileEntry, content: bytes) -> bytes:
    """Return the records of one file or folder; `path` is below the root of its tree."""
    said = encode_entry(
        Entry(
            path=path.encode("utf-8", "surrogateescape"),
            type="directory" if entry.type == "directory" else "file",
            mode=entry.mode & 0o777,
            modified_ns=int(entry.modified * 1e9),
            size=entry.size,
            target=None,
        )
    )
    if entry.type == "directory":
        return said
    pieces = [content[at : at + CONTENT_BYTES] for at in range(0, len(content), CONTENT_BYTES)]
    return said + b"".join(encode_content_head(len(piece)) + piece for piece in pieces) + ENCODED_DONE


def unpacked(stream: bytes) -> Mapping[str, tuple[Entry, bytes]]:
    """Return what a stream holds: each path below the root, with its content. Raises InvalidError."""
    found: dict[str, tuple[Entry, bytes]] = {}
    current: Entry | None = None
    content = bytearray()
    reader = TreeReader()
    try:
        for record in reader.feed(stream):
            if isinstance(record, Entry):
                current, content = record, bytearray()
                if record.type == "directory":
                    found[_text(record.path)] = (record, b"")
            elif isinstance(record, Done) and current is not None:
                found[_text(current.path)] = (current, bytes(content))
            elif not isinstance(record, Skipped | Done):
                content += record
        reader.end()
    except ProtocolViolation as exc:
        raise InvalidError(f"this is no tree: {exc.detail}") from exc
    if "" not in found:
        raise InvalidError("this is no tree: it has no root")
    return found


def joined(root: str, path: str) -> str:
    return posixpath.join(root, path) if path else root


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")
