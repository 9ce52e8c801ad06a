"""What a node writes down so that its successor finds its sandboxes again after `kill -9`.

Two things, in two places. The *record* of a live sandbox lies in the runtime folder, which a reboot empties as it ends
the sandboxes: how to reach it, the secret of the next attach, what new processes start with. The *journal* of a sandbox
lies beside its output and stays as long as that: which processes there were and how they ended.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from skerry.model.exits import ProcessExit, ProcessReason, SandboxExit
from skerry.model.ids import ProcessId, SandboxId
from skerry.model.members import MemberRecord
from skerry.model.nodes import Launch
from skerry.model.sandboxes import Stage
from skerry.model.secrets import Sealed


class SandboxRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A live sandbox. `secrets` are those that its agent may ask for at the next attach, the likeliest first.

    `env` is what its processes start with, but for what came from the caller's secrets: that is in `sealed`.
    """

    sandbox: SandboxId
    member: MemberRecord
    secrets: tuple[bytes, ...]
    generation: int
    started_at: float
    stages: tuple[Stage, ...]
    launch: Launch
    env: Mapping[str, str]
    sealed: Sealed | None = None


class Records:
    """The records of live sandboxes, a file each, readable by root only since they hold secrets."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self) -> None:
        """Make the folder, and remove drafts that a killed server left."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in self._folder.glob("*.new"):
            left.unlink()
        for left in self._folder.glob("*.idle"):
            if not self._path(SandboxId(left.stem)).exists():
                left.unlink()

    def put(self, record: SandboxRecord) -> None:
        """Write or replace a record; a reader sees the old or the new one, never half of it."""
        path = self._path(record.sandbox)
        draft = path.with_suffix(".new")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            _write_all(descriptor, _encode(record))
        finally:
            os.close(descriptor)
        os.rename(draft, path)

    def remove(self, sandbox: SandboxId) -> None:
        self._path(sandbox).unlink(missing_ok=True)
        self._idle_path(sandbox).unlink(missing_ok=True)

    def note_idle(self, sandbox: SandboxId, since: float | None) -> None:
        """Note since when nobody uses a sandbox, or that somebody does. Two calls of the kernel: each exec needs both.

        Where it cannot be noted, a successor counts from its own start.
        """
        with contextlib.suppress(OSError):
            os.close(os.open(self._idle_path(sandbox), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            os.utime(self._idle_path(sandbox), (since or 0, since or 0))

    def idle_since(self, sandbox: SandboxId) -> float | None:
        """Return since when nobody uses a sandbox, as far as that was noted."""
        try:
            return self._idle_path(sandbox).stat().st_mtime or None
        except FileNotFoundError:
            return None

    def all(self) -> Iterator[SandboxRecord | SandboxId]:
        """Yield each record; of one that cannot be read only the id."""
        for path in sorted(self._folder.glob("*.json")):
            try:
                yield _decode(path.read_bytes())
            except (msgspec.MsgspecError, OSError):
                yield SandboxId(path.stem)

    def _path(self, sandbox: SandboxId) -> Path:
        return self._folder / f"{sandbox}.json"

    def _idle_path(self, sandbox: SandboxId) -> Path:
        """The file whose time of modification is what there is to know; 0 while somebody uses the sandbox."""
        return self._folder / f"{sandbox}.idle"


def _encode(record: SandboxRecord) -> bytes:
    return msgspec.json.encode(record, enc_hook=str)  # of a Path


def _decode(text: bytes) -> SandboxRecord:
    return msgspec.json.decode(text, type=SandboxRecord, dec_hook=lambda kind, value: kind(value))


class ProcessStarted(msgspec.Struct, frozen=True, kw_only=True, tag="started"):
    process: ProcessId
    stream: int
    argv: tuple[str, ...]
    at: float
    channels: tuple[int, ...]
    stdin: bool
    terminal: bool = False
    deadline: float | None = None


class ProcessEnded(msgspec.Struct, frozen=True, kw_only=True, tag="ended"):
    process: ProcessId
    exit: ProcessExit


class ProcessDropped(msgspec.Struct, frozen=True, kw_only=True, tag="dropped"):
    """It was never started, or its place was needed."""

    process: ProcessId


class SandboxEnd(msgspec.Struct, frozen=True, kw_only=True, tag="sandbox_ended"):
    exit: SandboxExit
    at: float


Entry = ProcessStarted | ProcessEnded | ProcessDropped | SandboxEnd

_decoder = msgspec.json.Decoder(Entry)
JOURNAL_BYTES: Final = 4 << 20


class Journal:
    """The processes of one sandbox, a line each; `kill -9` loses no line that was written.

    Beyond `bound` bytes, lines of dropped processes are left out; it grows again by as much as is then left.
    """

    def __init__(self, path: Path, *, bound: int = JOURNAL_BYTES) -> None:
        self._path = path
        self._least_bound = self._bound = bound
        self._descriptor: int | None = None
        self._size = 0

    def add(self, entry: Entry) -> None:
        """Write a line; raises OSError, and then a successor may not know of it."""
        if self._descriptor is None:
            self._open()
        self._write(msgspec.json.encode(entry) + b"\n")
        if self._size > self._bound:
            self._compact()

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o600)
        self._size = os.fstat(self._descriptor).st_size
        if _is_cut_off(self._descriptor):
            self._write(b"\n")  # so that only that line is lost

    def _write(self, content: bytes) -> None:
        assert self._descriptor is not None
        _write_all(self._descriptor, content)
        self._size += len(content)

    def _compact(self) -> None:
        entries = list(self.read())
        dropped = {entry.process for entry in entries if isinstance(entry, ProcessDropped)}
        lines = [msgspec.json.encode(entry) + b"\n" for entry in entries if not _is_of(entry, dropped)]
        draft = self._path.with_suffix(".new")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _write_all(descriptor, b"".join(lines))
        finally:
            os.close(descriptor)
        os.rename(draft, self._path)
        self.close()
        self._open()
        self._bound = max(self._least_bound, 2 * self._size)

    def read(self) -> Iterator[Entry]:
        """Yield the entries; a last line that was cut off is left out."""
        try:
            text = self._path.read_bytes()
        except FileNotFoundError:
            return
        for line in text.split(b"\n"):
            try:
                yield _decoder.decode(line)
            except msgspec.MsgspecError:
                continue

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _is_of(entry: Entry, dropped: set[ProcessId]) -> bool:
    """Tell whether an entry only speaks of a dropped process. A kill for memory stays: such kills are counted."""
    if isinstance(entry, SandboxEnd):
        return False
    counted = isinstance(entry, ProcessEnded) and entry.exit.reason is ProcessReason.OUT_OF_MEMORY
    return entry.process in dropped and not counted


def _is_cut_off(descriptor: int) -> bool:
    """Tell whether a kill left half a line at the end of a file."""
    size = os.fstat(descriptor).st_size
    return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"


def _write_all(descriptor: int, content: bytes) -> None:
    """Write everything or raise: a full disk takes part of it and says so only at the next try."""
    while content:
        content = content[os.write(descriptor, content) :]
