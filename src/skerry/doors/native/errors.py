"""Errors as this door tells them: one table from code to status, one form on both halves of the door."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from skerry.model.errors import BY_NAME, Error, InternalError
from skerry.model.events import Events
from skerry.wire.native import ErrorReply

log = Events("skerry.door")

STATUS: Final[Mapping[str, int]] = {
    "invalid_argument": 400,
    "unauthenticated": 401,
    "permission_denied": 403,
    "not_found": 404,
    "file_not_found": 404,
    "failed_precondition": 409,
    "already_exists": 409,
    "aborted": 409,
    "is_directory": 409,
    "not_directory": 409,
    "path_exists": 409,
    "not_empty": 409,
    "not_regular": 409,
    "file_permission_denied": 403,
    "too_large": 413,
    "build_failed": 422,
    "resource_exhausted": 429,
    "internal": 500,
    "io": 500,
    "start_failed": 500,
    "isolation_unavailable": 501,
    "unimplemented": 501,
    "unavailable": 503,
    "deadline_exceeded": 504,
    "no_space": 507,
}

MESSAGE_CHARS: Final = 8192
DETAILS_BYTES: Final = 32 << 10


def status_of(code: str) -> int:
    return STATUS.get(code, 500)


def tell(exc: Exception, **where: object) -> ErrorReply:
    """Return what the client is told of `exc`. What is no error of the model is a defect: the trace goes to the log."""
    if isinstance(exc, Error):
        return _reply(exc)
    trace = secrets.token_hex(8)
    log.error("request.failed", exc=exc, trace=trace, **where)
    return _reply(InternalError(f"a defect in the server; its log has the trace under {trace}", trace=trace))


def _reply(error: Error) -> ErrorReply:
    name = type(error).__name__
    return ErrorReply(
        code=error.code,
        kind=name if name in BY_NAME else "Error",
        message=_cut(error.message),
        details=_plain(error.details),
    )


def _cut(message: str) -> str:
    text = message.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= MESSAGE_CHARS else text[:MESSAGE_CHARS] + "…"


def _plain(details: Mapping[str, object]) -> dict[str, Any]:
    """Return details as plain data, or none if they are too large to be told."""
    encoded = msgspec.json.encode(msgspec.to_builtins(details, str_keys=True, enc_hook=str))
    plain: dict[str, Any] = msgspec.json.decode(encoded)
    return plain if len(encoded) <= DETAILS_BYTES else {}
