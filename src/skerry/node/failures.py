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
    "failed_precondition": errors.SandboxFilesystemError,
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

_NEXT_FOR_FILES: Mapping[str, str] = {
    "is_directory": "list it with list_files, or name a file in it",
    "not_found": "list_files shows what is there",
    "not_directory": "list_files of the folders above shows what is there",
    "already_exists": "remove it first, or choose another path",
    "not_empty": "remove it with recursive=True",
    "permission_denied": "choose another path, or change its mode or owner with a command in the sandbox",
    "no_space": "free some space in the sandbox, or create it with a larger disk",
    "not_regular": "read it with a command in the sandbox",
}

_NEXT_FOR_PROCESSES: Mapping[str, str] = {
    "failed_precondition": "make it in the sandbox first, or give another workdir or user",
}


def file_error(path: str, refusal: StreamError) -> Error:
    """Return the error of a file operation on `path`."""
    kind = _FILES.get(refusal.code, errors.SandboxFilesystemError)
    return kind(f"{printable(path, keep='')}: {_said(refusal, _NEXT_FOR_FILES)}", path=path)


def process_error(refusal: StreamError) -> Error:
    """Return the error of a process that could not be started."""
    kind = _PROCESSES.get(refusal.code, errors.InternalError)
    return kind(f"the process could not be started: {_said(refusal, _NEXT_FOR_PROCESSES)}")


def _said(refusal: StreamError, next_steps: Mapping[str, str]) -> str:
    """Return the agent's words, made harmless, with what to do next."""
    step = next_steps.get(refusal.code)
    return printable(refusal.message) + (f"; {step}" if step else "")
