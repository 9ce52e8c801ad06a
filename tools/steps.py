"""Named steps with visible progress, for the scripts that people wait for.

On a terminal each step is one live line: its name, the time so far, and the last thing its command said.
Elsewhere (a log, CI) each step prints a line when it starts, one every quarter of a minute while it runs,
and one when it ends. What a command prints goes to a log file, and the end of it is shown when it fails.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

HEARTBEAT_S = 15.0
LIVE_S = 0.1
TAIL_LINES = 40
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


class StepFailed(Exception):
    """A step that could not be done: what, why, and what to do next."""


class Step:
    """One step under way; `note` says what it is doing, `result` what stands on its last line."""

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self.log = log
        self.started = time.monotonic()
        self.said = ""
        self.result = "done"

    def note(self, text: str) -> None:
        self.said = _CONTROL.sub("", text).strip()

    def elapsed(self) -> str:
        return f"{time.monotonic() - self.started:.1f} s"

    def run(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
        """Return the command's last lines once it has ended well; raise StepFailed with them otherwise."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        lines: deque[str] = deque(maxlen=TAIL_LINES)
        with self.log.open("a") as log:
            log.write(f"$ {' '.join(argv)}\n")
            child = _spawn(argv, env=env, cwd=cwd)
            try:
                for line in child.stdout or ():
                    log.write(line)
                    lines.append(line)
                    if line.strip():
                        self.note(line)
                code = child.wait()
            finally:
                _end(child)
        if code != 0:
            raise StepFailed(
                f"{self.name}: `{' '.join(argv)}` ended with {code}; its last lines:\n"
                + "".join(f"    {line}" for line in lines)
                + f"\nThe whole output is in {self.log}."
            )
        return "".join(lines)


def _spawn(argv: Sequence[str], *, env: Mapping[str, str] | None, cwd: Path | None) -> subprocess.Popen[str]:
    try:
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=None if env is None else dict(env),
            cwd=cwd,
            # A group of its own: Ctrl-C reaches us alone, and we end the whole group in order.
            start_new_session=True,
        )
    except OSError as exc:
        raise StepFailed(f"cannot start `{argv[0]}`: {exc}") from exc


def _end(child: subprocess.Popen[str]) -> None:
    """End what is left of the child's group, first by asking; does nothing if it has ended."""
    if child.stdout is not None:
        child.stdout.close()
    for sign, patience in ((signal.SIGTERM, 30.0), (signal.SIGKILL, 10.0)):
        if child.poll() is not None:
            return
        os.killpg(child.pid, sign)
        try:
            child.wait(patience)
        except subprocess.TimeoutExpired:
            continue


class Steps:
    """A run of steps under one title, written to `out`."""

    def __init__(self, title: str, logs: Path, out: TextIO | None = None) -> None:
        self.title = title
        self.logs = logs
        self.out = out or sys.stdout
        self.live = self.out.isatty() and os.environ.get("TERM", "dumb") != "dumb"

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Show a step from its start to its end; an exception ends it as failed and goes on up."""
        log = self.logs / f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.log"
        log.unlink(missing_ok=True)
        step = Step(name, log)
        done = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(step, done), daemon=True)
        watcher.start()
        try:
            yield step
        except KeyboardInterrupt:
            step.result = "interrupted"
            raise
        except BaseException:
            step.result = "failed"
            raise
        finally:
            done.set()
            watcher.join()
            self._last(step)

    def skipped(self, name: str, result: str = "up to date") -> None:
        """Say that a step has nothing to do."""
        self._write(f"{self._head(name)} {result}\n")

    def _watch(self, step: Step, done: threading.Event) -> None:
        if not self.live:
            # A step that is over at once says so in one line, its last.
            if done.wait(1.0):
                return
            self._write(f"{self._head(step.name)} ...\n")
        while not done.wait(LIVE_S if self.live else HEARTBEAT_S):
            text = f"{self._head(step.name)} {step.elapsed()}  {step.said}"
            if self.live:
                width = shutil.get_terminal_size().columns - 1
                self._write(f"\r\x1b[2K{text[:width]}")
            else:
                self._write(f"{text[:160]}\n")

    def _last(self, step: Step) -> None:
        clear = "\r\x1b[2K" if self.live else ""
        self._write(f"{clear}{self._head(step.name)} {step.result} ({step.elapsed()})\n")

    def _head(self, name: str) -> str:
        return f"{self.title}: {name}:"

    def _write(self, text: str) -> None:
        self.out.write(text)
        self.out.flush()
