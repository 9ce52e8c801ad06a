"""Events: what is worth a line in a log. A line is the event's name and its fields, ids always among them."""

from __future__ import annotations

import logging
from typing import Final

FIELDS: Final = "skerry_fields"
"""The attribute of a log record that carries the fields."""


class Events:
    """The events of one part, named as in `sandbox.started`; what is done with them is decided by the composition."""

    def __init__(self, part: str) -> None:
        self._log = logging.getLogger(part)

    def debug(self, event: str, **fields: object) -> None:
        self._log.debug(event, extra={FIELDS: fields})

    def info(self, event: str, **fields: object) -> None:
        self._log.info(event, extra={FIELDS: fields})

    def warning(self, event: str, **fields: object) -> None:
        self._log.warning(event, extra={FIELDS: fields})

    def error(self, event: str, *, exc: BaseException | None = None, **fields: object) -> None:
        """Log something that is ours to mend; the trace of `exc` goes along."""
        self._log.error(event, exc_info=exc, extra={FIELDS: fields})
