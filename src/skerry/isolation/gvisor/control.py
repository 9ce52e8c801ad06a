"""The sentry's control socket, spoken without threads: one JSON object each way, descriptors beside the first byte.

The peer is hostile: a guest that has broken out of gVisor owns the sentry. So a reply is bounded in size and time, no
descriptor is ever accepted with one, and what a reply says is data for the caller to judge.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import os
import socket
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skerry.model.errors import Error
from skerry.model.text import escaped

CALL_SECONDS = 10.0
REPLY_BYTES = 1 << 18
_DECODES_MAX = 64  # gVisor writes an answer at once; a peer that dribbles braces must not cost more than this
ERROR_CHARS = 500
_CHUNK = 1 << 16
# gVisor takes at most this many descriptors with a call (maxFiles in its pkg/urpc).
FILES_MAX = 128


class ControlError(Error):
    """A call to the sentry failed; `method` says which one, `answered` whether the sentry itself refused it."""

    code = "internal"

    def __init__(self, method: str, reason: str, *, answered: bool = False) -> None:
        super().__init__(f"control call {method} failed: {reason}")
        self.method = method
        self.answered = answered


class Control:
    """Calls to one sentry, one at a time, over one connection that is made when it is needed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = asyncio.Lock()
        self._socket: socket.socket | None = None

    async def call(
        self, method: str, argument: object, files: Sequence[int] = (), *, seconds: float = CALL_SECONDS
    ) -> Any:
        """Return the result of `method`; `files` stay the caller's. Raises ControlError."""
        if len(files) > FILES_MAX:
            raise ControlError(method, f"{len(files)} descriptors, and gVisor takes at most {FILES_MAX}")
        # gVisor unmarshals the argument twice, and bytes after the object are lost with its decoder: send nothing else.
        request = json.dumps({"method": method, "arg": argument}, separators=(",", ":")).encode()
        async with self._lock:
            try:
                async with asyncio.timeout(seconds):
                    reply = await self._exchange(method, request, files)
            except TimeoutError as exc:
                self.close()
                raise ControlError(method, f"no answer within {seconds:g} s") from exc
            except OSError as exc:
                self.close()
                raise ControlError(method, f"the connection broke ({exc})") from exc
            except BaseException:
                self.close()  # a call that was given up leaves its answer in the socket
                raise
        return _result(method, reply)

    def close(self) -> None:
        """Drop the connection; the next call makes a new one."""
        if self._socket is not None:
            # add_reader and add_writer are undone where they were made.
            self._socket.close()
            self._socket = None

    async def _exchange(self, method: str, request: bytes, files: Sequence[int]) -> object:
        if self._socket is None:
            self._socket = connect(self._path)
        await _send(self._socket, request, files)
        return await _receive(self._socket, method)


def connect(path: Path) -> socket.socket:
    """Return a connection to the socket at `path`, whose folder must be the server's own and nobody else's.

    It is opened through the folder's descriptor, so that the folder cannot be exchanged in between, and so that the
    path may be longer than the 107 bytes of a socket address. Raises OSError.
    """
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _check_folder(path.parent, os.fstat(folder))
        if not stat.S_ISSOCK(os.stat(path.name, dir_fd=folder, follow_symlinks=False).st_mode):
            raise OSError(f"{path} is no socket")
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            connection.connect(f"/proc/self/fd/{folder}/{path.name}")
        except BaseException:
            connection.close()
            raise
        return connection
    finally:
        os.close(folder)


def _check_folder(folder: Path, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise PermissionError(
            f"{folder} holds a control socket, so it must belong to user {os.geteuid()} with mode 0700, "
            f"not to user {status.st_uid} with mode {stat.S_IMODE(status.st_mode):04o}"
        )


async def _send(connection: socket.socket, request: bytes, files: Sequence[int]) -> None:
    view = memoryview(request)
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
    while view:
        try:
            sent = connection.sendmsg([view], ancillary)
        except BlockingIOError:
            await _ready(connection, for_reading=False)
            continue
        view, ancillary = view[sent:], []


async def _receive(connection: socket.socket, method: str) -> object:
    reply = bytearray()
    attempts = 0
    while attempts < _DECODES_MAX:
        await _ready(connection, for_reading=True)
        # recv leaves no room for descriptors, so the kernel drops any that the peer adds.
        chunk = connection.recv(_CHUNK)
        if not chunk:
            raise ControlError(method, "the sentry closed the connection")
        reply += chunk
        if len(reply) > REPLY_BYTES:
            raise ControlError(method, f"the answer is longer than {REPLY_BYTES} bytes")
        # Every answer is one object, so it can only be complete behind a closing brace.
        if chunk.endswith(b"}"):
            attempts += 1
            with contextlib.suppress(ValueError):
                return _decode(method, reply)
    raise ControlError(method, "the answer came in too many pieces")


def _decode(method: str, reply: bytearray) -> object:
    try:
        return json.loads(reply)
    except RecursionError as exc:
        raise ControlError(method, "the answer is nested too deeply") from exc


async def _ready(connection: socket.socket, *, for_reading: bool) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    descriptor = connection.fileno()
    add, remove = (loop.add_reader, loop.remove_reader) if for_reading else (loop.add_writer, loop.remove_writer)
    add(descriptor, _resolve, ready)
    try:
        await ready
    finally:
        remove(descriptor)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _result(method: str, reply: object) -> Any:
    if not isinstance(reply, dict) or not isinstance(reply.get("success"), bool):
        raise ControlError(method, "the answer is not of the form that gVisor gives")
    if not reply["success"]:
        raise ControlError(method, _printable(reply.get("err")), answered=True)
    return reply.get("result")


def _printable(text: object) -> str:
    """What the sentry said, short and without control characters: it may be the guest who speaks."""
    plain = escaped(str(text), limit=ERROR_CHARS)
    return plain or "no reason given"
