"""Files of variables in the form of `.env`: found, and read by python-dotenv."""

from __future__ import annotations

import os
from io import StringIO
from pathlib import Path
from typing import Final

from skerry.model.errors import InvalidError

FILE_BYTES_MAX: Final = 1 << 20


def find(start: str | Path | None, filename: str) -> Path:
    """Return the nearest file of this name, from a file's or folder's place upwards; raises InvalidError."""
    begin = Path(os.path.abspath(os.fspath(start) if start is not None else os.getcwd()))
    if not begin.exists():
        raise InvalidError(f"Secret.from_dotenv: {str(begin)!r} does not exist; name a file or a folder")
    folder = begin if begin.is_dir() else begin.parent
    for place in (folder, *folder.parents):
        if (place / filename).is_file():
            return place / filename
    raise InvalidError(
        f"Secret.from_dotenv: there is no {filename!r} in {str(folder)!r} or above; name its folder, or its filename="
    )


def named(file: str) -> Path:
    """Return a file that a user has named; raises InvalidError if there is none."""
    if not Path(file).exists():
        raise InvalidError(f"there is no file {file!r}; name a file of lines KEY=VALUE")
    return Path(file)


def read(file: Path) -> dict[str, str]:
    """Return the variables of a file; raises InvalidError if it cannot be read. No message shows its content."""
    try:
        with file.open("rb") as opened:
            content = opened.read(FILE_BYTES_MAX + 1)
    except OSError as exc:
        raise InvalidError(f"{str(file)!r} cannot be read: {exc.strerror}") from exc
    return parse(content, str(file))


def parse(content: bytes, what: str) -> dict[str, str]:
    """Return the variables of a file's content. A key without a value has an empty one."""
    from dotenv.main import resolve_variables  # late: few programs need it
    from dotenv.parser import parse_stream

    if len(content) > FILE_BYTES_MAX:
        raise InvalidError(f"{what!r} has more than {FILE_BYTES_MAX:,} bytes; it cannot be a file of variables")
    try:
        text = content.decode()
    except UnicodeDecodeError as exc:
        raise InvalidError(f"{what!r} is not UTF-8 text (at byte {exc.start})") from None
    bindings = list(parse_stream(StringIO(text)))
    for binding in bindings:
        if binding.error:
            raise InvalidError(f"{what!r}: line {binding.original.line} is not of the form KEY=VALUE")
    pairs = [(binding.key, binding.value) for binding in bindings if binding.key is not None]
    return {key: value or "" for key, value in resolve_variables(pairs, override=True).items()}
