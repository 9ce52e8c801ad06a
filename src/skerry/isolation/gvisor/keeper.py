"""The line to a member's keeper: one line asks, one line answers, over two named pipes."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

ANSWER_BYTES = 64


class KeeperError(Exception):
    """The keeper did not answer as it should."""


class Keeper:
    """The node's ends of the two pipes. The sandbox holds both for reading and writing, so neither ever ends here."""

    def __init__(self, to_keeper: Path, from_keeper: Path, *, new: bool) -> None:
        """`new` says that the keeper's greeting is still to come; else an earlier node has heard it."""
        self._lock = asyncio.Lock()
        self._greeted = not new
        # O_RDWR, because O_WRONLY fails while nobody reads.
        self._writer = os.open(to_keeper, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self._reader = os.open(from_keeper, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except BaseException:
            os.close(self._writer)
            raise
        self._open = True

    async def ask(self, line: str) -> None:
        """Say a line and wait until the keeper has obeyed; raises KeeperError."""
        async with self._lock:
            await self._heed_greeting()
            # Far below PIPE_BUF, so it goes whole or not at all.
            try:
                os.write(self._writer, f"{line}\n".encode())
            except BlockingIOError as exc:
                raise KeeperError("the keeper reads nothing any more") from exc
            await self._expect("ok")

    async def _heed_greeting(self) -> None:
        if not self._greeted:
            await self._expect("ready")
            self._greeted = True
            return
        # What is there now was said to a node that is no more.
        with contextlib.suppress(BlockingIOError):
            os.read(self._reader, 1 << 16)

    async def _expect(self, answer: str) -> None:
        wanted, said = f"{answer}\n".encode(), bytearray()
        while len(said) < len(wanted):
            await self._readable()
            with contextlib.suppress(BlockingIOError):
                said += os.read(self._reader, ANSWER_BYTES)
        if said != wanted:
            raise KeeperError(f"the keeper said {bytes(said[:ANSWER_BYTES])!r} instead of {wanted!r}")

    def close(self) -> None:
        if self._open:
            self._open = False
            os.close(self._writer)
            os.close(self._reader)

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        readable: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._reader, _resolve, readable)
        try:
            await readable
        finally:
            loop.remove_reader(self._reader)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
