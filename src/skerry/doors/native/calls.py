"""One call of the HTTP half: what an endpoint is, and the way from bytes to its types and back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from skerry.doors.native.callers import Caller, Callers
from skerry.doors.native.errors import status_of, tell
from skerry.doors.native.payloads import ErrorAnswer, ErrorBody
from skerry.engine.engine import Engine
from skerry.model import limits
from skerry.model.errors import InvalidError
from skerry.wire.native import ErrorReply

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)

JSON = "application/json"


@dataclass(frozen=True)
class Call:
    """A request as an endpoint sees it: who calls, and typed parts. `raw` is the body of one that takes bytes."""

    caller: Caller
    engine: Engine
    path: Mapping[str, str]
    query: Any = None
    body: Any = None
    raw: bytes = b""
    idempotency_key: str | None = None


Handler = Callable[[Call], Awaitable[Any]]


@dataclass(frozen=True)
class Endpoint:
    """One line of the API. `lines` is the type of each line where the answer is NDJSON."""

    method: str
    path: str
    summary: str
    handle: Handler
    answer: Any = None
    lines: Any = None
    body: type[msgspec.Struct] | None = None
    query: type[msgspec.Struct] | None = None
    raw_media: str | None = None


def serve(endpoint: Endpoint, engine: Engine, callers: Callers) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint as the framework wants it; whatever goes wrong becomes an error answer."""

    async def respond(request: Request) -> Response:
        try:
            call = await _parse(endpoint, engine, callers.resolve(request.scope), request)
            answer = await endpoint.handle(call)
        except Exception as exc:
            return error_response(tell(exc, method=endpoint.method, path=endpoint.path))
        return answer if isinstance(answer, Response) else json_response(answer)

    return respond


def json_response(answer: object, status: int = HTTPStatus.OK) -> Response:
    return Response(msgspec.json.encode(answer), status_code=status, media_type=JSON)


def error_response(reply: ErrorReply) -> Response:
    return json_response(ErrorAnswer(error=error_body(reply)), status_of(reply.code))


def error_body(reply: ErrorReply) -> ErrorBody:
    return ErrorBody(code=reply.code, kind=reply.kind, message=reply.message, details=reply.details)


async def _parse(endpoint: Endpoint, engine: Engine, caller: Caller, request: Request) -> Call:
    raw = await _bounded_body(request) if endpoint.body or endpoint.raw_media else b""
    return Call(
        caller=caller,
        engine=engine,
        path=request.path_params,
        query=_query(request, endpoint.query) if endpoint.query else None,
        body=_decode(raw, endpoint.body) if endpoint.body else None,
        raw=raw,
        idempotency_key=request.headers.get("idempotency-key"),
    )


async def _bounded_body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limits.REQUEST_BYTES:
            raise InvalidError(f"the request has more than {limits.REQUEST_BYTES:,} bytes; send less")
    return bytes(body)


def _decode(raw: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise InvalidError(f"the request's body is not what is expected here: {exc}") from exc


def _query(request: Request, kind: type[S]) -> S:
    lists = {field.name for field in msgspec.structs.fields(kind) if isinstance(field.default, tuple)}
    params = request.query_params
    given = {name: params.getlist(name) if name in lists else params[name] for name in params if params[name]}
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as exc:
        raise InvalidError(f"the query is not what is expected here: {exc}") from exc
