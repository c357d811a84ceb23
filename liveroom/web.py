"""HTTP that all services share: an id for every request, problem documents (RFC 9457) for every
error, CORS, and a server on one port.

Called by the services' `app` modules. It refuses only what aiohttp refuses, as problems.
"""

import asyncio
import os
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import orjson
import structlog
from aiohttp import web
from aiohttp.hdrs import METH_ALL
from aiohttp.typedefs import Handler, Middleware
from multidict import CIMultiDict

from liveroom.addresses import authority
from liveroom.chance import Chance
from liveroom.connections import Connections
from liveroom.errors import OWN_WORDS, TABLE, Code, ProblemError
from liveroom.refusals import RefusalLog
from liveroom.topics import valid_room

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

log = structlog.get_logger()

_BY_STATUS: Final = {
    400: Code.BAD_REQUEST,
    404: Code.NOT_FOUND,
    405: Code.METHOD_NOT_ALLOWED,
    413: Code.TOO_LARGE,
    415: Code.UNSUPPORTED_MEDIA_TYPE,
}
REQUEST_ID_HEADER: Final = "X-Request-Id"
REQUEST_ID: Final = web.RequestKey("request_id", str)
USER: Final = web.RequestKey("user", str)
_ID_BYTES: Final = 8
_IS_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z").match  # without a dot: no token, no ticket and no address is one
_TRACE: Final = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-|\Z)").match
_ALLOWED_HEADERS: Final = "authorization, content-type, idempotency-key, traceparent, x-request-id"
_USUAL_PORT: Final = {"http": ":80", "https": ":443"}
_PREFLIGHT_AGE_S: Final = "600"
_JSON_HEADERS: Final = CIMultiDict({"Content-Type": "application/json", "Cache-Control": "no-store"})
_LOOPBACK: Final = "127.0.0.1"
_BACKLOG: Final = 4096  # a whole gateway's viewers come back at once


def request_ids(chance: Chance) -> Middleware:
    """Return the middleware that gives each request its id; it must be the first one.

    The id is that of the caller or a proxy (`X-Request-Id`, or the trace of a W3C `traceparent`)
    where that is well-formed, else a new one. The request has it under `REQUEST_ID`, the answer in
    the header `X-Request-Id`.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        id_ = given_id(request.headers) or chance.token_hex(_ID_BYTES)
        request[REQUEST_ID] = id_
        response = await handler(request)
        if not response.prepared:
            response.headers[REQUEST_ID_HEADER] = id_
        return response

    return middleware


def given_id(headers: Mapping[str, str]) -> str:
    """Return the id that a request brings, or an empty text."""
    given = headers.get(REQUEST_ID_HEADER)
    if given is not None and _IS_ID(given):
        return given
    trace = _TRACE(headers.get("traceparent", ""))
    return trace[1] if trace is not None else ""


def problem_response(problem: ProblemError, request_id: str = "") -> web.Response:
    """Return the response for a refusal, with `Retry-After` in whole seconds where waiting
    helps.
    """
    body = problem.body() | ({"request_id": request_id} if request_id else {})
    response = web.Response(status=problem.status, body=orjson.dumps(body), content_type="application/problem+json")
    if problem.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, -int(-problem.retry_after_s // 1)))
    if TABLE[problem.code].status == web.HTTPUnauthorized.status_code:
        response.headers["WWW-Authenticate"] = "Bearer"
    if problem.code is Code.UPGRADE_REQUIRED:
        response.headers.update({"Upgrade": "websocket", "Connection": "Upgrade, close", "Sec-WebSocket-Version": "13"})
        response.force_close()
    return response


def json_response(body: bytes, status: int = 200) -> web.Response:
    """Return a response with JSON bytes that no cache keeps."""
    return web.Response(status=status, body=body, headers=_JSON_HEADERS.copy())


def problems(on_refusal: Callable[[Code], None] | None = None, refusals: RefusalLog | None = None) -> Middleware:
    """Return the middleware that turns refusals and failures into problems.

    `on_refusal` is called with the code of each. `refusals`: the log of them. Handlers put the id
    of the user that they know under `USER`.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if "Content-Encoding" in request.headers:
                _check_encoding(request.headers.getall("Content-Encoding"))
            return await handler(request)
        except ConnectionError:
            raise
        except Exception as error:
            problem = _problem_of(error, request)
            if problem is None:
                raise
            allow = error.headers.get("Allow") if isinstance(error, web.HTTPException) else None
        if on_refusal is not None:
            on_refusal(problem.code)
        if refusals is not None:
            log_refusal(refusals, request, problem)
        response = problem_response(problem, request.get(REQUEST_ID, ""))
        if allow is not None:  # a 405 must say it (RFC 9110, 15.5.6)
            response.headers["Allow"] = allow
        return response

    return middleware


