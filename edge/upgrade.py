"""Upgrade: how an HTTP connection becomes a member.

Owns the gateway's public app: `GET /v1/live` (WebSocket), and `/v1/events` (server-sent events) for
networks that let no WebSocket through. It takes the connection from aiohttp and hands it to a
`Member`, without a task or a timer.
`edge.admission` decides who may connect; `edge.gateway` owns the members.
"""

import asyncio
from http import HTTPStatus
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from edge import handshake
from edge.admission import Admission
from edge.gateway import Gateway
from edge.member import Member
from edge.prepared_batch import Form
from edge.sse_connection import SseConnection
from liveroom import clock, metric_catalog
from liveroom.errors import Code, ProblemError
from liveroom.service import Runtime, public_connections
from liveroom.web import REQUEST_ID, REQUEST_ID_HEADER, cors, origin_allowed, problems, request_ids
from liveroom.wire import MAX_CLIENT_FRAME_BYTES, VIEWER_SILENCE_S, Hello, encode_frame

WEBSOCKET_PATH: Final = "/v1/live"
EVENTS_PATH: Final = "/v1/events"
PULL_TOKEN_BYTES: Final = 12


@web.middleware
async def close_refused(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Close the connection of an upgrade that is refused: another try costs its caller a new one,
    and thereby counts for the bounds on connections.
    """
    response = await handler(request)
    if response.status >= HTTPStatus.BAD_REQUEST and request.method == "GET" and request.path in (WEBSOCKET_PATH, EVENTS_PATH):
        response.force_close()
    return response


class HandedOver(web.StreamResponse):
    """The response that aiohttp gets for a connection that it no longer owns. It writes nothing."""

    async def prepare(self, request: web.BaseRequest) -> None:
        """Write nothing."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Write nothing."""


class _Behind:
    """Takes, in place of aiohttp's parser, the bytes that a viewer sent right behind its request.

    aiohttp has read them before the upgrade was answered.
    """

    def __init__(self) -> None:
        self.data = b""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Keep the bytes."""
        self.data += data
        return False, b""

    def feed_eof(self) -> None:
        """Do nothing: the member sees the end itself."""


class Upgrades:
    """The public app of a gateway. `app`: `edge.pulls` adds its route to it. `connections`: the
    bounds on connections until they are members.
    """

    def __init__(self, gateway: Gateway, admission: Admission, runtime: Runtime) -> None:
        self._gateway = gateway
        self._admission = admission
        self._settings = gateway.settings
        self._chance = runtime.chance
        self.connections = public_connections(
            self._settings,
            runtime,
            self._settings.handshake_timeout_s,
            beside=self._settings.max_connections,
            takes_proxy_header=self._settings.http.proxy_protocol and self._settings.tls_cert_file is None,
        )
        self._refused = {code: runtime.metrics.counter(metric_catalog.UPGRADES_REFUSED, code.value) for code in Code}
        self.app = web.Application(
            middlewares=[
                request_ids(runtime.chance),
                cors(gateway.settings.origins),
                close_refused,
                problems(lambda code: self._refused[code].inc(), runtime.refusals),
            ],
            client_max_size=MAX_CLIENT_FRAME_BYTES,
        )
        self.app.router.add_get(WEBSOCKET_PATH, self._live, allow_head=False)
        self.app.router.add_get(EVENTS_PATH, self._events, allow_head=False)
        self.app.router.add_post(EVENTS_PATH, self._frame_of_events)

    def address_of(self, request: web.Request) -> str:
        """Return the address that a request counts for: that of one subscriber."""
        return self._admission.address_of(request)

    # ---- requests
    async def _live(self, request: web.Request) -> web.StreamResponse:
        """Admit a viewer over WebSocket."""
        if _is_gone(request):
            return HandedOver()
        self._admission.check_open()
        accepted = handshake.accept(request.headers, _id_line(request))
        address, user = self._admission.admit(request)
        form = Form.DEFLATED if accepted.deflates else Form.PLAIN
        pull = self._chance.token_urlsafe(PULL_TOKEN_BYTES)
        member = Member(self._gateway, user, pull, clock.monotonic_s(), form, address, request[REQUEST_ID])
        return self._hand_over(request, member, accepted.answer)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Admit a viewer whose network lets no WebSocket through: events over HTTP."""
        if _is_gone(request):
            return HandedOver()
        self._admission.check_open()
        address, user = self._admission.admit(request)
        pull = self._chance.token_urlsafe(PULL_TOKEN_BYTES)
        member = SseConnection(self._gateway, user, pull, clock.monotonic_s(), address, request[REQUEST_ID])
        return self._hand_over(request, member, _event_stream(self._readable_by(request), _id_line(request)))

    async def _frame_of_events(self, request: web.Request) -> web.StreamResponse:
        """Take a frame from a viewer that receives its own frames as events."""
        connections = self._gateway.sse_connections
        connection = connections.get(bearer(request))
        if connection is None:
            raise _no_stream()
        try:
            async with asyncio.timeout(self._settings.handshake_timeout_s):
                text = await request.read()
        except TimeoutError:
            raise ProblemError(Code.BODY_LATE) from None
        if connections.get(connection.pull) is not connection:  # it went meanwhile: nobody may enter a room for it
            raise _no_stream()
        connection.take(text)
        return web.Response(status=HTTPStatus.NO_CONTENT)

    def _readable_by(self, request: web.Request) -> str | None:
        """Return the origin whose pages may read the answer."""
        origin = request.headers.get("Origin")
        return origin if origin is not None and origin.isascii() and origin_allowed(origin, self._settings.origins) else None

    # ---- hand-over
    def _hand_over(self, request: web.Request, member: Member, answer: bytes) -> web.StreamResponse:
        """Give the request's connection to the member, and greet."""
        transport, protocol = request.transport, request.protocol
        assert transport is not None  # noqa: S101 - `_is_gone` looked, and nothing has waited since
        behind = _Behind()
        protocol.set_parser(behind)  # type: ignore[arg-type]  # it is only fed
        protocol.transport = None  # aiohttp lets go: no task, no timer, no parser is left of it
        member.take_over(transport)
        protocol.connection_lost(None)
        self._gateway.take_in(member)
        hello = Hello(
            gateway=self._settings.instance,
            generation=self._gateway.generation,
            heartbeat_s=self._settings.heartbeat_s,
            silence_s=VIEWER_SILENCE_S,
            user=member.user,
            pull=member.pull,
            request_id=member.request_id,
        )
        member.send_raw(answer + member.framed(encode_frame(hello)))
        if behind.data:
            member.data_received(behind.data)
        return HandedOver()


def _is_gone(request: web.Request) -> bool:
    """Return whether the connection ended before its answer: then it uses no ticket."""
    return request.transport is None or request.transport.is_closing()


def bearer(request: web.Request) -> str:
    """Return the bearer token of a request; empty where there is none."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _no_stream() -> ProblemError:
    return ProblemError(Code.TOKEN_INVALID, "the token is the `pull` of a hello that came as an event, while that stream lasts")


def _id_line(request: web.Request) -> str:
    """Return the line of an answer's head that has the request's id."""
    return f"{REQUEST_ID_HEADER}: {request[REQUEST_ID]}\r\n"


def _event_stream(origin: str | None, more: str) -> bytes:
    """Return the head of an answer that never ends. `origin`: of the page that may read it. `more`:
    further lines.
    """
    allow = f"Access-Control-Allow-Origin: {origin}\r\nVary: Origin\r\n" if origin else ""
    return (
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\nX-Accel-Buffering: no\r\n"
        f"Connection: close\r\n{allow}{more}\r\n"
    ).encode()
