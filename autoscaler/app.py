"""The autoscaler's HTTP API for operators: the pool, its decisions, and orders by hand.

Every instance answers and takes orders: it knows the leader's decisions from the log, and writes
what operators order into it. Refuses everybody but operators (`forbidden`). Called by `__main__`;
`liveroom pool` is its client.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Final, TypeVar

import msgspec
from aiohttp import web

from autoscaler.by_hand import POOL, Floor
from autoscaler.pool import Pool
from liveroom import clock
from liveroom.errors import Code, ProblemError
from liveroom.kinds import Role
from liveroom.nesting import UNDECODABLE
from liveroom.records.control import FLOOR, Decided, GatewayState, Order, OrderKind
from liveroom.service import Runtime
from liveroom.settings import AutoscalerSettings
from liveroom.tickets import User
from liveroom.tokens import Verifier
from liveroom.web import USER, cors, json_response, problems, request_ids

RETRY_AFTER_S: Final = 1.0
_encode = msgspec.json.Encoder().encode
B = TypeVar("B")


class DrainRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /v1/pool/drain`: which gateway drains, and why."""

    gateway: str
    why: Annotated[str, msgspec.Meta(max_length=200)] = ""


class AddRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /v1/pool/add`: how many gateways at least, and for how many seconds.

    It is the whole number, so that a request may come twice. 0 ends what was added before.
    """

    least: Annotated[int, msgspec.Meta(ge=0, le=10_000)]
    for_s: Annotated[int, msgspec.Meta(ge=60, le=7 * 86_400)] = 3600


class App:
    """All routes of the public port."""

    def __init__(
        self,
        settings: AutoscalerSettings,
        verifier: Verifier,
        pool: Pool,
        send: Callable[[Order], Awaitable[bool]],
        runtime: Runtime,
    ) -> None:
        self._send = send
        self._verifier = verifier
        self._pool = pool
        self._only_advises = settings.driver == "advisory"
        self._dry_run = settings.dry_run
        self.web = web.Application(
            middlewares=[request_ids(runtime.chance), cors(settings.origins), problems(refusals=runtime.refusals)],
            client_max_size=4096,
        )
        router = self.web.router
        router.add_get("/v1/pool", self._state)
        router.add_get("/v1/decisions", self._decisions)
        router.add_post("/v1/pool/pause", self._pause)
        router.add_post("/v1/pool/resume", self._resume)
        router.add_post("/v1/pool/drain", self._drain)
        router.add_post("/v1/pool/add", self._add)

    def _operator(self, request: web.Request) -> User:
        user = self._verifier.bearer(request.headers.get("Authorization"), clock.unix_s())
        request[USER] = user.id
        if user.role is not Role.OPERATOR:
            raise ProblemError(Code.FORBIDDEN, "for operators only")
        return user

    async def _state(self, request: web.Request) -> web.Response:
        self._operator(request)
        return self._answer()

    async def _pause(self, request: web.Request) -> web.Response:
        return await self._order(POOL, OrderKind.PAUSE, self._operator(request).id)

    async def _resume(self, request: web.Request) -> web.Response:
        return await self._order(POOL, OrderKind.RESUME, self._operator(request).id)

    async def _drain(self, request: web.Request) -> web.Response:
        """Order a gateway to drain; it obeys at once, and the leader starts another one."""
        by = self._operator(request).id
        asked = await self._body(request, DrainRequest)
        gateways = {each.report.gateway: each for each in self._pool.gateways(clock.monotonic_s())}
        found = gateways.get(asked.gateway)
        if found is None:
            raise ProblemError(Code.NOT_FOUND, f"no gateway of this name reports; there are {', '.join(sorted(gateways))}")
        if found.report.state is GatewayState.DRAINING:
            return self._answer()
        async with self._pool.ordering:
            if not self._pool.staying(clock.monotonic_s()) - {asked.gateway}:
                raise ProblemError(
                    Code.NO_GATEWAY, "no other gateway serves and stays: its viewers would have nowhere to go; add one first"
                )
            why = asked.why or "by hand"
            return await self._order(asked.gateway, OrderKind.DRAIN, why, by=by, generation=found.report.generation)

    async def _add(self, request: web.Request) -> web.Response:
        """Order a least number of gateways, until their time is over."""
        by = self._operator(request).id
        asked = await self._body(request, AddRequest)
        if asked.least > (most := self._pool.policy.max):
            raise ProblemError(Code.LIMIT, f"that makes {asked.least} gateways; max is {most} in the policy")
        if not asked.least:
            return await self._order(FLOOR, OrderKind.RESUME, "", by=by)
        now_ms = clock.unix_ms()
        floor = self._pool.by_hand.joined(Floor(asked.least, now_ms + 1000 * asked.for_s, by), now_ms)
        return await self._order(FLOOR, OrderKind.RESUME, "", by=by, least=floor.least, until_ms=floor.until_ms)

    async def _body(self, request: web.Request, of: type[B]) -> B:
        if self._only_advises:
            raise ProblemError(
                Code.NOT_FOUND, "this autoscaler only advises: whatever scales the pool adds and removes gateways"
            )
        if self._dry_run:
            raise ProblemError(Code.NOT_FOUND, "this autoscaler runs dry: ask one that acts")
        try:
            return msgspec.json.decode(await request.read() or b"{}", type=of)
        except msgspec.ValidationError as error:
            raise ProblemError(Code.SCHEMA, str(error)) from None
        except UNDECODABLE as error:
            raise ProblemError(Code.BAD_JSON, str(error)) from None

    async def _order(
        self,
        gateway: str,
        kind: OrderKind,
        reason: str,
        *,
        by: str = "",
        generation: int = 0,
        least: int = 0,
        until_ms: int = 0,
    ) -> web.Response:
        """Write an order into the log, so that it holds for every leader; answer with the pool."""
        order = Order(Order.VERSION, gateway, generation, kind, clock.unix_ms(), reason, by=by, least=least, until_ms=until_ms)
        self._pool.expect(order)
        if not await self._send(order):
            raise ProblemError(Code.QUEUE_UNAVAILABLE, retry_after_s=RETRY_AFTER_S)
        self._pool.apply_order(order)
        return self._answer()

    async def _decisions(self, request: web.Request) -> web.Response:
        self._operator(request)
        return json_response(_encode({"decisions": list(reversed(self._pool.noted))}))

    @property
    def _decided(self) -> Decided | None:
        """The leader's last decision, as far as it is known here."""
        return self._pool.last or self._pool.heard

    def _answer(self) -> web.Response:
        pool, now_ms = self._pool, clock.unix_ms()
        gateways = sorted(pool.gateways(clock.monotonic_s()), key=lambda seen: seen.report.gateway)
        decided, floor = self._decided, pool.by_hand.floor(now_ms)
        shown = {
            "instance": pool.instance,
            "leading": pool.is_working,
            "leader": decided.instance if decided is not None and not self._only_advises else "",
            "heard_s": round(max(0, now_ms - decided.at_ms) / 1000, 1) if decided is not None else None,
            "paused_by": pool.by_hand.paused_by,
            "floor": floor._asdict() if floor is not None else None,
            "policy": pool.policy,
            "last": decided,
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
