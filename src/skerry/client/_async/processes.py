"""One command in a sandbox."""

from __future__ import annotations

import asyncio
import signal as signals
from collections.abc import Callable
from typing import Generic, Self, TypeVar
from weakref import finalize

from skerry.client._async.streams import StreamReader, StreamWriter
from skerry.client.client import Client
from skerry.client.connection import path
from skerry.client.sessions import ProcessSession
from skerry.client.stream_type import StreamType
from skerry.client.terminals import check_size
from skerry.model.errors import InvalidError
from skerry.model.exits import ProcessExit
from skerry.wire.frames import STDERR, STDOUT

T = TypeVar("T", str, bytes)

PRINT_GRACE_S = 1.0


class ContainerProcess(Generic[T]):
    """A process that `Sandbox.exec` has started."""

    def __init__(
        self,
        client: Client,
        session: ProcessSession,
        *,
        text: bool,
        by_line: bool,
        stdout: StreamType,
        stderr: StreamType,
    ) -> None:
        self._client = client
        self._session = session
        self._held = _Held(session)
        self._stdin = StreamWriter(session, owner=self._held)
        self._stdout: StreamReader[T] = StreamReader(
            session, STDOUT, text=text, by_line=by_line, kind=stdout, owner=self._held
        )
        self._stderr: StreamReader[T] = StreamReader(
            session, STDERR, text=text, by_line=by_line, kind=stderr, owner=self._held
        )
        self._printers = [
            client.spawn(reader._print_all())
            for reader, kind in ((self._stdout, stdout), (self._stderr, stderr))
            if kind is StreamType.STDOUT
        ]

    @property
    def object_id(self) -> str:
        return self._session.process

    @property
    def sandbox_id(self) -> str:
        return self._session.sandbox

    @property
    def stdin(self) -> StreamWriter:
        return self._stdin

    @property
    def stdout(self) -> StreamReader[T]:
        return self._stdout

    @property
    def stderr(self) -> StreamReader[T]:
        return self._stderr

    @property
    def returncode(self) -> int | None:
        """The exit code, or 128 + signal; None while the process runs."""
        return None if self._session.exit is None else self._session.exit.returncode

    @property
    def exit(self) -> ProcessExit | None:
        """How the process ended: code or signal, the reason from a closed list, the evidence; None while it runs."""
        return self._session.exit

    async def wait(self) -> int:
        """Return the exit code (128 + signal) once the process has ended. Its output may be read before or after."""
        ended = await self._session.wait()
        if self._printers:
            # A child in the background may hold the pipe for ever; what it prints later is not waited for.
            await asyncio.wait(self._printers, timeout=PRINT_GRACE_S)
        return ended.returncode

    async def poll(self) -> int | None:
        """Return the exit code if the process has ended, else None."""
        return self.returncode

    async def kill(self) -> None:
        """Kill the process and its whole group; one that has ended is left alone."""
        await self.signal(signals.SIGKILL)

    async def signal(self, number: int) -> None:
        """Send a signal to the process and its whole group; one that has ended is left alone."""
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= 64:
            raise InvalidError(f"signal {number!r} does not exist; give 1 to 64, such as signal.SIGTERM")
        if self._session.exit is not None:
            return
        connection = await self._client.connection()
        target = path("sandboxes", self.sandbox_id, "processes", self.object_id, "signal")
        await connection.call("POST", target, body={"signal": int(number)})

    async def resize_pty(self, rows: int, columns: int) -> None:
        """Resize the terminal of the process (`pty=True`), and tell what runs in it; an ended one is left alone."""
        await resize(self._client, self.sandbox_id, self.object_id, rows, columns)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Kill the process if it still runs."""
        await self.kill()

    def __repr__(self) -> str:
        state = "running" if self.returncode is None else f"returncode={self.returncode}"
        return f"<ContainerProcess {self.object_id} in {self.sandbox_id}, {state}>"


async def resize(client: Client, sandbox: str, process: str, rows: int, columns: int) -> None:
    """Resize the terminal of a process."""
    rows, columns = check_size((rows, columns), what="resize_pty: size")
    connection = await client.connection()
    target = path("sandboxes", sandbox, "processes", process, "resize")
    await connection.call("POST", target, body={"rows": rows, "columns": columns})


class _Held:
    """Held by a process and its streams. When none of them is left, the session may close its stream."""

    def __init__(self, session: ProcessSession) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        finalize(self, _abandon, loop, session.abandon).atexit = False


def _abandon(loop: asyncio.AbstractEventLoop, release: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(release)