def _problem_of(error: Exception, request: web.Request) -> ProblemError | None:
    """Return the refusal that an error stands for, and log a failure; None: it is no refusal."""
    match error:
        case ProblemError():
            return error
        case web.HTTPException():
            if error.status < web.HTTPBadRequest.status_code:
                return None
            other = Code.INTERNAL if error.status >= web.HTTPInternalServerError.status_code else Code.BAD_REQUEST
            return ProblemError(_BY_STATUS.get(error.status, other), error.reason)
        case _:
            log.error("request_failed", route=route_of(request), request_id=request.get(REQUEST_ID, ""), exc_info=error)
            return ProblemError(Code.INTERNAL)


def route_of(request: web.Request) -> str:
    """Return the method and the template of the path: a path itself may hold a user's id."""
    resource = request.match_info.route.resource
    method = request.method if request.method in METH_ALL else "another method"
    return f"{method} {resource.canonical}" if resource is not None else f"{method} at no route"


def log_refusal(
    refusals: RefusalLog, request: web.Request, problem: ProblemError, room: str | None = None, user: str | None = None
) -> None:
    """Log that a request, or a part of one, was refused; `room`, `user`: of that part."""
    named = (room, request.match_info.get("room"), problem.extra.get("room"), request.query.get("room"))
    refusals.refused(
        problem.code,
        route_of(request),
        request.get(REQUEST_ID, ""),
        room=next((each for each in named if valid_room(each)), None),
        user=user or problem.user or request.get(USER),
        detail=problem.detail if problem.detail and problem.code in OWN_WORDS else None,
    )


def _check_encoding(encodings: Sequence[str]) -> None:
    """Refuse a body that is compressed, before any of it is read: nobody needs to send one, and 32
    KB may inflate to 32 MB.
    """
    if any(encoding.strip().lower() != "identity" for encoding in encodings):
        raise ProblemError(Code.UNSUPPORTED_MEDIA_TYPE, "a body with a Content-Encoding is not accepted")


def cors(origins: tuple[str, ...]) -> Middleware:
    """Return the middleware that permits requests from pages of `origins` ('*': all).

    It allows no credentials, because no service uses cookies. It must stand before `problems`
    (`[request_ids(...), cors(...), problems(...)]`): a response that passes it as an exception gets
    no CORS headers, and a page could not read why it was refused. It answers preflight requests
    itself, so routes need no OPTIONS. The pages of the service's own origin need no permission.
    Others get one only from `origins`, and the log says so.
    """
    if "*" in origins:
        log.warning("origins_open", origins=["*"], then="pages of every origin may call this service")
    elif "null" in origins:
        log.warning("origins_open", origins=list(origins), then="every page may call this service from within a sandbox")
    elif origins:
        log.info("origins_open", origins=list(origins))

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        if origin is None or not origin_allowed(origin, origins):
            return await handler(request)
        if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            response: web.StreamResponse = web.Response(status=204)
            response.headers["Access-Control-Allow-Methods"] = "GET, POST, DELETE, PUT, PATCH"
            response.headers["Access-Control-Allow-Headers"] = _ALLOWED_HEADERS
            response.headers["Access-Control-Max-Age"] = _PREFLIGHT_AGE_S
        else:
            response = await handler(request)
        if not response.prepared:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = f"Retry-After, {REQUEST_ID_HEADER}"
            response.headers.add("Vary", "Origin")
        return response

    return middleware


