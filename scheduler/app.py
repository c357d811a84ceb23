"""The scheduler over HTTP: `GET /v1/entry?room=` answers with gateways and one signed ticket;
`/v1/gateways` is for operators.

Owns who gets a ticket. Refuses bad rooms and tokens (a bad token never becomes a guest), and
everybody while no gateway has room. Called by `__main__`.
"""

import os
import random
import time
from collections.abc import Mapping
from typing import Final

import msgspec
import orjson
from aiohttp import web

from liveroom import metric_catalog, tickets
from liveroom.errors import Code, ProblemError
from liveroom.kinds import Role
from liveroom.limits import Buckets
from liveroom.networks import Networks, caller, subscriber
from liveroom.records.control import LoadReport
from liveroom.registry import Metrics
from liveroom.settings import SchedulerSettings
from liveroom.tickets import TICKET_TTL_S, Ticket, User
from liveroom.tokens import Verifier
from liveroom.topics import ROOM_ID
from liveroom.web import cors, json_response, problems
from liveroom.wire import MAX_ROOMS_PER_CONNECTION
from scheduler.placement import Placement, Standing

RETRY_AFTER_S: Final = 1.0
RANDOM_BYTES: Final = 4096
MOST_KEPT: Final = 4096


class _Chance:
    """Unguessable text, taken from the system many at once: asking it for each takes a tenth of an
    answer's time.
    """

    __slots__ = ("_at", "_bytes")

    def __init__(self) -> None:
        self._bytes, self._at = b"", 0

    def take(self, size: int) -> str:
        """Return so many random bytes as text of hexadecimal digits."""
        if self._at + size > len(self._bytes):
            self._bytes, self._at = os.urandom(RANDOM_BYTES), 0
        at, self._at = self._at, self._at + size
        return self._bytes[at : at + size].hex()


class _Answer(msgspec.Struct, frozen=True):
    gateways: list[msgspec.Raw]
    ticket: str
    expires_ms: int
    rooms: tuple[str, ...]
    user: str
    role: Role


_encode: Final = msgspec.json.Encoder().encode


