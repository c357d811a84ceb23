"""The scheduler over HTTP: `GET /v1/entry?room=&device=` for viewers, `/v1/gateways` for operators.

An entry answer names gateways and holds one signed ticket for them. Owns who gets a ticket. Refuses
bad rooms, devices and tokens (a bad or revoked token never becomes a guest), and everybody while no
gateway has room. Called by `__main__`.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

import msgspec
import orjson
from aiohttp import web

from liveroom import clock, metric_catalog, tickets
from liveroom.authentication import Authentication
from liveroom.budgets import Caller, Failures, Rate, Rates, Scope
from liveroom.chance import Chance
from liveroom.errors import Code, ProblemError
from liveroom.kinds import Role
from liveroom.networks import Networks, subscriber
from liveroom.records.control import LoadReport
from liveroom.service import Runtime, callers_of
from liveroom.settings import SchedulerSettings
from liveroom.tickets import TICKET_TTL_S, Signer, Ticket, User
from liveroom.tokens import Verifier
from liveroom.topics import DEVICE_ID, ROOM_ID
from liveroom.web import USER, cors, json_response, problems, request_ids
from liveroom.wire import MAX_ROOMS_PER_CONNECTION
from scheduler.placement import Choice, Placement, Standing

RETRY_AFTER_S: Final = 1.0
MAX_KEPT: Final = 4096
NONCE_BYTES: Final = 9
GUEST_BYTES: Final = 8


_UNCOUNTED: Final = frozenset({Role.OPERATOR, Role.SERVICE})


class EntryLimit(StrEnum):
    """The budget of entries that is used up."""

    ADDRESS_ENTRIES = "address_entries"
    ADDRESS_GUESTS = "address_guests"
    ADDRESS_FAILURES = "address_failures"
    USER_ENTRIES = "user_entries"


_DETAILS: Final = {
    EntryLimit.ADDRESS_ENTRIES: "too many entries from this address",
    EntryLimit.ADDRESS_GUESTS: "too many guests from this address",
    EntryLimit.USER_ENTRIES: "too many entries of this user, on all its devices",
}


class EntryAnswer(msgspec.Struct, frozen=True):
    """The answer to a viewer that may connect."""

    gateways: list[msgspec.Raw]
    ticket: str
    expires_ms: int
    rooms: tuple[str, ...]
    user: str
    role: Role


_encode: Final = msgspec.json.Encoder().encode


class App:
    """All routes of the public port; answers from what `placement` knows."""

    def __init__(self, settings: SchedulerSettings, placement: Placement, verifier: Verifier, runtime: Runtime) -> None:
        self._settings = settings
        self._placement = placement
        self._verifier = verifier
        self._callers = callers_of(settings)
        self._zones = Networks()
        self._entries = Rates(
            user=Rate(settings.user_entries_per_s, settings.user_entries_burst),
            address=Rate(settings.address_per_s, settings.address_burst),
        )
        self._guests = Rates(address=Rate(settings.address_guests_per_s, settings.address_guests_burst))
        self._signers: Sequence[Signer] = ()
        self._chance = runtime.chance
        self._uniform = Chance(runtime.chance.getrandbits(64)).random  # no secret, and drawn some ten times an answer
        self._described: dict[str, tuple[int, bytes]] = {}
        metrics = runtime.metrics
        metrics.follow(metric_catalog.NAMES, verifier.__len__, "tokens")
        self._limited = {limit: metrics.counter(metric_catalog.ENTRIES_LIMITED, limit.value) for limit in EntryLimit}
        failures = Failures(settings.failures, "tokens", self._limited[EntryLimit.ADDRESS_FAILURES].inc)
        self._authentication = Authentication(verifier, failures)
        metrics.follow(
            metric_catalog.NAMES, lambda: len(self._entries) + len(self._guests) + len(self._authentication), "entries"
        )
        self._entered = metrics.counter(metric_catalog.ENTRIES, "entered")
        self._refused = {code: metrics.counter(metric_catalog.ENTRIES, code.value) for code in Code}
        self._seconds = metrics.histogram(metric_catalog.ENTRY_SECONDS)
        self._standings = {standing: metrics.gauge(metric_catalog.GATEWAYS_KNOWN, standing.value) for standing in Standing}
        self.web = web.Application(
            middlewares=[
                request_ids(runtime.chance),
                cors(settings.origins),
                problems(lambda code: self._refused[code].inc(), runtime.refusals),
            ],
            client_max_size=1024,
        )
        self.web.router.add_get("/v1/entry", self._entry)
        self.web.router.add_get("/v1/gateways", self._gateways)

    def use_signers(self, signers: Sequence[Signer]) -> None:
        """Sign tickets with these from now on: at most one of each version, the newest first."""
        self._signers = signers

    def use_zones(self, zones: Networks) -> None:
        """Find the zones of viewers in these networks from now on."""
        self._zones = zones

    def refresh_gauges(self, now_s: float) -> None:
        """Set the gauges to the gateways' standings at `now_s`."""
        for standing, count in self._placement.standings(now_s).items():
            self._standings[standing].set(count)

    async def _entry(self, request: web.Request) -> web.Response:
        began_s = clock.monotonic_s()
        address = self._callers.address(request.remote, request.headers)
        rooms = tuple(dict.fromkeys(request.query.getall("room", [])))
        user = self._user(request.headers.get("Authorization"), subscriber(address), began_s)
        request[USER] = user.id
        _check_rooms(rooms, user)
        user = self._watching(user, rooms, _device(request.query.get("device"), user))
        self._take(user, subscriber(address), began_s)
        chosen = self._choose(request.query.get("gateway"), user, address, began_s)
        if not chosen:
            raise ProblemError(Code.NO_GATEWAY, retry_after_s=RETRY_AFTER_S)
        ticket = self._ticket(user, chosen)
        answer = EntryAnswer(
            gateways=[self._describe(report, weight) for report, weight in chosen],
            ticket=tickets.sign(ticket, self._signer(chosen)),
            expires_ms=ticket.expires_ms,
            rooms=rooms,
            user=user.id,
            role=user.role,
        )
        self._entered.inc()
        self._seconds.observe(clock.monotonic_s() - began_s)
        return json_response(_encode(answer))

    # ---- the steps of an entry
    def _take(self, user: User, address: str, now_s: float) -> None:
        """Take an entry from the budgets that count it, or from none; then raise `ProblemError`.

        Guests have a budget of their own: whoever needs no token takes nothing from those with one.
        """
        is_guest = user.role is Role.GUEST
        counted = "" if user.role in _UNCOUNTED else user.id
        spent = (self._guests if is_guest else self._entries).take(Caller(user=counted, address=address), now_s)
        if spent is None:
            return
        of_address = EntryLimit.ADDRESS_GUESTS if is_guest else EntryLimit.ADDRESS_ENTRIES
        limit = EntryLimit.USER_ENTRIES if spent.scope is Scope.USER else of_address
        self._limited[limit].inc()
        raise ProblemError(spent.code, _DETAILS[limit], retry_after_s=spent.wait_s)

    def _user(self, authorization: str | None, address: str, now_s: float) -> User:
        if authorization is None:
            if not self._settings.guests:
                raise ProblemError(Code.TOKEN_MISSING)
            return User(f"guest-{self._chance.token_hex(GUEST_BYTES)}", Role.GUEST, issued_s=int(clock.unix_s()))
        return self._authentication.user(authorization, address, now_s, clock.unix_s())

    def _watching(self, user: User, rooms: Sequence[str], device: str) -> User:
        """Return the user as a ticket has it; refuse a guest or a device that is revoked.

        A token that names rooms names all of `rooms`: `_check_rooms` has refused any other.
        """
        names_rooms = user.rooms is not None
        watching: User = msgspec.structs.replace(user, rooms=tuple(rooms), device=device, names_rooms=names_rooms)
        self._verifier.check_revoked(watching)
        return watching

    def _choose(self, wanted: str | None, user: User, address: str, now_s: float) -> Sequence[Choice]:
        if wanted is None:
            return self._placement.choose(self._settings.addresses, now_s, self._uniform, self._zones.find(address))
        if user.role is not Role.OPERATOR:
            raise ProblemError(Code.FORBIDDEN, "only operators may choose their gateway")
        return self._placement.only(wanted, now_s)

    def _ticket(self, user: User, chosen: Sequence[Choice]) -> Ticket:
        return Ticket(
            purpose=tickets.ENTRY,
            user=user,
            expires_ms=clock.unix_ms() + TICKET_TTL_S * 1000,
            nonce=self._chance.token_hex(NONCE_BYTES),
            gateways=tuple((choice.report.gateway, choice.report.generation) for choice in chosen),
        )

    def _signer(self, chosen: Sequence[Choice]) -> Signer:
        """Return the signer of the newest version that all of these gateways read, else the newest.

        While gateways of liveroom 0.1 are among them, that is HMAC, where this scheduler has such a
        key.
        """
        signers = self._signers
        if len(signers) == 1:
            return signers[0]
        read = min(choice.report.ticket_version for choice in chosen)
        return next((signer for signer in signers if signer.version <= read), signers[0])

    def _describe(self, report: LoadReport, weight: float) -> msgspec.Raw:
        """Return a gateway as answers name it.

        All but the weight stays the same until the gateway restarts, so it is kept.
        """
        known = self._described.get(report.gateway)
        if known is None or known[0] != report.generation:
            if len(self._described) > MAX_KEPT:
                self._described.clear()  # most names in it belong to gateways that ended long ago
            described = {"id": report.gateway, "url": report.url, "host": report.host, "ip": report.ip, "port": report.port}
            known = self._described[report.gateway] = report.generation, orjson.dumps(described)[:-1]
        return msgspec.Raw(b'%b,"weight":%.3f}' % (known[1], weight))

    # ---- operators
    async def _gateways(self, request: web.Request) -> web.Response:
        """Answer operators with all gateways, their standings and reports."""
        address = subscriber(self._callers.address(request.remote, request.headers))
        now_s = clock.monotonic_s()
        user = self._authentication.user(request.headers.get("Authorization"), address, now_s, clock.unix_s())
        request[USER] = user.id
        if user.role is not Role.OPERATOR:
            raise ProblemError(Code.FORBIDDEN, "only operators may list the gateways")
        self._take(user, address, now_s)
        described = [
            {
                "standing": standing.value,
                "weight": round(weight, 3),
                "age_s": round(age_s, 1),
                "skew_s": None if skew_s is None else round(skew_s, 1),
                **msgspec.to_builtins(report),
            }
            for report, age_s, standing, weight, skew_s in self._placement.all(clock.monotonic_s())
        ]
        return json_response(orjson.dumps({"gateways": described}))


def _device(named: str | None, user: User) -> str:
    """Return the device that a ticket is for: the token's own, else the one that the request names.

    Raises `ProblemError` (bad_request) where the request names one that is no device id.
    """
    if named is not None and not DEVICE_ID.match(named):
        raise ProblemError(Code.BAD_REQUEST, "device is not 1 to 64 characters of A-Z a-z 0-9 _ . : -")
    return user.device or named or ""


def _check_rooms(rooms: Sequence[str], user: User) -> None:
    if not rooms or len(rooms) > MAX_ROOMS_PER_CONNECTION:
        raise ProblemError(Code.BAD_REQUEST, f"name 1 to {MAX_ROOMS_PER_CONNECTION} rooms: ?room=...")
    for room in rooms:
        if not ROOM_ID.match(room):
            raise ProblemError(Code.ROOM_INVALID, room=room)
    for room in rooms:
        try:
            user.check_permits(room)
        except ProblemError as error:
            raise ProblemError(error.code, error.detail, room=room) from None
