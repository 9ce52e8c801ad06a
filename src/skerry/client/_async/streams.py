"""What a process writes and what it reads, as streams of text or bytes."""

from __future__ import annotations

import asyncio
import io
import sys
import warnings
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Generic, TypeVar, cast

from skerry.client._core.streams import BULK_WINDOW, WINDOW
from skerry.client._core.text import LineSplitter, TextDecoder
from skerry.client.sessions import ProcessSession
from skerry.client.stream_type import StreamType
from skerry.model.errors import InvalidError

T = TypeVar("T", str, bytes)

_NAMES = {1: "stdout", 2: "stderr"}


class OutputDroppedWarning(UserWarning):
    """A process wrote more than the server keeps, and nobody was reading: its oldest bytes are gone."""


class StreamReader(Generic[T]):
    """The output of a process. Iterate for lines as they come (chunks, with `text=False`), or `read()` all of it.

    All iterations and reads share one position, so each byte is delivered once.
    """

    def __init__(
        self,
        session: ProcessSession,
        file_descriptor: int,
        *,
        text: bool = True,
        by_line: bool = True,
        kind: StreamType = StreamType.PIPE,
        owner: object = None,
    ) -> None:
        self.file_descriptor = file_descriptor
        self._session = session
        self._kind = kind
        self._owner = owner  # keeps the process's stream open for as long as this reader is held
        self._lock = asyncio.Lock()
        self._items: deque[Any] = deque()
        self._form = _Text(_NAMES[file_descriptor], by_line) if text else _Bytes()
        self._told_dropped = 0

    @property
    def received(self) -> int:
        """How many bytes have come so far, lost ones included."""
        return self._session.incoming[self.file_descriptor].received

    @property
    def dropped(self) -> int:
        """How many bytes were lost because the process wrote more than is kept while nobody read."""
        return self._session.incoming[self.file_descriptor].dropped

    async def read(self) -> T:
        """Return everything up to the end of the stream, waiting for it."""
        self._check_readable()
        async with self._lock:
            pile: Any = self._form.pile()
            pile.extend(self._items)
            self._items.clear()
            while chunks := await self._session.take(self.file_descriptor, BULK_WINDOW):
                pile.extend(self._form.whole(chunks))
            pile.extend((self._form.rest(),))
        self._warn_dropped()
        return cast(T, pile.joined())

    def __aiter__(self) -> StreamReader[T]:
        self._check_readable()
        return self

    async def __anext__(self) -> T:
        while (item := self._pop()) is None:
            if not await self._fill():
                raise StopAsyncIteration
        return item

    def _pop(self) -> T | None:
        """Return the next item that has come."""
        try:
            return cast(T, self._items.popleft())
        except IndexError:
            return None

    async def _fill(self) -> bool:
        """Fetch what has come, for iteration; False at the end of the stream."""
        self._check_readable()
        async with self._lock:
            if self._items:
                return True
            chunks = await self._session.take(self.file_descriptor, WINDOW)
            if chunks:
                self._items.extend(self._form.items(chunks))
            elif rest := self._form.rest():
                self._items.append(rest)
            self._warn_dropped()
            return bool(chunks or self._items)

    async def _print_all(self) -> None:
        """Print the stream to this program's stdout as it comes."""
        while chunks := await self._session.take(self.file_descriptor, WINDOW):
            _print(chunks)

    def _check_readable(self) -> None:
        if self._kind is StreamType.PIPE:
            return
        name = _NAMES[self.file_descriptor]
        where = "thrown away" if self._kind is StreamType.DEVNULL else "printed as it comes"
        raise InvalidError(
            f"{name} of this process cannot be read: it is {where} ({name}=StreamType.{self._kind.name}); "
            f"leave {name} at StreamType.PIPE to read it"
        )

    def _warn_dropped(self) -> None:
        if self.dropped > self._told_dropped:
            lost, self._told_dropped = self.dropped - self._told_dropped, self.dropped
            warnings.warn(
                f"{lost} bytes of {_NAMES[self.file_descriptor]} are lost: the process wrote more than the server "
                "keeps, and nobody read it; read while it runs",
                OutputDroppedWarning,
                stacklevel=3,
            )


class StreamWriter:
    """The input of a process. `write` queues, the connection sends, `drain` waits while the process takes nothing."""

    def __init__(self, session: ProcessSession, *, owner: object = None) -> None:
        self._session = session
        self._owner = owner

    def write(self, data: str | bytes | bytearray | memoryview) -> None:
        """Queue text or bytes; raises BufferError when 16 MiB wait, ValueError after `write_eof`."""
        if isinstance(data, str):
            data = data.encode("utf-8")
        elif not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"stdin takes text or bytes, not {type(data).__name__}")
        self._session.write(data)

    def write_eof(self) -> None:
        """Close stdin once what was written has been sent."""
        self._session.write_eof()

    async def drain(self) -> None:
        """Return once everything written is on its way: at most 1 MiB of it can be ahead of what the process reads."""
        await self._session.drain()


class _Text:
    """Turns chunks into text: by lines for iteration, whole for reading."""

    def __init__(self, name: str, by_line: bool) -> None:
        self._decoder = TextDecoder(name)
        self._lines = LineSplitter()
        self._by_line = by_line

    def items(self, chunks: Sequence[bytes]) -> list[str]:
        text = self._decoder.decode(chunks)
        if self._by_line:
            return self._lines.feed(text)
        return [text] if text else []

    def whole(self, chunks: Sequence[bytes]) -> list[str]:
        return [self._lines.flush(), self._decoder.decode(chunks)]

    def rest(self) -> str:
        return self._lines.flush() + self._decoder.decode((), final=True)

    def pile(self) -> _TextPile:
        return _TextPile()


class _Bytes:
    """Passes chunks on as they come."""

    def items(self, chunks: Sequence[bytes]) -> Sequence[bytes]:
        return chunks

    def whole(self, chunks: Sequence[bytes]) -> Sequence[bytes]:
        return chunks

    def rest(self) -> bytes:
        return b""

    def pile(self) -> _BytesPile:
        return _BytesPile()


class _TextPile(list[str]):
    """Parts of a text that become one at the end."""

    def joined(self) -> str:
        return "".join(self)


class _BytesPile:
    """Bytes that are one all along: a list of chunks, joined at the end, would take twice the memory and the time."""

    def __init__(self) -> None:
        self._file = io.BytesIO()

    def extend(self, parts: Iterable[bytes]) -> None:
        self._file.writelines(parts)

    def joined(self) -> bytes:
        return self._file.getvalue()  # without a copy


def _print(chunks: Sequence[bytes]) -> None:
    raw = getattr(sys.stdout, "buffer", None)
    if raw is None:  # a notebook's or a test's stdout
        sys.stdout.write(b"".join(chunks).decode("utf-8", "replace"))
    else:
        sys.stdout.flush()
        raw.write(b"".join(chunks))
    sys.stdout.flush()
