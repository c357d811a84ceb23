"""The scheduler over HTTP: `GET /v1/entry?room=` answers with gateways and one signed ticket.

Owns who gets a ticket. Refuses bad rooms and tokens (a bad token never becomes a guest), and everybody while no gateway has
room. Called by `__main__`.
"""

import random
import secrets
import time
from typing import Final

import orjson
from aiohttp import web

from liveroom import metrics, tickets
from liveroom.errors import Code, ProblemError
from liveroom.kinds import Role
from liveroom.service import Metrics
from liveroom.settings import SchedulerSettings
from liveroom.tickets import TICKET_TTL_S, Ticket, User
from liveroom.tokens import Verifier
from liveroom.topics import ROOM_ID
from liveroom.web import cors, json_response, problems
from liveroom.wire import MAX_ROOMS_PER_CONNECTION
from scheduler.placement import Placement, Standing

RETRY_AFTER_S: Final = 1.0


class Entry:
    """Answers entry requests from what `placement` knows."""

    def __init__(self, settings: SchedulerSettings, placement: Placement, verifier: Verifier, made: Metrics) -> None:
        self._settings = settings
        self._placement = placement
        self._verifier = verifier
        self._key_id, self._key = next(iter(settings.keys().items()))
        self._entered = made.counter(metrics.ENTRIES, "entered")
        self._refused = {code: made.counter(metrics.ENTRIES, code.value) for code in Code}
        self._seconds = made.histogram(metrics.ENTRY_SECONDS)
        self._standings = {standing: made.gauge(metrics.GATEWAYS_KNOWN, standing.value) for standing in Standing}

    def app(self) -> web.Application:
        """Return the app of the public port."""
        app = web.Application(
            middlewares=[cors(self._settings.origins), problems(lambda code: self._refused[code].inc())], client_max_size=1024
        )
        app.router.add_get("/v1/entry", self._entry)
        return app

    def report(self, now_s: float) -> None:
        """Refresh the gauges."""
        for standing, count in self._placement.standings(now_s).items():
            self._standings[standing].set(count)

    async def _entry(self, request: web.Request) -> web.Response:
        began = time.perf_counter()
        rooms = tuple(dict.fromkeys(request.query.getall("room", [])))
        user = self._user(request.headers.get("Authorization"))
        if not rooms or len(rooms) > MAX_ROOMS_PER_CONNECTION:
            raise ProblemError(Code.BAD_REQUEST, f"name 1 to {MAX_ROOMS_PER_CONNECTION} rooms: ?room=...")
        if not all(ROOM_ID.match(room) for room in rooms):
            raise ProblemError(Code.ROOM_INVALID)
        if user.rooms and not set(rooms) <= set(user.rooms):
            raise ProblemError(Code.FORBIDDEN, "the token is for other rooms")
        chosen = self._placement.choose(self._settings.addresses, time.monotonic(), random.random)
        if not chosen:
            raise ProblemError(Code.NO_GATEWAY, retry_after_s=RETRY_AFTER_S)
        expires_ms = time.time_ns() // 1_000_000 + TICKET_TTL_S * 1000
        ticket = Ticket(
            purpose=tickets.ENTRY,
            user=User(user.id, user.role, user.level, user.name, rooms, user.follower, user.subscriber),
            expires_ms=expires_ms,
            nonce=secrets.token_urlsafe(9),
            gateways=tuple((choice.report.gateway, choice.report.generation) for choice in chosen),
        )
        answer = {
            "gateways": [
                {
                    "id": report.gateway,
                    "url": report.url,
                    "host": report.host,
                    "ip": report.ip,
                    "port": report.port,
                    "weight": round(weight, 3),
                }
                for report, weight in chosen
            ],
            "ticket": tickets.sign(ticket, self._key_id, self._key),
            "expires_ms": expires_ms,
            "rooms": rooms,
            "user": user.id,
            "role": user.role.value,
        }
        self._entered.inc()
        self._seconds.observe(time.perf_counter() - began)
        return json_response(orjson.dumps(answer))

    def _user(self, authorization: str | None) -> User:
        if authorization is None:
            if not self._settings.guests:
                raise ProblemError(Code.TOKEN_MISSING)
            return User(f"guest-{secrets.token_hex(8)}", Role.GUEST)
        return self._verifier.bearer(authorization, time.time())
