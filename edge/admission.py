"""Admission: who may connect to this gateway.

Owns the ticket keys and the rate of new connections. Refuses with a problem, before the upgrade:
the gateway is draining or full, the page is of another origin, the address has too many
connections, the ticket is not valid here (`liveroom.tickets`). `edge.upgrade` calls it.
"""

from collections.abc import Mapping
from typing import Final

from aiohttp import web

from edge.gateway import Gateway
from edge.spent_tickets import SpentTickets
from liveroom import clock, metric_catalog, tickets
from liveroom.errors import Code, ProblemError
from liveroom.limits import Bucket
from liveroom.networks import subscriber
from liveroom.service import Runtime, callers_of
from liveroom.web import is_own_origin, origin_allowed

JOIN_BURST_S: Final = 2.0


class Admission:
    """The admission of one gateway. `spent`: the tickets that were used here."""

    def __init__(self, gateway: Gateway, runtime: Runtime) -> None:
        settings = gateway.settings
        self._gateway = gateway
        self._settings = settings
        self._stopping = runtime.stopping
        self._joins_left = Bucket(settings.max_joins_per_s, settings.max_joins_per_s * JOIN_BURST_S, clock.monotonic_s())
        self._keys: Mapping[str, bytes] = {}
        self.spent = SpentTickets()
        runtime.metrics.follow(metric_catalog.NAMES, lambda: len(self.spent), "tickets")
        self._callers = callers_of(settings)

    def use(self, keys: Mapping[str, bytes]) -> None:
        """Verify tickets with these keys from now on: secrets by key id."""
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
        `ProblemError`: origin, full, rate_address, ticket_invalid, ticket_expired, ticket_used.
        Cheap checks come first, and the rate counts good tickets only.
        """
        gateway, settings = self._gateway, self._settings
        address = self.address_of(request)
        origin = request.headers.get("Origin")
        is_foreign = origin is not None and not is_own_origin(origin, request.headers.get("Host"))
        if origin is not None and is_foreign and not origin_allowed(origin, settings.origins):
            raise ProblemError(Code.ORIGIN, origin[:200])
        if len(gateway.members) >= settings.max_connections:
            raise ProblemError(Code.FULL, retry_after_s=1)
        if settings.max_per_address and gateway.connections_from(address) >= settings.max_per_address:
            raise ProblemError(Code.RATE_ADDRESS, "too many connections from this address", retry_after_s=10)
        me = (settings.instance, gateway.generation)
        now_ms = clock.unix_ms()
        ticket = tickets.verify(request.query.get("ticket", ""), self._keys, tickets.ENTRY, me, now_ms)
        self.spent.check(ticket)
        if wait_s := self._joins_left.take(clock.monotonic_s()):
            raise ProblemError(Code.FULL, "too many connections arrive at once", retry_after_s=max(1.0, wait_s))
        self.spent.spend(ticket, now_ms)
        return address, ticket.user
