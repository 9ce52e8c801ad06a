"""The native door as one ASGI application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from skerry.doors.native.callers import Callers
from skerry.doors.native.calls import error_response, serve
from skerry.doors.native.connection import Connection, Receive
from skerry.doors.native.endpoints import ENDPOINTS, health_at
from skerry.doors.native.errors import tell
from skerry.doors.native.outbox import Send
from skerry.doors.native.places import PLACE
from skerry.engine.engine import Engine
from skerry.model.errors import AuthError, InvalidError, NotFoundError

STREAM_PATH = "/v1/stream"

Scope = MutableMapping[str, Any]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]


def native_door(engine: Engine, callers: Callers, *, started_at: float) -> Asgi:
    """Return the door: `/v1/stream` by hand, everything else by the framework."""
    endpoints = (health_at(started_at), *ENDPOINTS)
    http = Starlette(
        routes=[
            Route(one.path, serve(one, engine, callers), methods=[one.method], name=f"{one.method} {one.path}")
            for one in endpoints
        ],
        exception_handlers={HTTPException: _no_route},
    )

    async def door(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await _stream(scope, receive, send)
        else:
            await http(scope, receive, cast(Any, send))

    async def _stream(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        if scope["path"] != STREAM_PATH or not _known(callers, scope):
            await send({"type": "websocket.close"})  # before acceptance: the handshake is answered 403
            return
        await send({"type": "websocket.accept"})
        await Connection(engine, receive, send, scope["state"][PLACE]).serve()

    return door


def _known(callers: Callers, scope: Scope) -> bool:
    try:
        callers.resolve(scope)
    except AuthError:
        return False
    return True


async def _no_route(request: Request, exc: Exception) -> Response:
    """Answer for paths and methods that do not exist, in the form of all errors."""
    assert isinstance(exc, HTTPException)
    if exc.status_code == 404:
        return error_response(tell(NotFoundError(f"there is no {request.url.path} here; see docs/reference/http.md")))
    return error_response(tell(InvalidError(f"{request.method} {request.url.path}: {exc.detail}")))
