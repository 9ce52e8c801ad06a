"""What becomes of events: JSON lines in the data folder, and lines for people on stderr in the foreground."""

from __future__ import annotations

import json
import logging
import logging.handlers
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from skerry.model.events import FIELDS
from skerry.model.text import printable

# 32 MiB in all; the oldest file goes.
FILE_BYTES: Final = 8 << 20
OLD_FILES: Final = 3
TRACE_CHARS: Final = 16 << 10

_QUIET: Final = ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncio")


class JsonLines(logging.Formatter):
    """One JSON object a line: when, how bad, which part, what, and its fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": record.created,
            "level": record.levelname.lower(),
            "part": record.name,
            "event": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info is not None:
            line["trace_lines"] = _trace(record).splitlines()
        # The standard library's encoder: it escapes what is no Unicode, where msgspec refuses it.
        return json.dumps(line, default=str)


class PlainLines(logging.Formatter):
    """The same for people, with whatever could move a cursor escaped."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        told = " ".join(f"{name}={printable(str(value), keep='')}" for name, value in fields_of(record).items())
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()} "
        line = f"{clock} {level}{printable(record.getMessage(), keep='')} {told}".rstrip()
        return line if record.exc_info is None else f"{line}\n{printable(_trace(record))}"


def configure(log: Path, *, foreground: bool) -> None:
    """Send all events to the log file, and to stderr in the foreground. A full disk costs lines, never the server."""
    logging.raiseExceptions = False
    file = logging.handlers.RotatingFileHandler(log, maxBytes=FILE_BYTES, backupCount=OLD_FILES, encoding="utf-8")
    file.setFormatter(JsonLines())
    handlers: list[logging.Handler] = [file]
    if foreground:
        plain = logging.StreamHandler(sys.stderr)
        plain.setFormatter(PlainLines())
        handlers.append(plain)
    root = logging.getLogger()
    for handler in [*root.handlers]:
        root.removeHandler(handler)
        handler.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(logging.INFO)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def fields_of(record: logging.LogRecord) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = getattr(record, FIELDS, {})
    return fields


def _trace(record: logging.LogRecord) -> str:
    exc_info = record.exc_info
    if not isinstance(exc_info, tuple) or exc_info[0] is None:
        return ""
    return "".join(traceback.format_exception(*exc_info))[-TRACE_CHARS:]
