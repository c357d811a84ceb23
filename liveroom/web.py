"""HTTP that all services share: problem documents (RFC 9457) for every error, CORS, and a server on
one port.

Called by the services' `app` modules. It refuses only what aiohttp refuses, as problems.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import orjson
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from multidict import CIMultiDict

from liveroom.addresses import authority
from liveroom.connections import Connections
from liveroom.errors import TABLE, Code, ProblemError

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
_ALLOWED_HEADERS: Final = "authorization, content-type, idempotency-key"
_USUAL_PORT: Final = {"http": ":80", "https": ":443"}
_PREFLIGHT_AGE_S: Final = "600"
_JSON_HEADERS: Final = CIMultiDict({"Content-Type": "application/json", "Cache-Control": "no-store"})
_LOOPBACK: Final = "127.0.0.1"
_BACKLOG: Final = 4096  # a whole gateway's viewers come back at once


def problem_response(problem: ProblemError) -> web.Response:
    """Return the response for a refusal, with `Retry-After` in whole seconds where waiting
    helps.
    """
    response = web.Response(status=problem.status, body=orjson.dumps(problem.body()), content_type="application/problem+json")
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


def problems(
    on_refusal: Callable[[Code], None] | None = None,
) -> Middleware:
    """Return the middleware that turns refusals and failures into problems.

    `on_refusal` is called with the code of each.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        allow: str | None = None
        try:
            if "Content-Encoding" in request.headers:
                _check_encoding(request.headers.getall("Content-Encoding"))
            return await handler(request)
        except ProblemError as error:
            problem = error
        except web.HTTPException as error:
            if error.status < web.HTTPBadRequest.status_code:
                raise
            other = Code.INTERNAL if error.status >= web.HTTPInternalServerError.status_code else Code.BAD_REQUEST
            problem = ProblemError(_BY_STATUS.get(error.status, other), error.reason)
            allow = error.headers.get("Allow")  # a 405 must say it (RFC 9110, 15.5.6)
        except ConnectionError:
            raise
        except Exception:
            log.exception("request_failed", path=request.path, method=request.method)
            problem = ProblemError(Code.INTERNAL)
        if on_refusal is not None:
            on_refusal(problem.code)
        response = problem_response(problem)
        if allow is not None:
            response.headers["Allow"] = allow
        return response

    return middleware


def _check_encoding(encodings: Sequence[str]) -> None:
    """Refuse a body that is compressed, before any of it is read: nobody needs to send one, and 32
    KB may inflate to 32 MB.
    """
    if any(encoding.strip().lower() != "identity" for encoding in encodings):
        raise ProblemError(Code.UNSUPPORTED_MEDIA_TYPE, "a body with a Content-Encoding is not accepted")


def cors(origins: tuple[str, ...]) -> Middleware:
    """Return the middleware that permits requests from pages of `origins` ('*': all).

    It allows no credentials, because no service uses cookies. It must stand before `problems`
    (`[cors(...), problems(...)]`): a response that passes it as an exception gets no CORS headers,
    and a page could not read why it was refused. It answers preflight requests itself, so routes
    need no OPTIONS. The pages of the service's own origin need no permission. Others get one only
    from `origins`, and the log says so.
    """
    if "*" in origins:
        log.warning("origins_open", origins=["*"], then="pages of every origin may call this service")
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
            response.headers["Access-Control-Expose-Headers"] = "Retry-After"
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
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, *_, address in dict.fromkeys(found):
            sockets.append(socket.create_server((str(address[0]), port), family=family, backlog=_BACKLOG))
        if loopback and not {one.getsockname()[0] for one in sockets} & {"0.0.0.0", _LOOPBACK}:
            sockets.append(socket.create_server((_LOOPBACK, int(sockets[0].getsockname()[1])), backlog=_BACKLOG))
    except OSError as error:
        for one in sockets:
            one.close()
        is_unknown = isinstance(error, socket.gaierror)  # with an errno of its own
        said = os.strerror(error.errno).lower() if error.errno and not is_unknown else error.strerror or str(error)
        raise ListenError(error.errno, f"cannot listen at {authority(host, port)}: {said}") from error
    return sockets
