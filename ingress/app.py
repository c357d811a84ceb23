"""The ingress over HTTP: routes, reading bodies within limits, answers, metrics.

Owns the order of a request: the checks of `checks`, the queue, 202. Refuses slow bodies, and everything over `max_waiting`.
Called by `__main__`. Later checks (rates, words, moderation) go between `checks.accept` and `put`.
"""

import asyncio
import secrets
import time
from typing import Final, Protocol

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from ingress import checks
from ingress.checks import Outcome
from liveroom import metrics
from liveroom.errors import Code, ProblemError
from liveroom.kafka import Unsent, UnsentError
from liveroom.service import Metrics
from liveroom.settings import IngressSettings
from liveroom.web import cors, json_response, problems

RETRY_AFTER_S: Final = 1.0
_NEVER_WRITTEN: Final = frozenset({Unsent.CLOSED, Unsent.TOO_LARGE})


class Queue(Protocol):
    """Where accepted interactions go."""

    waiting: int

    async def put(self, room: str, value: bytes) -> None:
        """Return after the brokers' ack, or raise `UnsentError` within the time for it."""


class _Entrance:
    """One route's handler, with all it needs resolved."""

    def __init__(self, route: checks.AnyRoute, settings: IngressSettings, queue: Queue, made: Metrics) -> None:
        self._route = route
        self._queue = queue
        self._key = settings.token_key.get_secret_value().encode()
        self._leeway_s = settings.token_leeway_s
        self._max_bytes = settings.max_body_bytes
        self._body_timeout_s = settings.body_timeout_s
        self._max_waiting = settings.max_waiting
        self._seconds = made.histogram(metrics.INGRESS_SECONDS, route.path)
        self._counts = {outcome: made.counter(metrics.INTERACTIONS, route.name, outcome.value) for outcome in Outcome}

    async def handle(self, request: web.Request) -> web.Response:
        """Take one interaction: 202 after the ack, else a problem."""
        began_s = time.perf_counter()
        outcome = Outcome.REFUSED
        try:
            accepted = await self._check(request)
            if self._queue.waiting >= self._max_waiting:
                raise ProblemError(Code.QUEUE_UNAVAILABLE, "too many are waiting", RETRY_AFTER_S)
            outcome = Outcome.UNKNOWN
            try:
                await self._queue.put(accepted.room, accepted.value)
            except UnsentError as error:
                if error.reason in _NEVER_WRITTEN:
                    outcome = Outcome.REFUSED
                raise ProblemError(Code.QUEUE_UNAVAILABLE, retry_after_s=RETRY_AFTER_S) from error
            outcome = Outcome.ACCEPTED
            return json_response(accepted.answer, 202)
        finally:
            self._counts[outcome].inc()
            self._seconds.observe(time.perf_counter() - began_s)

    async def _check(self, request: web.Request) -> checks.Accepted:
        headers = request.headers
        checks.check_size(request.content_length, self._max_bytes)
        user = checks.authenticate(headers.get("Authorization"), self._key, self._leeway_s)
        checks.check_media_type(headers.get("Content-Type"))
        body = await self._read(request)
        return checks.accept(
            self._route,
            request.match_info["room"],
            user,
            body,
            header_id=headers.get("Idempotency-Key"),
            new_id=secrets.token_hex(8),
            now_ms=time.time_ns() // 1_000_000,
        )

    async def _read(self, request: web.Request) -> bytes:
        """Return the body; aiohttp cuts it at `client_max_size`, also when it is chunked or inflates to more."""
        try:
            async with asyncio.timeout(self._body_timeout_s):
                if "Expect" in request.headers:
                    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                    request.writer.output_size = 0
                return await request.read()
        except TimeoutError:
            raise ProblemError(Code.BODY_LATE) from None
        except (HttpProcessingError, web.RequestPayloadError) as error:
            raise ProblemError(Code.BAD_REQUEST, str(error)) from None


async def _expect(_: web.Request) -> None:
    """Do not ask for the body yet: `_Entrance` does, once size and token have passed."""


def make_app(settings: IngressSettings, queue: Queue, made: Metrics) -> web.Application:
    """Return the app of the public port. CORS is the outermost middleware, so refusals carry its headers too."""
    refusals = {code: made.counter(metrics.REFUSALS, code.value) for code in checks.REFUSALS}

    def count(code: Code) -> None:
        (refusals.get(code) or made.counter(metrics.REFUSALS, code.value)).inc()

    app = web.Application(middlewares=[cors(settings.origins), problems(count)], client_max_size=settings.max_body_bytes)
    for route in checks.ROUTES:
        entrance = _Entrance(route, settings, queue, made)
        app.router.add_post(f"/v1/rooms/{{room}}/{route.path}", entrance.handle, expect_handler=_expect)
    return app
