"""Bytes of a process as text: strict UTF-8, decoded as it comes, cut into lines."""

from __future__ import annotations

import codecs
from collections.abc import Iterable

from skerry.model.errors import InvalidError


class TextDecoder:
    """Decodes chunks whose borders may split characters. Raises InvalidError at the first byte that is no UTF-8."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._decoder = codecs.getincrementaldecoder("utf-8")("strict")

    def decode(self, chunks: Iterable[bytes], *, final: bool = False) -> str:
        try:
            pieces = [self._decoder.decode(chunk) for chunk in chunks]
            if final:
                pieces.append(self._decoder.decode(b"", True))
        except UnicodeDecodeError as exc:
            raise InvalidError(
                f"{self._what} is not UTF-8 text (byte {exc.object[exc.start]:#04x}: {exc.reason}); "
                "read it as bytes: pass text=False"
            ) from exc
        return "".join(pieces)


class LineSplitter:
    """Cuts text into lines that keep their newline; what follows the last newline waits for more."""

    def __init__(self) -> None:
        self._rest: list[str] = []

    def feed(self, text: str) -> list[str]:
        """Return the lines that `text` completes."""
        *lines, rest = text.split("\n")
        if not lines:
            if rest:
                self._rest.append(rest)
            return []
        lines[0] = "".join(self._rest) + lines[0]
        self._rest = [rest] if rest else []
        return [line + "\n" for line in lines]

    def flush(self) -> str:
        """Return what is left without a newline."""
        rest = "".join(self._rest)
        self._rest = []
        return rest
