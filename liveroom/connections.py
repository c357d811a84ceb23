"""The connections of an HTTP port before, between and after requests.

A connection is *pending* until the head of its first request is whole. Until then it has a small
protocol of ours and costs nothing of aiohttp: no parser, no task, no timer. With the whole head it
becomes an `HttpConnection`, aiohttp's own with its bounds: requests that are sent in advance wait
for a later turn of the loop, and of all connections together only a few go on in one turn; a caller
whose requests are refused again and again must connect again.
Where an answer is complete and the request's body is not, the rest of the body is *discarded*
unparsed, for a moment, so that its sender can read the answer.

Owns how many connections there are, in all and by address, and how long each may take. At a bound
the connection that waits longest gives way, where one waits: whoever sends its request at once is
never the one. Otherwise the new one is refused. Peers that are proxies of ours are no callers, so
the bounds by address are not theirs. Counts every connection that it ends by the reason.

`liveroom.web.serve` calls it. A gateway takes a connection over from it (`edge.upgrade`).
"""

import asyncio
import re
import resource
from collections import deque
from collections.abc import Callable, Coroutine
from enum import StrEnum
from http import HTTPStatus
from itertools import islice
from typing import Any, Final, Protocol, cast

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from liveroom import clock, metric_catalog
from liveroom.connection_table import END_AT_ONCE, ConnectionTable
from liveroom.networks import Callers, plain_address, subscriber
from liveroom.proxy_protocol import MAX_HEADER_BYTES, Peer, ProxyHeaderError, read_header
from liveroom.registry import Metrics
from liveroom.settings import HttpSettings

MAX_HEAD_BYTES: Final = 64 * 1024
DISCARD_BYTES: Final = 256 * 1024
DISCARD_S: Final = 1.0
OTHER_FILES: Final = 200  # that a process has open beside its connections
_GRACE_S: Final = 0.5  # a connection this old has been read at least once, also in a storm
_TRIES: Final = 32
MOST_REFUSALS: Final = 10  # answers on one connection, none of them a success
IN_A_TURN: Final = 16  # requests that were sent in advance, of all connections: each takes some 100 us
_MAX_SWEEP_S: Final = 5.0
_HEAD_END: Final = re.compile(rb"\n\r?\n")
_TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
log = structlog.get_logger()


class End(StrEnum):
    """Why a connection was refused or ended: a label of the metric."""

    PENDING = "pending"
    PENDING_ADDRESS = "pending_address"
    OPEN = "open"
    OPEN_ADDRESS = "open_address"
    HEAD_LATE = "head_late"
    HEAD_TOO_LARGE = "head_too_large"
    MALFORMED = "malformed"
    BODY_CUT = "body_cut"
    UNREAD = "unread"
    PROXY_HEADER = "proxy_header"
    PROXY_UNTRUSTED = "proxy_untrusted"


