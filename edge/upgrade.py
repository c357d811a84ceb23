"""How a viewer comes: `GET /v1/live` with its ticket, or `/v1/events` where a network lets no
WebSocket through.

Owns the gateway's public app, admission, and the hand-over: the connection is taken from aiohttp
and becomes a member, without a task or a timer. Refuses with a problem before the upgrade (ticket,
origin, full, draining), and ends connections that send no whole request in time. What becomes of
members is `edge.gateway`'s.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from edge import handshake
from edge.gateway import Gateway
from edge.member import Member, SseConnection
from edge.prepared_batch import Form
from liveroom import clock, metric_catalog, tickets
from liveroom.errors import Code, ProblemError
from liveroom.limits import Bucket
from liveroom.networks import Networks, caller, subscriber
from liveroom.service import Runtime
from liveroom.web import cors, origin_allowed, problems
from liveroom.wire import MAX_CLIENT_FRAME_BYTES, VIEWER_SILENCE_S, Hello, encode_frame

JOIN_BURST_S: Final = 2.0
PULL_TOKEN_BYTES: Final = 12


class HandedOver(web.StreamResponse):
    """The answer aiohttp is given where the connection is no longer its own: it writes nothing."""

    async def prepare(self, request: web.BaseRequest) -> None:
        """Write nothing."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Write nothing."""


