"""Admission: who may connect to this gateway.

Owns the ticket keys and the rates of new connections: of the gateway, and of each user and address
over all their tickets. Refuses with a problem, before the upgrade: the gateway is draining or full,
the page is of another origin, the ticket is not valid here (`liveroom.tickets`), its user's token
was revoked, the user or the address has too many connections or makes them too fast. `edge.upgrade`
calls it.
"""

import re
from typing import Final

from aiohttp import web

from edge.gateway import Gateway
from edge.limits import DETAILS, Limit
from edge.spent_tickets import SpentTickets
from liveroom import clock, metric_catalog, tickets
from liveroom.budgets import CODES, Caller, Failures, Rate, Rates
from liveroom.errors import Code, ProblemError
from liveroom.limits import Bucket
from liveroom.networks import subscriber
from liveroom.service import Runtime, callers_of
from liveroom.web import USER, is_own_origin, origin_allowed

_IS_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[A-Za-z0-9.:\[\]-]{1,200}\Z").match
JOIN_BURST_S: Final = 2.0
HELD_WAIT_S: Final = 10.0  # until a user or an address that has too many connections may have one less


class Admission:
    """The admission of one gateway. `spent`: the tickets that were used here."""

    def __init__(self, gateway: Gateway, runtime: Runtime) -> None:
        settings = gateway.settings
        self._gateway = gateway
        self._settings = settings
        self._stopping = runtime.stopping
        self._joins_left = Bucket(settings.max_joins_per_s, settings.max_joins_per_s * JOIN_BURST_S, clock.monotonic_s())
        self._rates = Rates(
            user=Rate(settings.user_connections_per_s, settings.user_connections_burst),
            address=Rate(settings.address_connections_per_s, settings.address_connections_burst),
        )
        runtime.metrics.follow(metric_catalog.NAMES, self._rates.__len__, "connects")
        self._limited = {limit: runtime.metrics.counter(metric_catalog.LIMITED, limit.value) for limit in Limit}
        self._failures = Failures(settings.failures, "tickets", self._limited[Limit.ADDRESS_BAD_TICKETS].inc)
        runtime.metrics.follow(metric_catalog.NAMES, self._failures.__len__, "bad_tickets")
        self._keys: tickets.Keys = {}
        self.spent = SpentTickets()
        runtime.metrics.follow(metric_catalog.NAMES, lambda: len(self.spent), "tickets")
        self._callers = callers_of(settings)

    def use(self, keys: tickets.Keys) -> None:
        """Verify tickets with these keys from now on."""
        self._keys = keys

    def check_open(self) -> None:
        """Raise `ProblemError` (draining) where nobody more is admitted."""
        if self._gateway.draining or self._stopping.is_set():
            raise ProblemError(Code.DRAINING, retry_after_s=0.2)

    def address_of(self, request: web.Request) -> str:
        """Return the address that a request counts for: that of one subscriber."""
        return subscriber(self._callers.address(request.remote, request.headers))

    def admit(self, request: web.Request) -> tuple[str, tickets.User]:
        """Return the address that a request counts for, and the user of its ticket.

        The ticket is used from then on, so the caller completes the upgrade. Raises
        `ProblemError`: origin, full, rate_user, rate_address, ticket_invalid, ticket_expired,
        ticket_used, revoked. Cheap checks come first. Only good tickets count as connections, and
        what one of the limits refuses takes nothing from the others. Bad ones have a budget of
        their own: without it forged tickets would make the loop verify as many as come.
        """
        gateway, settings = self._gateway, self._settings
        address = self.address_of(request)
        origin = request.headers.get("Origin")
        is_foreign = origin is not None and not is_own_origin(origin, request.headers.get("Host"))
        if origin is not None and is_foreign and not origin_allowed(origin, settings.origins):
            raise ProblemError(Code.ORIGIN, origin if _IS_ORIGIN(origin) else "")
        if len(gateway.members) >= settings.max_connections:
            raise self._refusal(Limit.GATEWAY_CONNECTIONS, Code.FULL, 1)
        now_s, now_ms = clock.monotonic_s(), clock.unix_ms()
        self._failures.check(address, now_s)
        try:
            ticket = self._verify(request.query.get("ticket", ""), now_ms)
        except ProblemError:
            self._failures.charge(address, now_s)
            raise
        request[USER] = ticket.user.id
        self._take(Caller(user=ticket.user.id, address=address))
        self.spent.spend(ticket, now_ms)
        return address, ticket.user

    def _verify(self, text: str, now_ms: int) -> tickets.Ticket:
        """Return the ticket in `text`; raise `ProblemError` where it opens no connection here."""
        me = (self._settings.instance, self._gateway.generation)
        ticket = tickets.verify(text, self._keys, tickets.ENTRY, me, now_ms)
        user = ticket.user
        if self._gateway.revocations.revokes(user.id, user.device, user.issued_s):
            raise ProblemError(Code.REVOKED).of(user.id)
        self.spent.check(ticket)
        return ticket

    def _take(self, caller: Caller) -> None:
        """Take a connection out of the budgets of a caller and of the gateway; raise `ProblemError`
        where one of them does not have it.
        """
        now_s = clock.monotonic_s()
        if (scope := self._gateway.held.full(caller)) is not None:
            raise self._refusal(Limit(f"{scope}_connections"), CODES[scope], HELD_WAIT_S)
        if (spent := self._rates.spent(caller, now_s)) is not None:
            raise self._refusal(Limit(f"{spent.scope}_connects"), spent.code, spent.wait_s)
        if wait_s := self._joins_left.take(now_s):
            raise self._refusal(Limit.GATEWAY_CONNECTS, Code.FULL, max(1.0, wait_s))
        self._rates.charge(caller, now_s)

    def _refusal(self, limit: Limit, code: Code, wait_s: float) -> ProblemError:
        self._limited[limit].inc()
        return ProblemError(code, DETAILS[limit], retry_after_s=wait_s)
