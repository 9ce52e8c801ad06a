"""Sandboxes for code that nobody has reviewed, in Modal's words.

    import skerry

    with skerry.Sandbox.create() as sandbox:
        print(sandbox.exec("python", "-c", "print(6 * 7)").stdout.read())

Names are loaded when they are first used, so that importing this costs a program nothing.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # type checkers take it for true; importing `typing` would cost more than all the rest here
if TYPE_CHECKING:
    from typing import Any

    from skerry import aio, exception, stream_type, types
    from skerry.client._async.streams import OutputDroppedWarning
    from skerry.client._core.timings import Timings
    from skerry.client._sync.apps import App
    from skerry.client._sync.filesystem import SandboxFilesystem
    from skerry.client._sync.images import Image
    from skerry.client._sync.logs import LogReader, SandboxLogs
    from skerry.client._sync.processes import ContainerProcess
    from skerry.client._sync.sandboxes import Sandbox
    from skerry.client._sync.secrets import Secret, SecretManager
    from skerry.client._sync.streams import StreamReader, StreamWriter
    from skerry.client._sync.volumes import Volume
    from skerry.client.buildlog import enable_output
    from skerry.client.client import Client, connect
    from skerry.client.fileinfo import FileInfo
    from skerry.client.filewatch import FileWatchEvent, FileWatchEventType
    from skerry.client.logentry import LogEntry
    from skerry.client.secretinfo import SecretInfo
    from skerry.client.stream_type import StreamType
    from skerry.model.errors import Error
    from skerry.model.exits import ProcessExit, ProcessReason, SandboxExit, SandboxReason

_HOMES = {
    "App": "skerry.client._sync.apps",
    "Client": "skerry.client.client",
    "ContainerProcess": "skerry.client._sync.processes",
    "Error": "skerry.model.errors",
    "FileInfo": "skerry.client.fileinfo",
    "FileWatchEvent": "skerry.client.filewatch",
    "FileWatchEventType": "skerry.client.filewatch",
    "Image": "skerry.client._sync.images",
    "LogEntry": "skerry.client.logentry",
    "LogReader": "skerry.client._sync.logs",
    "OutputDroppedWarning": "skerry.client._async.streams",
    "ProcessExit": "skerry.model.exits",
    "ProcessReason": "skerry.model.exits",
    "Sandbox": "skerry.client._sync.sandboxes",
    "SandboxExit": "skerry.model.exits",
    "SandboxFilesystem": "skerry.client._sync.filesystem",
    "SandboxLogs": "skerry.client._sync.logs",
    "SandboxReason": "skerry.model.exits",
    "Secret": "skerry.client._sync.secrets",
    "SecretInfo": "skerry.client.secretinfo",
    "SecretManager": "skerry.client._sync.secrets",
    "StreamReader": "skerry.client._sync.streams",
    "StreamType": "skerry.client.stream_type",
    "StreamWriter": "skerry.client._sync.streams",
    "Timings": "skerry.client._core.timings",
    "Volume": "skerry.client._sync.volumes",
    "connect": "skerry.client.client",
    "enable_output": "skerry.client.buildlog",
}
_MODULES = ("aio", "exception", "stream_type", "types")

__all__ = [
    "App",
    "Client",
    "ContainerProcess",
    "Error",
    "FileInfo",
    "FileWatchEvent",
    "FileWatchEventType",
    "Image",
    "LogEntry",
    "LogReader",
    "OutputDroppedWarning",
    "ProcessExit",
    "ProcessReason",
    "Sandbox",
    "SandboxExit",
    "SandboxFilesystem",
    "SandboxLogs",
    "SandboxReason",
    "Secret",
    "SecretInfo",
    "SecretManager",
    "StreamReader",
    "StreamType",
    "StreamWriter",
    "Timings",
    "Volume",
    "__version__",
    "aio",
    "connect",
    "enable_output",
    "exception",
    "stream_type",
    "types",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"skerry.{name}")
    elif name == "__version__":
        value = importlib.import_module("skerry.version").version()
    else:
        raise _no_such(name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def _no_such(name: str) -> AttributeError:
    """Return the error for a name that is not here; one that Modal has tells why."""
    if name.startswith("_"):
        return AttributeError(f"module 'skerry' has no attribute {name!r}")
    from skerry.client import words
    from skerry.model.errors import UnimplementedError

    if name not in words.MODULE_IDLE:
        return AttributeError(f"module 'skerry' has no attribute {name!r}")

    class NotHere(UnimplementedError, AttributeError):
        """Both, so that `hasattr` and `getattr` with a default still work."""

    return NotHere(f"skerry.{name} is not available: {words.MODULE_IDLE[name]}")