class _Behind:
    """Takes what a viewer sent right behind its upgrade, before the answer: aiohttp has read it
    already.
    """

    def __init__(self) -> None:
        self.data = b""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Keep it."""
        self.data += data
        return False, b""

    def feed_eof(self) -> None:
        """Nothing more comes this way."""


class Upgrades:
    """The public app of a gateway. `app`: pulls are added to it."""

    def __init__(self, gateway: Gateway, runtime: Runtime) -> None:
        self._gateway = gateway
        self._settings = gateway.settings
        self._stopping = runtime.stopping
        self._chance = runtime.chance
        settings = gateway.settings
        self._joins_left = Bucket(settings.max_joins_per_s, settings.max_joins_per_s * JOIN_BURST_S, clock.monotonic_s())
        self._keys: Mapping[str, bytes] = {}
        self._proxies = Networks((network, network) for network in settings.proxies)
        self._answering: set[RequestHandler] = set()
        self._connected_s: dict[RequestHandler, float] = {}
        self._refused = {code: runtime.metrics.counter(metric_catalog.UPGRADES_REFUSED, code.value) for code in Code}
        self.app = web.Application(
            middlewares=[cors(settings.origins), problems(lambda code: self._refused[code].inc())],
            client_max_size=MAX_CLIENT_FRAME_BYTES,
        )
        self.app.router.add_get("/v1/live", self._live, allow_head=False)
        self.app.router.add_get("/v1/events", self._events, allow_head=False)
        self.app.router.add_post("/v1/events", self._said)

    def use(self, keys: Mapping[str, bytes]) -> None:
        """Take these keys of tickets from now on."""
        self._keys = keys

    # ---- connections that are still aiohttp's
    @contextlib.contextmanager
    def answering(self, request: web.Request) -> Iterator[None]:
        """Let a request's connection be while it is answered, however long it has been there."""
        self._answering.add(request.protocol)
        try:
            yield
        finally:
            self._answering.discard(request.protocol)

    def end_late(self, connections: Iterable[RequestHandler]) -> None:
        """Close what has been connected for long without having become a member, unless it is being
        answered.
        """
        now_s = clock.monotonic_s()
        seen = {}
        for connection in connections:
            if connection in self._answering:
                continue
            since_s = seen[connection] = self._connected_s.get(connection, now_s)
            if now_s - since_s >= self._settings.handshake_timeout_s:
                connection.force_close()
        self._connected_s = seen

    # ---- requests
    async def _live(self, request: web.Request) -> web.StreamResponse:
        """Take a viewer over WebSocket."""
        self._check_open()
        accepted = handshake.accept(request.headers)
        address, user = self._admit(request)
        form = Form.DEFLATED if accepted.deflates else Form.PLAIN
        member = Member(self._gateway, user, self._chance.token_urlsafe(PULL_TOKEN_BYTES), clock.monotonic_s(), form)
        return self._hand_over(request, member, address, accepted.answer)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Take a viewer whose network lets no WebSocket through: events over HTTP."""
        self._check_open()
        address, user = self._admit(request)
        member = SseConnection(self._gateway, user, self._chance.token_urlsafe(PULL_TOKEN_BYTES), clock.monotonic_s())
        return self._hand_over(request, member, address, _event_stream(self._readable_by(request)))

    async def _said(self, request: web.Request) -> web.StreamResponse:
        """Take a frame of a viewer whose frames come as events."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        connections = self._gateway.sse_connections
        connection = connections.get(token.strip()) if scheme.lower() == "bearer" else None
        if connection is None:
            raise _not_listening()
        with self.answering(request):
            try:
                async with asyncio.timeout(self._settings.handshake_timeout_s):
                    text = await request.read()
            except TimeoutError:
                raise ProblemError(Code.BODY_LATE) from None
            if connections.get(connection.pull) is not connection:  # it went meanwhile: nobody may enter a room for it
                raise _not_listening()
            connection.spoke(text)
        return web.Response(status=HTTPStatus.NO_CONTENT)

    def _readable_by(self, request: web.Request) -> str | None:
        """Return the origin whose pages may read the answer."""
        origin = request.headers.get("Origin")
        return origin if origin is not None and origin.isascii() and origin_allowed(origin, self._settings.origins) else None

    # ---- admission
    def _check_open(self) -> None:
        if self._gateway.draining or self._stopping.is_set():
            raise ProblemError(Code.DRAINING, retry_after_s=0.2)

    def _admit(self, request: web.Request) -> tuple[str, tickets.User]:
        """Return from where who comes, or raise the refusal. Cheap checks first."""
        gateway, settings = self._gateway, self._settings
        address = subscriber(caller(request.remote, request.headers.get("X-Forwarded-For"), self._proxies))
        origin = request.headers.get("Origin")
        if origin is not None and settings.origins and not origin_allowed(origin, settings.origins):
            raise ProblemError(Code.ORIGIN, origin[:200])
        if len(gateway.members) >= settings.max_connections:
            raise ProblemError(Code.FULL, retry_after_s=1)
        if settings.max_per_address and gateway.connections_from(address) >= settings.max_per_address:
            raise ProblemError(Code.RATE_ADDRESS, "too many connections from this address", retry_after_s=10)
        ticket = tickets.verify(request.query.get("ticket", ""), self._keys, tickets.ENTRY, clock.unix_ms())
        if (settings.instance, gateway.generation) not in ticket.gateways:
            raise ProblemError(Code.TICKET_INVALID, "the ticket is for other gateways, or for this one before it was restarted")
        if wait_s := self._joins_left.take(clock.monotonic_s()):
            raise ProblemError(Code.FULL, "too many come at once", retry_after_s=max(1.0, wait_s))
        return address, ticket.user

    # ---- hand-over
    def _hand_over(self, request: web.Request, member: Member, address: str, answer: bytes) -> web.StreamResponse:
        """Make the request's connection the member's own, and greet."""
        transport, protocol = request.transport, request.protocol
        if transport is None or transport.is_closing():
            return HandedOver()  # gone already
        behind = _Behind()
        protocol.set_parser(behind)  # type: ignore[arg-type]  # it is only fed
        protocol.transport = None  # aiohttp lets go: no task, no timer, no parser is left of it
        member.take_over(transport)
        protocol.connection_lost(None)
        self._gateway.take_in(member, address)
        hello = Hello(
            gateway=self._settings.instance,
            generation=self._gateway.generation,
            heartbeat_s=self._settings.heartbeat_s,
            silence_s=VIEWER_SILENCE_S,
            user=member.user,
            pull=member.pull,
        )
        member.send_raw(answer + member.framed(encode_frame(hello)))
        if behind.data:
            member.data_received(behind.data)
        return HandedOver()


def _not_listening() -> ProblemError:
    return ProblemError(Code.TOKEN_INVALID, "it takes the `pull` of a hello that came as an event, while that lasts")


def _event_stream(origin: str | None) -> bytes:
    """Return the head of an answer that goes on for ever.

    `origin`: of the page that may read it.
    """
    allow = f"Access-Control-Allow-Origin: {origin}\r\nVary: Origin\r\n" if origin else ""
    return (
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\nX-Accel-Buffering: no\r\n"
        f"Connection: close\r\n{allow}\r\n"
    ).encode()
