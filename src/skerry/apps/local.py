"""The local server: engine, SQLite, one node and the native door in one process.

`python -I -m skerry.apps.local` is how clients start it; `skerry server` runs the same in the foreground. SIGTERM and
SIGINT end the server, never the sandboxes: the next one adopts them, and their lifetimes are kept meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Final

from skerry.apps.clock import SystemClock
from skerry.apps.composition import EngineParts, Ground, OpenParts
from skerry.apps.folders import own_data_folder, own_runtime_folder
from skerry.apps.logs import configure
from skerry.apps.memory import keep_freed_memory
from skerry.apps.settings import Settings, from_environment
from skerry.apps.sockets import bound_socket
from skerry.doors.native.app import native_door
from skerry.doors.native.callers import LocalCallers
from skerry.doors.native.listening import Listener, listening
from skerry.engine.engine import Engine, assemble
from skerry.engine.interfaces import Clock
from skerry.model.errors import ConflictError, Error
from skerry.model.events import Events
from skerry.model.ids import Ids, RandomIds
from skerry.store.sqlite.store import SqliteStore
from skerry.store.vault import Vault

log = Events("skerry.server")

# A server that is leaving gives its folder back within this time: its door has closed already.
_LOCK_PATIENCE_S: Final = 5.0
_LOCK_STEP_S: Final = 0.05
_IDLE_STEP_S: Final = 5.0


@contextlib.asynccontextmanager
async def node_parts(ground: Ground) -> AsyncIterator[EngineParts]:
    """Yield this machine as a node, and the images that are built on it."""
    # Late, because it loads what only a node needs.
    from skerry.apps.node import open_node

    async with open_node(ground) as parts:
        yield parts


async def serve(settings: Settings, open_parts: OpenParts = node_parts, *, clock: Clock | None = None) -> None:
    """Run the server until a signal comes or it has been idle for long enough."""
    clock, ids = clock or SystemClock(), RandomIds()
    own_data_folder(settings.data_dir)
    own_runtime_folder(settings.runtime_dir)  # before anything is put there
    store = await _open_store(settings, ids)
    try:
        configure(settings.log, foreground=settings.foreground)
        vault = Vault(settings.key_file, now=clock.now)
        ground = Ground(settings=settings, store=store, clock=clock, ids=ids, vault=vault)
        async with open_parts(ground) as parts:
            engine = assemble(
                store=store,
                nodes=parts.nodes,
                images=parts.images,
                volume_disk=parts.volume_disk,
                volume_bytes=settings.volume_bytes,
                clock=clock,
                ids=ids,
                vault=vault,
                image_files=parts.image_files,
                image_bounds=settings.images,
                data_folders=parts.data_folders,
                bounds=settings.ended,
            )
            await _serve(settings, engine, clock)
    except Exception as exc:
        log.error("server.failed", exc=exc)
        raise
    finally:
        store.close()
        log.info("server.stopped", pid=os.getpid())


async def _serve(settings: Settings, engine: Engine, clock: Clock) -> None:
    door = native_door(engine, LocalCallers(), started_at=clock.now())
    with bound_socket(settings.socket, group=settings.group) as sock:
        async with engine.running(), listening(door, sock) as listener:
            gc.freeze()  # what was loaded to get here stays: no collection need look at it again
            log.info("server.ready", pid=os.getpid(), socket=settings.socket, data=settings.data_dir)
            await _until_stopped(settings, engine, listener, clock)


async def _until_stopped(settings: Settings, engine: Engine, listener: Listener, clock: Clock) -> None:
    """Return when a signal came, or when nobody needs the server any more."""
    stop = asyncio.Event()
    with _on_signals(stop):
        waits: list[asyncio.Future[object]] = [asyncio.ensure_future(stop.wait())]
        if not settings.foreground:
            waits.append(asyncio.ensure_future(_idle(settings.idle_s, engine, listener, clock)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
    log.info("server.stopping", cause="signal" if stop.is_set() else "idle", live=engine.sandboxes.live_count)


async def _idle(idle_s: float, engine: Engine, listener: Listener, clock: Clock) -> None:
    """Return after `idle_s` seconds without a client, a request or a live sandbox."""
    requests = listener.requests
    since = clock.monotonic()
    while clock.monotonic() - since < idle_s:
        await clock.sleep(min(_IDLE_STEP_S, idle_s))
        if listener.clients or listener.requests != requests or engine.sandboxes.live_count:
            requests = listener.requests
            since = clock.monotonic()


@contextlib.contextmanager
def _on_signals(stop: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


async def _open_store(settings: Settings, ids: Ids) -> SqliteStore:
    """Open the data folder, giving a server that is leaving the time to do so."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _LOCK_PATIENCE_S
    while True:
        try:
            return SqliteStore(settings.data_dir, ids=ids)
        except ConflictError:
            if settings.foreground or loop.time() > deadline:
                raise
        await asyncio.sleep(_LOCK_STEP_S)


def _allow_many_files() -> None:
    """Raise the soft limit of open files to the hard one: each sandbox holds a handful."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run(settings: Settings, open_parts: OpenParts = node_parts) -> int:
    """Run the server to its end and return the exit status; what keeps it from running goes to stderr."""
    os.umask(0o077)
    _allow_many_files()
    keep_freed_memory()
    try:
        asyncio.run(serve(settings, open_parts))
    except Error as exc:
        print(f"skerry: {exc.message}", file=sys.stderr)
        return 1
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -I -m skerry.apps.local", description="The local server.")
    parser.add_argument("--foreground", action="store_true", help="tell on stderr what happens, and never leave")
    parser.add_argument("--group", help="the group that may use the server, and with it all its sandboxes")
    given = parser.parse_args(argv)
    try:
        settings = from_environment(group=given.group, foreground=given.foreground)
    except Error as exc:
        print(f"skerry: {exc.message}", file=sys.stderr)
        return 2
    return run(settings)


if __name__ == "__main__":
    sys.exit(main())
