"""One program's connection to one server on one event loop: calls over HTTP, and the socket that all streams share.

A server that goes away (killed, upgraded, gone after its idle time) is looked for again, and started again where that
is allowed. Every call may be repeated: it carries an idempotency key, or asks for a state rather than for a step.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from skerry.client import autostart
from skerry.client._core import host_access, views
from skerry.client.settings import HostSettings, ServerAddress, host_access_wanted
from skerry.client.transports import unix
from skerry.client.transports.http import ConnectionLost, HttpConnection, Request
from skerry.client.transports.socket import FrameSocket
from skerry.model.errors import ConflictError, Error, ServerUnavailableError
from skerry.model.ids import RandomIds

RECOVERY_S: Final = 30.0
CALL_TIMEOUT_S: Final = 120.0
IDLE_CONNECTIONS_MAX: Final = 8
_BACKOFF_FIRST_S: Final = 0.02
_BACKOFF_MAX_S: Final = 1.0

T = TypeVar("T")


def path(*parts: str) -> str:
    """Return the target of a call; what a caller named is quoted, so that it stays one part."""
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


class Connection:
    """Belongs to the loop in which it is first used; `aclose` ends everything it owns."""

    def __init__(self, address: ServerAddress, *, environ: dict[str, str] | None = None) -> None:
        self.address = address
        self.ids = RandomIds()
        self._host = HostSettings(os.environ if environ is None else environ)
        self._idle: list[HttpConnection] = []
        self._socket: FrameSocket | None = None
        self._socket_lock = asyncio.Lock()
        self._connected_before = False
        self._closed = False

    async def call(
        self,
        method: str,
        target: str,
        *,
        body: object = None,
        query: dict[str, object] | None = None,
        key: str | None = None,
        timeout: float = CALL_TIMEOUT_S,
    ) -> Any:
        """Return the decoded answer of a call, repeated while the server is away; raises its error."""
        request = _request(method, target, body, query, key)
        return await self._persist(lambda: self._call_once(request, timeout))

    async def call_with_host(self, target: str, body: dict[str, object], wanted: bool | None, *, key: str) -> Any:
        """The same for a call that carries this machine's settings; sends the certificates if the server asks."""
        settings = self.host_settings(wanted)
        body = body | {"host_access": settings.wire()}
        try:
            return await self.call("POST", target, body=body, key=key)
        except ConflictError as exc:
            await self.send_trust(settings, exc)
        return await self.call("POST", target, body=body, key=key)

    def host_settings(self, wanted: bool | None) -> host_access.AccessSettings:
        return self._host.current() if host_access_wanted(wanted) else host_access.AccessSettings()

    async def send_trust(self, settings: host_access.AccessSettings, asked: ConflictError) -> None:
        """Send the certificates that `asked` asks for; raises it if it asks for something else."""
        digest = settings.digest
        if digest is None or asked.details.get("trust") != digest:
            raise asked
        request = Request("PUT", path("trust", digest), settings.bundle)
        await self._persist(lambda: self._call_once(request, CALL_TIMEOUT_S))

    async def reach(self) -> None:
        """Return when the server answers: it is found, or started."""
        if not self._connected_before:
            self._give_back(await self._persist(self._http))

    async def lines(self, target: str, body: object) -> AsyncIterator[Any]:
        """Yield the decoded lines of a long answer as they come; raises ConnectionLost if it ends early."""
        request = _request("POST", target, body, None, None)
        http = await self._persist(self._http)
        try:
            http.send(request)
            if await http.answer() >= 300:
                raise views.error_answer(await http.body(), http.status)
            async for line in http.lines():
                yield msgspec.json.decode(line)
        finally:
            self._give_back(http)

    @property
    def open_socket(self) -> FrameSocket | None:
        """The socket, if it is open."""
        return None if self._socket is None or self._socket.closed else self._socket

    async def socket(self) -> FrameSocket:
        """Return the open socket, opened now if there is none; looks for a server that went away for 30 s."""
        if self.open_socket is not None:
            return self.open_socket
        async with self._socket_lock:
            if self._socket is None or self._socket.closed:
                self._socket = await self._persist(lambda: self._reach(FrameSocket.connect))
            return self._socket

    async def aclose(self) -> None:
        """End every connection; a second call does nothing."""
        self._closed = True
        for http in self._idle:
            http.close()
        self._idle.clear()
        if self._socket is not None:
            await self._socket.aclose()

    def leave_to_parent(self) -> None:
        """Touch nothing of it in a forked child: the descriptors and the loop are the parent's."""
        self._closed = True
        if self._socket is not None:
            self._socket.leave_to_parent()

    async def _call_once(self, request: Request, timeout: float) -> Any:
        http = await self._http()
        try:
            async with asyncio.timeout(timeout):
                http.send(request)
                await http.answer()
                body = await http.body()
        except TimeoutError as exc:
            http.close()
            raise ServerUnavailableError(
                f"the server did not answer {request.method} {request.target} within {timeout:.0f} s; "
                "look at its log, or run `skerry doctor`"
            ) from exc
        finally:
            self._give_back(http)
        if http.status >= 300:
            raise views.error_answer(body, http.status)
        return msgspec.json.decode(body) if body else None

    async def _http(self) -> HttpConnection:
        while self._idle:
            http = self._idle.pop()
            if http.usable:
                return http
        http = await self._reach(lambda where: unix.connect(where, HttpConnection))
        http.reusable = True
        return http

    def _give_back(self, http: HttpConnection) -> None:
        if http.usable and len(self._idle) < IDLE_CONNECTIONS_MAX and not self._closed:
            self._idle.append(http)
        else:
            http.close()

    async def _reach(self, connect: Callable[..., Coroutine[Any, Any, T]]) -> T:
        """Return what `connect` makes of the server's socket; starts a server where that is allowed."""
        where = self.address.socket
        try:
            made = await connect(where)
        except (FileNotFoundError, ConnectionRefusedError):
            if not self.address.autostart:
                raise
            await autostart.ensure(self.address)
            made = await connect(where)
        self._connected_before = True
        return made

    async def _persist(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what `work` returns, repeated with growing pauses while a server that was there is away."""
        deadline = time.monotonic() + RECOVERY_S
        pause = _BACKOFF_FIRST_S
        while True:
            try:
                return await work()
            except (OSError, ConnectionLost, ServerUnavailableError) as exc:
                final = self._unreachable(exc)
                if final is not None and (not self._connected_before or time.monotonic() + pause > deadline):
                    raise final from exc
                if final is None or self._closed:
                    raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, _BACKOFF_MAX_S)

    def _unreachable(self, exc: Exception) -> Error | None:
        """Return the error that the caller gets in the end; None for one that repeating does not mend."""
        if isinstance(exc, ServerUnavailableError):
            return exc if exc.details.get("retry", True) else None
        if isinstance(exc, PermissionError):
            return autostart.no_access(self.address)
        if isinstance(exc, (FileNotFoundError, ConnectionRefusedError)):
            return autostart.no_server(self.address)
        return ServerUnavailableError(f"the server on {self.address.socket} went away: {exc}; its log says why")


def _request(method: str, target: str, body: object, query: dict[str, object] | None, key: str | None) -> Request:
    chosen = {name: value for name, value in (query or {}).items() if value is not None}
    headers = {} if key is None else {"Idempotency-Key": key}
    if body is not None:
        headers["Content-Type"] = "application/json"
    encoded = b"" if body is None else msgspec.json.encode(body)
    return Request(method, target + ("?" + urlencode(chosen, doseq=True) if chosen else ""), encoded, headers)
