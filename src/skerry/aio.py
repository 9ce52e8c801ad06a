"""The plain asynchronous API: the same names, and every call is awaited.

    from skerry import aio

    async with await aio.Sandbox.create() as sandbox:
        process = await sandbox.exec("echo", "hello")
        print(await process.stdout.read())

Objects use the loop that they are called on.
"""

from __future__ import annotations

from skerry.client._async.apps import App
from skerry.client._async.filesystem import SandboxFilesystem
from skerry.client._async.images import Image
from skerry.client._async.logs import LogReader, SandboxLogs
from skerry.client._async.processes import ContainerProcess
from skerry.client._async.sandboxes import Sandbox
from skerry.client._async.secrets import Secret, SecretManager
from skerry.client._async.streams import OutputDroppedWarning, StreamReader, StreamWriter
from skerry.client._async.volumes import Volume
from skerry.client.buildlog import enable_output
from skerry.client.client import Client, connect
from skerry.client.fileinfo import FileInfo
from skerry.client.filewatch import FileWatchEvent, FileWatchEventType
from skerry.client.logentry import LogEntry
from skerry.client.secretinfo import SecretInfo
from skerry.client.stream_type import StreamType

__all__ = [
    "App",
    "Client",
    "ContainerProcess",
    "FileInfo",
    "FileWatchEvent",
    "FileWatchEventType",
    "Image",
    "LogEntry",
    "LogReader",
    "OutputDroppedWarning",
    "Sandbox",
    "SandboxFilesystem",
    "SandboxLogs",
    "Secret",
    "SecretInfo",
    "SecretManager",
    "StreamReader",
    "StreamType",
    "StreamWriter",
    "Volume",
    "connect",
    "enable_output",
]
