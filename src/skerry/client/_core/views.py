"""What the server says, as the model's values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from skerry.model.errors import Error, InternalError, from_wire
from skerry.model.exits import ProcessExit, ProcessReason, SandboxExit, SandboxReason
from skerry.model.sandboxes import ImageView, KeptOutput, ProcessView, SandboxView
from skerry.model.secrets import SecretView
from skerry.model.storage import StoredThing
from skerry.model.usage import SandboxUsage
from skerry.model.volumes import CommitView, VolumeView
from skerry.wire import native

T = TypeVar("T")

_HINT = "client and server are of different versions: restart the server, or install the same version on both sides"


def sandbox(answer: object) -> SandboxView:
    return _convert(answer, SandboxView)


def process(answer: object) -> ProcessView:
    return _convert(answer, ProcessView)


def processes(answer: object) -> tuple[ProcessView, ...]:
    return _convert(_field(answer, "processes"), tuple[ProcessView, ...])


def storage(answer: object) -> tuple[tuple[StoredThing, ...], tuple[StoredThing, ...]]:
    """Return what went, and what is kept."""
    went, kept = (_convert(_field(answer, name), tuple[StoredThing, ...]) for name in ("went", "kept"))
    return went, kept


def usage(answer: object) -> tuple[SandboxUsage, ...]:
    return _convert(_field(answer, "sandboxes"), tuple[SandboxUsage, ...])


def output(answer: object) -> tuple[str, tuple[KeptOutput, ...]]:
    """Return the id of a process and what is kept of its channels."""
    return _convert(_field(answer, "process"), str), _convert(_field(answer, "channels"), tuple[KeptOutput, ...])


def image(answer: object) -> ImageView:
    return _convert(answer, ImageView)


def volume(answer: object) -> VolumeView:
    return _convert(answer, VolumeView)


def commit(answer: object) -> CommitView:
    return _convert(answer, CommitView)


def secret(answer: object) -> SecretView:
    return _convert(answer, SecretView)


def process_exit(frame: native.Exit) -> ProcessExit:
    """Return the end of a process as the socket tells it."""
    try:
        reason = ProcessReason(frame.reason)
    except ValueError as exc:
        raise InternalError(f"the server gave the unknown reason {frame.reason!r}; {_HINT}") from exc
    return ProcessExit(reason=reason, code=frame.code, signal=frame.signal, evidence=frame.evidence)


def error(code: str, message: str, kind: str | None, details: Mapping[str, Any]) -> Error:
    """Return the exception that an error on the wire stands for; an exit among its details becomes one of the model."""
    made = from_wire(code, message, kind)
    made.details = dict(details)
    told = details.get("exit")
    if isinstance(told, Mapping):
        made.details["exit"] = _convert(told, SandboxExit if _is_sandbox_reason(told) else ProcessExit)
    return made


def error_answer(body: bytes, status: int) -> Error:
    """Return the exception of an HTTP answer that is no success."""
    try:
        told = msgspec.json.decode(body)["error"]
        return error(str(told["code"]), str(told["message"]), told.get("kind"), told.get("details") or {})
    except (msgspec.MsgspecError, KeyError, TypeError, AttributeError):
        text = body[:200].decode("utf-8", "replace")
        return InternalError(f"the server answered {status} without an error that this client knows: {text!r}")


def _is_sandbox_reason(told: Mapping[str, Any]) -> bool:
    return told.get("reason") in set(SandboxReason)


def _field(answer: object, name: str) -> object:
    return answer.get(name) if isinstance(answer, Mapping) else None


def _convert(answer: object, kind: type[T]) -> T:
    try:
        return msgspec.convert(answer, kind)
    except msgspec.ValidationError as exc:
        raise InternalError(f"the server's {getattr(kind, '__name__', kind)} cannot be read: {exc}; {_HINT}") from exc
