"""One SQLite file: reads where they are asked for, writes by one thread that commits them in groups.

WAL with `synchronous=normal`: a commit survives kill -9 of the server, a power failure may cost the last ones (a
checkpoint of the log writes them through) unless they are asked to be durable: then the log is synced before they
return. One commit costs as much as a hundred, so the thread takes whatever waits.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import apsw

from skerry.model.errors import ConflictError, Error, InternalError, ResourceExhaustedError, ServerUnavailableError
from skerry.store.sqlite.queries import load_migrations

T = TypeVar("T")
Values = Mapping[str, Any]

FILE: Final = "skerry.db"
GROUP_MAX: Final = 256
WAITING_MAX: Final = 4096  # writes that wait for the thread; beyond it the caller waits for room
_BUSY_MS: Final = 5000


class Write:
    """The writer's side of the database, as a write sees it."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def rows(self, statement: str, values: Values) -> Sequence[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        return list(self._connection.execute(statement, values))


Job = Callable[[Write], Any]
_Waiting = tuple[Job, "asyncio.Future[Any]", bool]
_Result = tuple["asyncio.Future[Any]", Any, Exception | None]


class Database:
    """The database of a data folder, held by one server at a time."""

    def __init__(self, folder: Path) -> None:
        """Open it and bring it to the newest form; ConflictError if another server holds the folder."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = lock_folder(folder)
        try:
            self._writer = _connect(folder / FILE)
            migrate(self._writer)
            self._reader = _connect(folder / FILE)
        except BaseException:
            os.close(self._lock)
            raise
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._room = asyncio.Semaphore(WAITING_MAX)
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="skerry-store", daemon=True)
        self._thread.start()

    def read(self, statement: str, values: Values = {}) -> Sequence[tuple[Any, ...]]:  # noqa: B006 - never changed
        """Return the rows of a query, every committed write included."""
        return list(self._reader.execute(statement, values))

    async def write(self, job: Callable[[Write], T], *, durable: bool = False) -> T:
        """Return the result of `job`, run in the writer's thread, once it is committed; if it raises, nothing is.

        What is `durable` outlives a power failure as well, and costs the time of a disk's sync.
        """
        if self._closed:
            raise ServerUnavailableError("the server is shutting down; try again")
        async with self._room:
            future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
            self._waiting.put((job, future, durable))
            return await future

    def close(self) -> None:
        """Commit what waits, then close the file and give the folder back."""
        if self._closed:
            return
        self._closed = True
        self._waiting.put(None)
        self._thread.join()
        self._reader.close()
        self._writer.close()
        os.close(self._lock)

    def _run(self) -> None:
        write = Write(self._writer)
        while True:
            group, last = self._next_group()
            if group:
                _deliver(self._commit(write, group))
            if last:
                return

    def _next_group(self) -> tuple[list[_Waiting], bool]:
        """Wait for a write and take those that wait behind it; tell whether it is the last."""
        group: list[_Waiting] = []
        item = self._waiting.get()
        while item is not None:
            group.append(item)
            if len(group) == GROUP_MAX or self._waiting.empty():
                return group, False
            item = self._waiting.get()
        return group, True

    def _commit(self, write: Write, group: Sequence[_Waiting]) -> list[_Result]:
        """Commit a group: a write that raises is undone alone, a commit that fails fails them all."""
        results: list[_Result] = []
        durable = any(asked for _, _, asked in group)
        try:
            # With `full` a commit syncs the log, and with it all that was committed before.
            self._writer.execute(f"PRAGMA synchronous = {'full' if durable else 'normal'}")
            with self._writer:
                for job, future, _ in group:
                    results.append((future, *_attempt(self._writer, write, job)))
                    if not self._writer.in_transaction:
                        break  # SQLite undoes all of it by itself when the disk is full
        except apsw.Error as exc:
            told = (failure for _, _, failure in results if isinstance(failure, ResourceExhaustedError))
            failure: Error = next(told, None) or _failure(exc)
            return [(future, None, failure) for _, future, _ in group]
        return results


def _attempt(connection: apsw.Connection, write: Write, job: Job) -> tuple[Any, Exception | None]:
    """Run one write of a group in a savepoint of its own."""
    connection.execute("SAVEPOINT job")
    try:
        value = job(write)
    except Exception as exc:
        if connection.in_transaction:
            connection.execute("ROLLBACK TO job; RELEASE job")
        return None, _failure(exc) if isinstance(exc, apsw.FullError | apsw.IOError) else exc
    connection.execute("RELEASE job")
    return value, None


def _failure(exc: apsw.Error) -> Error:
    """Return what the caller is told when the file cannot be written."""
    if isinstance(exc, apsw.FullError | apsw.IOError):
        return ResourceExhaustedError(
            f"the database cannot be written ({exc}); free space on the disk of the data folder"
        )
    return InternalError(f"the database could not be written: {exc}")


def _deliver(results: Sequence[_Result]) -> None:
    """Hand each result to the loop that waits for it, one call for each loop."""
    loops: dict[asyncio.AbstractEventLoop, list[_Result]] = {}
    for result in results:
        loops.setdefault(result[0].get_loop(), []).append(result)
    for loop, own in loops.items():
        try:
            loop.call_soon_threadsafe(_settle, own)
        except RuntimeError:
            continue  # that loop has ended, and with it whoever waited


def _settle(results: Sequence[_Result]) -> None:
    for future, value, failure in results:
        if future.done():
            continue
        if failure is None:
            future.set_result(value)
        else:
            future.set_exception(failure)


def lock_folder(folder: Path) -> int:
    """Return a descriptor that holds the folder until it is closed or its process dies; ConflictError if it is held."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise ConflictError(
            f"the data folder {folder} is in use by another skerry server (process {holder}); "
            "stop that one, or set SKERRY_DATA_DIR to another folder"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def migrate(connection: apsw.Connection, migrations: Sequence[tuple[int, str]] | None = None) -> None:
    """Bring the database to the newest form, each migration whole or not at all."""
    migrations = load_migrations() if migrations is None else migrations
    (version,) = next(connection.execute("PRAGMA user_version"))
    newest = migrations[-1][0]
    if version > newest:
        raise ConflictError(
            f"the database is of a newer skerry (form {version}, this one knows {newest}); install that version again"
        )
    for number, statements in migrations:
        if number > version:
            with connection:
                connection.execute(statements)
                connection.execute(f"PRAGMA user_version = {number}")


def _connect(file: Path) -> apsw.Connection:
    connection = apsw.Connection(str(file))
    connection.set_busy_timeout(_BUSY_MS)
    # One by one: of several statements in one call those behind the first that returns a row wait to be read.
    for setting in ("journal_mode = wal", "synchronous = normal", "foreign_keys = on"):
        connection.execute(f"PRAGMA {setting}").fetchall()
    return connection
