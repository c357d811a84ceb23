"""The autoscaler's HTTP API for operators: the pool, its decisions with reasons, pause and resume.

Refuses everybody but operators (`forbidden`). Called by `__main__`; `liveroom pool` is its client.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from aiohttp import web

from autoscaler.pool import POOL, NotedDecision, Pool
from liveroom import clock
from liveroom.errors import Code, ProblemError
from liveroom.kinds import Role
from liveroom.records.control import Order, OrderKind
from liveroom.settings import AutoscalerSettings
from liveroom.tickets import User
from liveroom.tokens import Verifier
from liveroom.web import cors, json_response, problems

RETRY_AFTER_S: Final = 1.0
_encode = msgspec.json.Encoder().encode


class App:
    """All routes of the public port."""

    def __init__(
        self, settings: AutoscalerSettings, verifier: Verifier, pool: Pool, send: Callable[[Order], Awaitable[bool]]
    ) -> None:
        self._send = send
        self._verifier = verifier
        self._pool = pool
        self._instance = settings.instance
        self.web = web.Application(middlewares=[cors(settings.origins), problems()], client_max_size=4096)
        router = self.web.router
        router.add_get("/v1/pool", self._state)
        router.add_get("/v1/decisions", self._decisions)
        router.add_post("/v1/pool/pause", self._pause)
        router.add_post("/v1/pool/resume", self._resume)

    def _operator(self, request: web.Request) -> User:
        user = self._verifier.bearer(request.headers.get("Authorization"), clock.unix_s())
        if user.role is not Role.OPERATOR:
            raise ProblemError(Code.FORBIDDEN, "for operators only")
        return user

    async def _state(self, request: web.Request) -> web.Response:
        self._operator(request)
        return self._answer()

    async def _pause(self, request: web.Request) -> web.Response:
        return await self._order(OrderKind.PAUSE, self._operator(request).id)

    async def _resume(self, request: web.Request) -> web.Response:
        return await self._order(OrderKind.RESUME, self._operator(request).id)

    async def _order(self, kind: OrderKind, by: str) -> web.Response:
        """Write the order into the log, so that it holds for the next leader too."""
        order = Order(Order.VERSION, POOL, 0, kind, clock.unix_ms(), by)
        if not await self._send(order):
            raise ProblemError(Code.QUEUE_UNAVAILABLE, retry_after_s=RETRY_AFTER_S)
        self._pool.apply_order(order)
        return self._answer()

    async def _decisions(self, request: web.Request) -> web.Response:
        self._operator(request)
        return json_response(_encode({"decisions": [_shown(noted) for noted in reversed(self._pool.noted)]}))

    def _answer(self) -> web.Response:
        pool = self._pool
        gateways = sorted(pool.gateways(clock.monotonic_s()), key=lambda seen: seen.report.gateway)
        shown = {
            "instance": self._instance,
            "leading": pool.is_working,
            "paused_by": pool.paused_by,
            "policy": pool.policy,
            "last": _shown(pool.last) if pool.last is not None else None,
            "gateways": [
                {
                    "id": report.gateway,
                    "state": report.state,
                    "age_s": round(age_s, 1),
                    "connections": report.connections,
                    "joins_per_s": report.joins_per_s,
                    "cpu": report.cpu,
                    "loop_lag_ms": report.loop_lag_ms,
                }
                for report, age_s in gateways
            ],
        }
        return json_response(_encode(shown))


def _shown(noted: NotedDecision) -> dict[str, object]:
    decision = noted.decision
    return {
        "at_ms": noted.at_ms,
        "desired": decision.desired,
        "actual": decision.actual,
        "needed": decision.needed,
        "reason": decision.reason,
        "detail": decision.detail,
        "drain": decision.drain,
        "done": noted.is_done,
    }
