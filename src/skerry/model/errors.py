"""The tree of errors, and the one stable code of each.

    Error
    ├── InvalidError              invalid_argument
    │   └── ConflictError         failed_precondition
    │       └── SandboxEndedError failed_precondition
    ├── NotFoundError             not_found
    ├── AlreadyExistsError        already_exists
    ├── PermissionDeniedError     permission_denied
    ├── AuthError                 unauthenticated
    ├── ResourceExhaustedError    resource_exhausted
    ├── TimeoutError              deadline_exceeded
    │   ├── SandboxTimeoutError   deadline_exceeded
    │   └── ExecTimeoutError      deadline_exceeded
    ├── SandboxTerminatedError    aborted
    ├── ImageBuildError           build_failed
    ├── IsolationUnavailableError isolation_unavailable
    ├── StartFailedError          start_failed
    ├── SandboxFilesystemError    io, and one child for each kind of failure
    ├── ServerUnavailableError    unavailable
    ├── UnimplementedError        unimplemented
    └── InternalError             internal

Names are those that a Modal program catches. A message names the thing, the cause and the next step.
"""

from __future__ import annotations

import builtins
from typing import ClassVar


class Error(Exception):
    """Anything that skerry reports. `code` is stable, `details` is plain data for programs."""

    code: ClassVar[str] = "internal"

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class InvalidError(Error):
    """The request itself is wrong: it will never succeed as it stands."""

    code = "invalid_argument"


class ConflictError(InvalidError):
    """The request is right, but not in the state that the thing is in."""

    code = "failed_precondition"


class SandboxEndedError(ConflictError):
    """The sandbox has ended; `details["exit"]` says why."""


class NotFoundError(Error):
    """There is no such thing, or it is not yours."""

    code = "not_found"


class AlreadyExistsError(Error):
    """The name is taken."""

    code = "already_exists"


class PermissionDeniedError(Error):
    """The caller may not do this."""

    code = "permission_denied"


class AuthError(Error):
    """The caller is not known."""

    code = "unauthenticated"


class ResourceExhaustedError(Error):
    """The machine or a quota has no room; `details` say what is missing."""

    code = "resource_exhausted"


class TimeoutError(Error, builtins.TimeoutError):
    """Something took longer than the caller allowed."""

    code = "deadline_exceeded"


class SandboxTimeoutError(TimeoutError):
    """The sandbox reached its lifetime."""


class ExecTimeoutError(TimeoutError):
    """A process reached its timeout and was killed."""


class SandboxTerminatedError(Error):
    """The sandbox was ended from outside before its entrypoint did."""

    code = "aborted"


class ImageBuildError(Error):
    """A step of an image failed; the message shows the last lines of its log."""

    code = "build_failed"


class IsolationUnavailableError(Error):
    """The isolation that was asked for cannot run here; nothing weaker was used instead."""

    code = "isolation_unavailable"


class StartFailedError(Error):
    """The sandbox could not be started; `details["stage"]` says where."""

    code = "start_failed"


class ServerUnavailableError(Error):
    """The server cannot be reached or is shutting down."""

    code = "unavailable"


class UnimplementedError(Error):
    """This exists in the vocabulary but not yet here."""

    code = "unimplemented"


class InternalError(Error):
    """A defect of ours. The server's log has the trace under `details["trace"]`."""

    code = "internal"


class SandboxFilesystemError(Error):
    """A file operation in a sandbox failed."""

    code = "io"


class SandboxFilesystemNotFoundError(SandboxFilesystemError, NotFoundError):
    """There is no file at this path."""

    code = "file_not_found"


class SandboxFilesystemIsADirectoryError(SandboxFilesystemError):
    """The path is a directory."""

    code = "is_directory"


class SandboxFilesystemNotADirectoryError(SandboxFilesystemError):
    """The path, or a parent of it, is no directory."""

    code = "not_directory"


class SandboxFilesystemPathAlreadyExistsError(SandboxFilesystemError):
    """Something is already at this path."""

    code = "path_exists"


class SandboxFilesystemDirectoryNotEmptyError(SandboxFilesystemError):
    """The directory still holds entries."""

    code = "not_empty"


class SandboxFilesystemPermissionError(SandboxFilesystemError):
    """The sandbox's file system does not allow it."""

    code = "file_permission_denied"


class SandboxFilesystemFileTooLargeError(SandboxFilesystemError):
    """The file is larger than this operation may carry."""

    code = "too_large"


class SandboxFilesystemNoSpaceError(SandboxFilesystemError):
    """The sandbox's disk limit is reached."""

    code = "no_space"


class SandboxFilesystemNotRegularError(SandboxFilesystemError):
    """The path is a pipe, socket or device."""

    code = "not_regular"


def _tree(root: type[Error]) -> list[type[Error]]:
    return [root, *(kind for child in root.__subclasses__() for kind in _tree(child))]


# A code names the most general class that carries it; finer classes travel by their name.
BY_NAME: dict[str, type[Error]] = {kind.__name__: kind for kind in _tree(Error)}
BY_CODE: dict[str, type[Error]] = {}
for _kind in _tree(Error):
    BY_CODE.setdefault(_kind.code, _kind)
BY_CODE["internal"] = InternalError


def from_wire(code: str, message: str, kind: str | None = None, **details: object) -> Error:
    """Return the error that a peer described; an unknown kind falls back to its code, an unknown code to `Error`."""
    cls = BY_NAME.get(kind or "") or BY_CODE.get(code, Error)
    return cls(message, **details)