def allow_connections(wanted: int) -> None:
    """Raise the limit of open files so that `wanted` connections fit; log a warning where the
    system does not allow it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + OTHER_FILES
    if soft >= needed:
        return
    given = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (given, hard))
    if given < needed:
        log.warning("few_files", limit=given, needed=needed, connections=given - OTHER_FILES)


class _Connection(Protocol):
    """A connection of any kind. `key`: what it is counted for; None for one of a proxy of ours.

    `unread_since_s`: since when a part of an answer waits to be sent; 0 while none does.
    """

    key: str | None
    raw: asyncio.Transport
    unread_since_s: float

    def may_go(self, now_s: float) -> bool:
        """Return whether nothing is lost when it ends now."""


class _Turns:
    """The requests that were sent in advance, in the order in which they go on."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def next(self) -> None:
        """Return in a later turn of the loop."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._turn, loop)
        waiter = loop.create_future()
        self._waiting.append(waiter)
        await waiter

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        for _ in range(min(IN_A_TURN, len(self._waiting))):
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
        if self._waiting:
            loop.call_soon(self._turn, loop)


class Connections:
    """The connections of one port, named `port` in metrics.

    `callers` knows the proxies. `takes_proxy_header`: whether connections begin with a PROXY
    header. `beside`: how many connections of other kinds the process may have; where the limit of
    open files is too low for all, those here have what is left, and an eighth at least. Without
    `metrics` nothing is counted.
    """

    def __init__(
        self,
        settings: HttpSettings | None = None,
        callers: Callers | None = None,
        metrics: Metrics | None = None,
        port: str = "public",
        *,
        takes_proxy_header: bool = False,
        beside: int = 0,
    ) -> None:
        self.settings = settings = HttpSettings() if settings is None else settings
        self.callers = Callers() if callers is None else callers
        self.takes_proxy_header = takes_proxy_header
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        most_open = settings.max_open
        if files != resource.RLIM_INFINITY:
            fit = max(1, files - OTHER_FILES)
            most_open = min(most_open, max(1, fit // 8, fit - beside))
        self._pending = ConnectionTable[_Connection, End](
            settings.max_pending, settings.max_pending_per_address, End.PENDING, End.PENDING_ADDRESS
        )
        self._open = ConnectionTable[_Connection, End](most_open, settings.max_open_per_address, End.OPEN, End.OPEN_ADDRESS)
        self._sweep_s = min(_MAX_SWEEP_S, settings.unread_timeout_s / 3)
        self.turns = _Turns()
        self._heads: dict[_Connection, float] = {}
        self._heads_timer: asyncio.TimerHandle | None = None
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._counts: dict[End, Callable[[], None]] = {}
        if metrics is not None:
            self._counts = {end: metrics.counter(metric_catalog.HTTP_ENDED, port, end.value).inc for end in End}
            metrics.follow(metric_catalog.HTTP_CONNECTIONS, self._pending.all.__len__, port, "pending")
            metrics.follow(metric_catalog.HTTP_CONNECTIONS, self._open.all.__len__, port, "open")
            metrics.follow(metric_catalog.NAMES, self._open.of.__len__, f"{port}_connections")

    def accept(self, server: web.Server) -> asyncio.Protocol:
        """Return the protocol of a new connection, whose requests `server` will answer."""
        return _Pending(self, server)

    def close(self) -> None:
        """End all connections that are left; those of aiohttp have had their time."""
        for timer in (self._heads_timer, self._sweep_timer):
            if timer is not None:
                timer.cancel()
        for connection in list(self._open.all):
            self.forget(connection)
            connection.raw.abort()

    # ---- what connections report
    def key_of(self, address: str) -> str | None:
        """Return what a connection from `address` is counted for; None for a proxy of ours."""
        return None if self.callers.trusts(address) else subscriber(address)

    def admit(self, connection: "_Pending") -> bool:
        """Take a new pending connection in, or end it; return whether it is in."""
        key = connection.key
        if not (self._make_place(self._pending, key) and self._make_place(self._open, key)):
            connection.raw.abort()
            return False
        self._pending.add(connection)
        self._open.add(connection)
        self.await_head(connection)
        return True

    def replace(self, old: "_Connection", new: "_Connection") -> None:
        """Count `new` in place of `old`, which is of the same caller."""
        self.forget(old)
        self._open.add(new)
        if self._sweep_timer is None:
            self._sweep_timer = asyncio.get_running_loop().call_later(self._sweep_s, self._sweep)

    def forget(self, connection: "_Connection") -> None:
        """Count a connection no longer. Idempotent."""
        self._pending.remove(connection)
        self._open.remove(connection)
        self._heads.pop(connection, None)

    def end(self, connection: "_Connection", why: End, last_words: bytes = b"") -> None:
        """End a connection at once, or after `last_words`, where they can be sent."""
        self.count(why)
        self.forget(connection)
        if last_words:
            connection.raw.write(last_words)
        if last_words and not connection.raw.get_write_buffer_size():
            connection.raw.close()
        else:
            connection.raw.abort()

    def count(self, why: End) -> None:
        """Count an end that somebody else brings about."""
        if (counted := self._counts.get(why)) is not None:
            counted()

    def await_head(self, connection: "_Connection") -> None:
        """Give a connection `head_timeout_s` for the rest of a head. Idempotent."""
        self._heads.setdefault(connection, clock.monotonic_s())
        if self._heads_timer is None:
            self._heads_timer = asyncio.get_running_loop().call_later(self.settings.head_timeout_s, self._end_late)

    def head_came(self, connection: "_Connection") -> None:
        """End what `await_head` began. Idempotent."""
        self._heads.pop(connection, None)

    # ---- bounds
    def _make_place(self, table: "ConnectionTable[_Connection, End]", key: str | None) -> bool:
        """Return whether `table` has place for one more connection of `key`, after the end of
        another one if need be.
        """
        full = table.full(key)
        if full is None:
            return True
        end, candidates = full
        now_s = clock.monotonic_s()
        for connection in list(islice(candidates, _TRIES)):
            if connection.may_go(now_s):
                self.end(connection, end)
                return self._make_place(table, key)
            if table is self._pending:  # they are in the order of their age
                break
            candidates[connection] = candidates.pop(connection)  # the next call tries others
        self.count(end)
        return False

    def _end_late(self) -> None:
        """End the connections whose head is late; they are in the order of their beginning."""
        self._heads_timer = None
        now_s, wait_s = clock.monotonic_s(), 0.0
        for connection, since_s in list(islice(self._heads.items(), END_AT_ONCE)):
            wait_s = since_s + self.settings.head_timeout_s - now_s
            if wait_s > 0:
                break
            self.end(connection, End.HEAD_LATE)
            wait_s = 0.0
        if self._heads:
            self._heads_timer = asyncio.get_running_loop().call_later(max(0.0, wait_s), self._end_late)

    def _sweep(self) -> None:
        """End the connections whose callers do not read their answers, so many in one turn."""
        self._sweep_timer = None
        now_s = clock.monotonic_s()
        late = []
        for connection in self._open.all:
            if not connection.raw.get_write_buffer_size():
                connection.unread_since_s = 0.0
            elif not connection.unread_since_s:
                connection.unread_since_s = now_s
            elif now_s - connection.unread_since_s >= self.settings.unread_timeout_s - self._sweep_s:
                late.append(connection)
        for connection in late[:END_AT_ONCE]:
            self.end(connection, End.UNREAD)
        if self._open.all:
            wait_s = 0.0 if len(late) > END_AT_ONCE else self._sweep_s
            self._sweep_timer = asyncio.get_running_loop().call_later(wait_s, self._sweep)


class _Pending(asyncio.Protocol):
    """A connection that has sent no whole head."""

    __slots__ = ("_began_s", "_connections", "_peer", "_received", "_server", "_wants_header", "key", "raw", "unread_since_s")

    raw: asyncio.Transport

    def __init__(self, connections: Connections, server: web.Server) -> None:
        self._connections = connections
        self._server = server
        self._began_s = clock.monotonic_s()
        self._received = bytearray()
        self._wants_header = connections.takes_proxy_header
        self._peer: Peer | None = None
        self.key: str | None = None
        self.unread_since_s = 0.0

    def may_go(self, now_s: float) -> bool:
        return now_s - self._began_s >= _GRACE_S

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.raw = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        address = plain_address(str(peer[0])) if isinstance(peer, tuple | list) else ""
        self._peer = Peer(address, int(peer[1])) if address else None
        self.key = self._connections.key_of(address)
        if self._wants_header and not self._connections.callers.trusts(address):
            self._connections.count(End.PROXY_UNTRUSTED)
            self.raw.abort()
        else:
            self._connections.admit(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._connections.forget(self)

    def data_received(self, data: bytes) -> None:
        seen = len(self._received)
        if seen:
            self._received += data
            data = cast(bytes, self._received)
        if self._wants_header:
            rest = self._without_header(data)
            if not rest:
                return
            data, seen = rest, 0
        if not seen:
            data = data.lstrip(b"\r\n")  # empty lines before a request are none (RFC 9112, 2.2)
            if not data:
                return
        if _HEAD_END.search(data, max(0, seen - 2), MAX_HEAD_BYTES):
            self._become_http(bytes(data))
        elif len(data) >= MAX_HEAD_BYTES:
            self._connections.end(self, End.HEAD_TOO_LARGE, _TOO_LARGE)
        elif data is not self._received:
            self._received = bytearray(data)

    def _without_header(self, data: bytes) -> bytes:
        """Take the PROXY header; return what follows it."""
        try:
            header = read_header(bytes(data[:MAX_HEADER_BYTES]))
        except ProxyHeaderError:
            self._connections.end(self, End.PROXY_HEADER)
            return b""
        if header is None:
            self._received = bytearray(data)
            return b""
        self._wants_header = False
        self._received = bytearray()
        if header.source is not None:
            self._connections.forget(self)
            self._peer = Peer(plain_address(header.source.address), header.source.port)
            self.key = self._connections.key_of(self._peer.address)
            if not self._connections.admit(self):
                return b""
        return data[header.size :]

    def _become_http(self, data: bytes) -> None:
        transport = self.raw
        http = HttpConnection(self._connections, self._server, self._peer, self.key)
        self._connections.replace(self, http)
        transport.set_protocol(http)
        http.connection_made(transport)
        http.data_received(data)


class HttpConnection(RequestHandler):
    """A connection of aiohttp. `key`, `raw`: as those of all connections here."""

    __slots__ = ("_connections", "_head_bytes", "_own_peer", "_refusals", "key", "raw", "unread_since_s")

    raw: asyncio.Transport

    def __init__(self, connections: Connections, server: web.Server, peer: Peer | None, key: str | None) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # as `AppRunner` has it
            keepalive_timeout=connections.settings.idle_timeout_s,
            lingering_time=0,  # `finish_response` discards
            auto_decompress=False,  # a small body that inflates to a large one costs before its token is checked
        )
        self._connections = connections
        self._own_peer = peer
        self._head_bytes = 0
        self._refusals = 0
        self.key = key
        self.unread_since_s = 0.0

    @property
    def peername(self) -> Any:
        """The caller's address and port, by the PROXY header where there is one."""
        return self._own_peer

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a request."""
        return self._waiter is not None and not self._waiter.done()

    def may_go(self, now_s: float) -> bool:
        """Return whether nothing is lost when it ends now."""
        del now_s
        return self.is_idle

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with the first request."""
        self.raw = cast(asyncio.Transport, transport)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """End, or let go of a connection that somebody else has taken over."""
        self._connections.forget(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; those of a head that is not whole yet have `head_timeout_s`."""
        super().data_received(data)
        if self.is_idle or (not self._request_count and self.transport is not None):
            self._head_bytes += len(data)
            self._connections.await_head(self)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._connections.end(self, End.HEAD_TOO_LARGE, _TOO_LARGE)
        elif self._head_bytes:
            self._head_bytes = 0
            self._connections.head_came(self)

    def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> Coroutine[Any, Any, tuple[web.StreamResponse, bool]]:
        """Send the answer; discard the rest of a body that nobody wants any more.

        A next request that is here already waits for a later turn: handlers that wait for nothing
        run within one turn otherwise, on Python 3.12 and later, as many as the caller has sent.
        """
        if resp.status < HTTPStatus.BAD_REQUEST:
            self._refusals = 0
        elif self.key is not None:
            self._refusals += 1
            if self._refusals >= MOST_REFUSALS:
                resp.force_close()
        finishing = super().finish_response(request, resp, start_time)
        if not request.content.is_eof():
            return self._discard(request, resp, finishing)
        return self._then_wait(finishing) if self._messages or self._upgraded else finishing

    async def _then_wait(
        self, finishing: Coroutine[Any, Any, tuple[web.StreamResponse, bool]]
    ) -> tuple[web.StreamResponse, bool]:
        finished = await finishing
        if self._messages:
            await self._connections.turns.next()
        return finished

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = HTTPStatus.INTERNAL_SERVER_ERROR,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the answer to a request that cannot be read, which is counted, or to a failure."""
        if not isinstance(exc, HttpProcessingError):
            return super().handle_error(request, status, exc, message)
        self._connections.count(End.MALFORMED)
        response = web.Response(status=status, text=message)
        response.force_close()
        return response

    async def _discard(
        self,
        request: web.BaseRequest,
        resp: web.StreamResponse,
        finishing: Coroutine[Any, Any, tuple[web.StreamResponse, bool]],
    ) -> tuple[web.StreamResponse, bool]:
        resp.force_close()
        finished = await finishing
        if not request.content.is_eof() and self.transport is not None:
            _Discarding(self._connections, self)
        return finished


class _Discarding(asyncio.Protocol):
    """A connection that has its answer: what it still sends is not looked at.

    Without this its sender would get a reset in place of the answer.
    """

    __slots__ = ("_connections", "_left", "_timer", "key", "raw", "unread_since_s")

    def __init__(self, connections: Connections, http: HttpConnection) -> None:
        self._connections = connections
        self._left = DISCARD_BYTES
        self.key = http.key
        self.raw = transport = http.raw
        self.unread_since_s = http.unread_since_s
        connections.count(End.BODY_CUT)
        http.transport = None  # aiohttp lets go
        transport.set_protocol(self)
        http.connection_lost(None)
        connections.replace(http, self)
        self._timer = asyncio.get_running_loop().call_later(DISCARD_S, transport.abort)
        transport.resume_reading()
        if transport.can_write_eof():
            transport.write_eof()

    def may_go(self, now_s: float) -> bool:
        del now_s
        return True

    def data_received(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self.raw.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._timer.cancel()
        self._connections.forget(self)
