"""A line of a log."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

LogSource = Literal["stdout", "stderr", "system"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """A line that a process has written, or with the source `system` a word of the server about lost bytes.

    `timestamp` is when it came, to the second. A line of more than 64 KiB comes in pieces, and one that has not ended
    without its newline.
    """

    data: bytes
    timestamp: datetime
    source: LogSource
    object_id: str
    context_ids: tuple[str, ...]
    offset: int

    @property
    def message(self) -> str:
        """The line as text, with `\\xNN` for what is no UTF-8. Control characters are as the guest wrote them."""
        return self.data.decode("utf-8", "backslashreplace")

    def __str__(self) -> str:
        return self.message


def moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
