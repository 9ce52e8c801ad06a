"""Watching files of a sandbox over the socket."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import Final

from skerry.client.client import Client
from skerry.client.files import TRIES, FileCall
from skerry.client.transports.http import ConnectionLost
from skerry.model.errors import SandboxEndedError, ServerUnavailableError
from skerry.wire import native
from skerry.wire.records import RecordReader

WINDOW: Final = 64 << 10
"""Bytes of changes that wait for a program; more wait in the sandbox, which drops them at its bound and says so."""


async def watch(
    client: Client, sandbox: str, path: str, *, recursive: bool, kinds: tuple[str, ...] | None, timeout: float | None
) -> AsyncGenerator[native.Change, None]:
    """Yield changes until the timeout, or the end of the sandbox.

    What happens while a lost connection is made anew nobody sees: that is told as an overflow.
    """
    name = native.encode_name(path)
    deadline = None if timeout is None else time.monotonic() + timeout
    missed, tries = False, 0
    while (left := _left(deadline)) is None or left > 0:
        opening = native.OpenWatch(
            sandbox=sandbox, path=name, recursive=recursive, kinds=kinds, timeout_s=left, limit=WINDOW
        )
        started = False
        try:
            async with FileCall(await (await client.connection()).socket(), opening) as call:
                await call.started(native.Done)
                started, tries = True, 0
                if missed:
                    yield native.Change(kind="overflow", paths=(name,))
                async for change in _changes(call):
                    yield change
                return
        except ConnectionLost as exc:
            missed, tries = True, tries + 1
            if tries == TRIES:
                raise ServerUnavailableError(f"the connection was lost {TRIES} times at the start of a watch") from exc
        except SandboxEndedError:
            if started or missed:
                return
            raise


async def _changes(call: FileCall) -> AsyncGenerator[native.Change, None]:
    reader = RecordReader(lambda raw: native.decode(raw, native.Change))
    async for chunk in call.chunks(WINDOW):
        for change in reader.feed(chunk):
            yield change
    await call.result(native.Done)


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else deadline - time.monotonic()