class Entry:
    """Answers entry requests from what `placement` knows."""

    def __init__(self, settings: SchedulerSettings, placement: Placement, verifier: Verifier, metrics: Metrics) -> None:
        self._settings = settings
        self._placement = placement
        self._verifier = verifier
        self._proxies = Networks((network, network) for network in settings.proxies)
        self._zones = Networks()
        self._addresses = Buckets(settings.address_per_s, settings.address_burst) if settings.address_per_s else None
        self._key_id, self._key = "", b""
        self._chance = _Chance()
        self._addresses_of: dict[str, tuple[int, bytes]] = {}
        self._entered = metrics.counter(metric_catalog.ENTRIES, "entered")
        self._refused = {code: metrics.counter(metric_catalog.ENTRIES, code.value) for code in Code}
        self._seconds = metrics.histogram(metric_catalog.ENTRY_SECONDS)
        self._standings = {standing: metrics.gauge(metric_catalog.GATEWAYS_KNOWN, standing.value) for standing in Standing}

    def app(self) -> web.Application:
        """Return the app of the public port."""
        app = web.Application(
            middlewares=[cors(self._settings.origins), problems(lambda code: self._refused[code].inc())], client_max_size=1024
        )
        app.router.add_get("/v1/entry", self._entry)
        app.router.add_get("/v1/gateways", self._gateways)
        return app

    def use_keys(self, keys: Mapping[str, bytes]) -> None:
        """Sign tickets with the first of these from now on."""
        self._key_id, self._key = next(iter(keys.items()))

    def use_zones(self, zones: Networks) -> None:
        """Know viewers' zones by these networks from now on."""
        self._zones = zones

    def report(self, now_s: float) -> None:
        """Refresh the gauges."""
        for standing, count in self._placement.standings(now_s).items():
            self._standings[standing].set(count)

    async def _entry(self, request: web.Request) -> web.Response:
        began = time.perf_counter()
        address = caller(request.remote, request.headers.get("X-Forwarded-For"), self._proxies)
        if self._addresses is not None and (wait_s := self._addresses.take(subscriber(address), time.monotonic())):
            raise ProblemError(Code.RATE_ADDRESS, retry_after_s=wait_s)
        rooms = tuple(dict.fromkeys(request.query.getall("room", [])))
        user = self._user(request.headers.get("Authorization"))
        if not rooms or len(rooms) > MAX_ROOMS_PER_CONNECTION:
            raise ProblemError(Code.BAD_REQUEST, f"name 1 to {MAX_ROOMS_PER_CONNECTION} rooms: ?room=...")
        if not all(ROOM_ID.match(room) for room in rooms):
            raise ProblemError(Code.ROOM_INVALID)
        if user.rooms and not set(rooms) <= set(user.rooms):
            raise ProblemError(Code.FORBIDDEN, "the token is for other rooms")
        if (wanted := request.query.get("gateway")) is not None:
            if user.role is not Role.OPERATOR:
                raise ProblemError(Code.FORBIDDEN, "only operators choose their gateway")
            chosen = self._placement.only(wanted, time.monotonic())
        else:
            zone = self._zones.find(address)
            chosen = self._placement.choose(self._settings.addresses, time.monotonic(), random.random, zone)
        if not chosen:
            raise ProblemError(Code.NO_GATEWAY, retry_after_s=RETRY_AFTER_S)
        expires_ms = time.time_ns() // 1_000_000 + TICKET_TTL_S * 1000
        ticket = Ticket(
            purpose=tickets.ENTRY,
            user=User(user.id, user.role, user.level, user.name, rooms, user.follower, user.subscriber),
            expires_ms=expires_ms,
            nonce=self._chance.take(9),
            gateways=tuple((choice.report.gateway, choice.report.generation) for choice in chosen),
        )
        answer = _Answer(
            gateways=[self._addressed(report, weight) for report, weight in chosen],
            ticket=tickets.sign(ticket, self._key_id, self._key),
            expires_ms=expires_ms,
            rooms=rooms,
            user=user.id,
            role=user.role,
        )
        self._entered.inc()
        self._seconds.observe(time.perf_counter() - began)
        return json_response(_encode(answer))

    def _addressed(self, report: LoadReport, weight: float) -> msgspec.Raw:
        """Return a gateway as answers name it.

        All but the weight stays as it is for one start of a gateway, so it is kept.
        """
        known = self._addresses_of.get(report.gateway)
        if known is None or known[0] != report.generation:
            if len(self._addresses_of) > MOST_KEPT:
                self._addresses_of.clear()  # names of gateways that are long gone
            told = {"id": report.gateway, "url": report.url, "host": report.host, "ip": report.ip, "port": report.port}
            known = self._addresses_of[report.gateway] = report.generation, orjson.dumps(told)[:-1]
        return msgspec.Raw(b'%b,"weight":%.3f}' % (known[1], weight))

    async def _gateways(self, request: web.Request) -> web.Response:
        """Tell operators how all gateways stand, and why."""
        if self._verifier.bearer(request.headers.get("Authorization"), time.time()).role is not Role.OPERATOR:
            raise ProblemError(Code.FORBIDDEN, "for operators only")
        told = [
            {
                "standing": standing.value,
                "weight": round(weight, 3),
                "age_s": round(age_s, 1),
                **msgspec.to_builtins(report),
            }
            for report, age_s, standing, weight in self._placement.all(time.monotonic())
        ]
        return json_response(orjson.dumps({"gateways": told}))

    def _user(self, authorization: str | None) -> User:
        if authorization is None:
            if not self._settings.guests:
                raise ProblemError(Code.TOKEN_MISSING)
            return User(f"guest-{self._chance.take(8)}", Role.GUEST)
        return self._verifier.bearer(authorization, time.time())
