"""Work in child processes, each bounded in time: a probe that hangs costs a second and nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

ANSWER_BYTES_MAX = 64 * 1024


class Hung(Exception):
    """A child gave no answer in time."""


@dataclass
class _Child:
    pid: int
    reader: int
    answer: bytes = b""
    ended: bool = False


def run_all(works: Sequence[Callable[[], Any]], seconds: float) -> list[Any]:
    """Return what each work returns (plain data), `Hung` or the error's text as an exception for those that fail.

    All run at once, each in a child that dies with its whole group when the time is over.
    """
    children = [_start(work) for work in works]
    deadline = time.monotonic() + seconds
    waiting = {child.reader: child for child in children}
    while waiting and (left := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select(list(waiting), [], [], left)
        for reader in ready:
            child = waiting[reader]
            data = os.read(reader, ANSWER_BYTES_MAX)
            child.answer += data
            if not data or len(child.answer) > ANSWER_BYTES_MAX:
                child.ended = not data
                del waiting[reader]
    return [_finish(child) for child in children]


def _start(work: Callable[[], Any]) -> _Child:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _answer(work, writer)
    os.close(writer)
    return _Child(pid, reader)


def _answer(work: Callable[[], Any], writer: int) -> None:
    """Write the outcome and end this child, without running what the parent registered for its own end."""
    try:
        os.setpgid(0, 0)
        try:
            outcome: dict[str, Any] = {"value": work()}
        except Exception as exc:
            outcome = {"error": f"{type(exc).__name__}: {exc}"}
        os.write(writer, json.dumps(outcome).encode())
    finally:
        os._exit(0)


def _finish(child: _Child) -> Any:
    os.close(child.reader)
    # It leads a group of its own unless it was stopped before it could.
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(child.pid, signal.SIGKILL)
    os.waitpid(child.pid, 0)
    if not child.ended:
        return Hung()
    try:
        outcome = json.loads(child.answer)
    except ValueError:
        return RuntimeError("the probe died")
    return outcome["value"] if "value" in outcome else RuntimeError(outcome["error"])