def origin_allowed(origin: str, origins: tuple[str, ...]) -> bool:
    """Return whether pages of `origin`, which is not the service's own, may send requests."""
    return "*" in origins or origin in origins


def is_own_origin(origin: str, host: str | None) -> bool:
    """Return whether `origin` is the one that a request with the header `Host: host` went to.

    The scheme is not compared: a proxy may have ended TLS. Browsers leave its usual port out of
    both, and a proxy that writes the header again may name it.
    """
    scheme, _, named = origin.lower().partition("://")
    usual = _USUAL_PORT.get(scheme, "")
    return bool(host) and named.removesuffix(usual) == (host or "").lower().removesuffix(usual)


class ListenError(OSError):
    """An address that cannot be bound: in use, or not of this machine.

    It does not pass by itself.
    """


class Accepting(Protocol):
    """What accepts connections in place of the event loop."""

    async def start(self, protocol: Callable[[], asyncio.Protocol], listening: Sequence[socket.socket]) -> None:
        """Accept connections from `listening`, which it closes at the end; `protocol` makes one."""

    def stop(self) -> None:
        """Accept nobody more, and close connections that have no protocol yet."""


@asynccontextmanager
async def serve(
    app: web.Application,
    host: str,
    port: int,
    *,
    loopback: bool = False,
    shutdown_timeout_s: float = 5.0,
    connections: Connections | None = None,
    accepting: Accepting | None = None,
) -> "AsyncIterator[tuple[web.AppRunner, int]]":
    """Serve `app` while the block runs; yield the runner and the port (port 0: any free one).

    `loopback`: whether to listen at 127.0.0.1 too.
    `shutdown_timeout_s`: how long open requests may take at the end. `connections`: the bounds on
    connections; by default those of the default settings, uncounted. `accepting`: what accepts
    connections, by default the event loop. Raises ListenError, whose message names the address,
    where it cannot be bound.
    """
    bounded = Connections() if connections is None else connections
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=shutdown_timeout_s, handle_signals=False)
    await runner.setup()
    server = runner.server
    assert server is not None  # noqa: S101 - `setup` made it
    try:
        sockets = await _listen(host, port, loopback=loopback)
        accepts = _Loop() if accepting is None else accepting
        await accepts.start(partial(bounded.accept, server), sockets)
        try:
            yield runner, int(sockets[0].getsockname()[1])
        finally:
            accepts.stop()
    finally:
        await runner.cleanup()
        bounded.close()


class _Loop:
    """The event loop as what accepts connections."""

    def __init__(self) -> None:
        self._listeners: list[asyncio.Server] = []

    async def start(self, protocol: Callable[[], asyncio.Protocol], listening: Sequence[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        for one in listening:
            self._listeners.append(await loop.create_server(protocol, sock=one, backlog=_BACKLOG))

    def stop(self) -> None:
        for listener in self._listeners:
            listener.close()


async def _listen(host: str, port: int, *, loopback: bool) -> list[socket.socket]:
    """Listen at every address of `host` and, with `loopback`, at 127.0.0.1.

    Not by the event loop: uvloop does not report that another process took the port between
    binding and listening.
    """
    sockets: list[socket.socket] = []
    at = (host, port)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, *_, address in dict.fromkeys(found):
            sockets.append(socket.create_server((str(address[0]), port), family=family, backlog=_BACKLOG))
        if loopback and not {one.getsockname()[0] for one in sockets} & {"0.0.0.0", _LOOPBACK}:
            at = (_LOOPBACK, int(sockets[0].getsockname()[1]))
            sockets.append(socket.create_server(at, backlog=_BACKLOG))
    except OSError as error:
        for one in sockets:
            one.close()
        is_unknown = isinstance(error, socket.gaierror)  # with an errno of its own
        said = os.strerror(error.errno).lower() if error.errno and not is_unknown else error.strerror or str(error)
        raise ListenError(error.errno, f"cannot listen at {authority(*at)}: {said}") from error
    return sockets
