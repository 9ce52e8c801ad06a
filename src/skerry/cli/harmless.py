"""Bytes of a guest as a terminal may show them."""

from __future__ import annotations

import codecs

from skerry.model.text import printable


class Harmless:
    """Turns the bytes of one stream into text that cannot move the cursor, fake other lines or change the terminal.

    Newlines and tabs stay. A carriage return, with which a bar of progress begins its line again, begins the next one.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._held = ""

    def feed(self, data: bytes, *, last: bool = False) -> bytes:
        """Return what is shown of the next bytes; a character that has not ended yet waits for its rest."""
        text = self._held + self._decoder.decode(data, last)
        self._held = "\r" if text.endswith("\r") and not last else ""
        text = text.removesuffix(self._held).replace("\r\n", "\n").replace("\r", "\n")
        return printable(text).encode()
