"""Text that came out of a sandbox, made fit for a terminal, a table, an event or an error."""

from __future__ import annotations


def printable(text: str, *, keep: str = "\n\t") -> str:
    """Return `text` with control characters and lone surrogates escaped, except those in `keep`.

    A guest's bytes are raw only in a process's own output; elsewhere they could move the cursor or fake other lines.
    """
    return "".join(char if char in keep or char.isprintable() else _escape(char) for char in text)


def span(seconds: float) -> str:
    """Return a length of time in its largest unit, for a sentence: `1 minute`, `36 hours`."""
    for unit, size in (("day", 86400.0), ("hour", 3600.0), ("minute", 60.0)):
        if seconds >= size and not (unit == "day" and seconds % size):
            count = f"{seconds / size:.3g}"
            return f"{count} {unit}" if count == "1" else f"{count} {unit}s"
    return f"{seconds:.3g} seconds"


def escaped(guest_text: str, *, limit: int = 1024) -> str:
    """Return text from a guest on one line of at most `limit` characters, as an error or an event may show it."""
    text = printable(guest_text[:limit], keep="")
    return text if len(guest_text) <= limit else text + "…"


def _escape(char: str) -> str:
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
