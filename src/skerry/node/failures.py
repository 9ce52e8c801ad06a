"""What an agent's refusal means to the caller: one table from the codes of proto/agent.md to errors."""

from __future__ import annotations

from collections.abc import Mapping

from skerry.model import errors
from skerry.model.errors import Error
from skerry.model.text import printable
from skerry.node.agent_stream import StreamError

_FILES: Mapping[str, type[Error]] = {
    "not_found": errors.SandboxFilesystemNotFoundError,
    "is_directory": errors.SandboxFilesystemIsADirectoryError,
    "not_directory": errors.SandboxFilesystemNotADirectoryError,
    "already_exists": errors.SandboxFilesystemPathAlreadyExistsError,
    "not_empty": errors.SandboxFilesystemDirectoryNotEmptyError,
    "permission_denied": errors.SandboxFilesystemPermissionError,
    "no_space": errors.SandboxFilesystemNoSpaceError,
    "too_large": errors.SandboxFilesystemFileTooLargeError,
    "not_regular": errors.SandboxFilesystemNotRegularError,
    "invalid_argument": errors.InvalidError,
    "resource_exhausted": errors.ResourceExhaustedError,
    "unimplemented": errors.UnimplementedError,
}

_PROCESSES: Mapping[str, type[Error]] = {
    "invalid_argument": errors.InvalidError,
    "failed_precondition": errors.ConflictError,
    "resource_exhausted": errors.ResourceExhaustedError,
    "unimplemented": errors.UnimplementedError,
}

_SPACE = "free some space in the sandbox, or create it with a larger disk"


def file_error(path: str, refusal: StreamError) -> Error:
    """Return the error of a file operation on `path`."""
    kind = _FILES.get(refusal.code, errors.SandboxFilesystemError)
    hint = f"; {_SPACE}" if refusal.code == "no_space" else ""
    return kind(f"{printable(path, keep='')}: {printable(refusal.message)}{hint}", path=path)


def process_error(refusal: StreamError) -> Error:
    """Return the error of a process that could not be started."""
    kind = _PROCESSES.get(refusal.code, errors.InternalError)
    return kind(f"the process could not be started: {printable(refusal.message)}")
