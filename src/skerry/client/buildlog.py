"""The progress of an image's build, on stderr: plain lines, or a live line below the log in a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final, Self, TextIO

from skerry.model.text import printable

_QUIET: Final = ("0", "no", "false", "off")


@contextmanager
def enable_output(*_: object, **__: object) -> Iterator[None]:
    """A block in which build logs are shown. They are shown without it too; SKERRY_BUILD_LOG=0 hides them."""
    yield


class BuildLog:
    """Shows events. Nothing is printed for an image that exists, since its build has no events."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._stack = ExitStack()
        self._status: Any = None
        self._title = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def show(self, event: Mapping[str, Any]) -> None:
        """Show a step or some of its log; guest bytes among it cannot move the cursor."""
        if event.get("event") == "step":
            self._show_step(event)
        elif event.get("event") == "log" and not _quiet():
            self._show_log(str(event.get("text", "")))

    def _show_step(self, event: Mapping[str, Any]) -> None:
        title = printable(str(event.get("title", "")), keep="")
        step = f"step {event['index']} of {event['count']}: " if event.get("count") else ""
        self._title = f"image: {step}{title}"
        if not self._stream.isatty():
            self._print(f"skerry: {self._title}")
            return
        if self._status is None:
            self._status = self._stack.enter_context(_console(self._stream).status(""))
        self._status.update(_plain(self._title))
        self._status.console.print(_plain(f"skerry: {self._title}", style="bold"))

    def _show_log(self, text: str) -> None:
        for line in printable(text).splitlines():
            if self._status is not None:
                self._status.console.print(_plain(f"  {line}", style="dim"))
            else:
                self._print(f"  {line}")

    def _print(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


def _console(stream: TextIO) -> Any:
    from rich.console import Console  # 30 ms, and most programs build nothing

    return Console(file=stream, highlight=False, soft_wrap=True)


def _plain(text: str, style: str = "") -> Any:
    from rich.text import Text

    return Text(text, style=style)


def _quiet() -> bool:
    return os.environ.get("SKERRY_BUILD_LOG", "").strip().lower() in _QUIET
