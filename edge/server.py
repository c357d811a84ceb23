"""The viewers' side of the edge: the upgrade with its ticket, then one member each, without a task or a timer.

Owns `GET /v1/live` (and `/v1/events`, for networks that let no WebSocket through), the members and their time-outs (one timing
wheel), what viewers ask, and how they are moved away. Refuses with a problem before the upgrade (ticket, origin, full,
draining), with a close code after it. What it knows of rooms it asks of the hub; pulls are `edge.pulls`.
"""

import asyncio
import contextlib
import gc
import random
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Final, NamedTuple

import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from edge.frames import DEFLATED, PLAIN, Frames
from edge.handshake import shake
from edge.hub import SLICE, Hub, waiting_too_long
from edge.hub import Member as InRooms
from edge.member import Backlog, Listener, Member
from edge.room import Position, Room
from edge.wheel import Wheel
from liveroom import metrics, tickets, topics
from liveroom.closecodes import TABLE, Close
from liveroom.errors import Code, ProblemError
from liveroom.kinds import UNTOUCHABLE, Kind, Role
from liveroom.limits import Bucket
from liveroom.moderation import Rules, holds
from liveroom.networks import Networks, caller, subscriber
from liveroom.records import BadRecord, Moderation, Order, OrderKind, RuleKind
from liveroom.service import Runtime
from liveroom.settings import EdgeSettings
from liveroom.topics import ROOM_ID, room_hash
from liveroom.web import cors, origin_allowed, problems
from liveroom.wire import (
    MAX_CLIENT_FRAME_BYTES,
    MAX_ROOMS_PER_CONNECTION,
    VIEWER_SILENCE_S,
    BadFrameError,
    Beat,
    Carded,
    Error,
    Heartbeat,
    Hello,
    Join,
    Leave,
    Left,
    Move,
    Notice,
    decode_client_frame,
    encode_frame,
)

MAX_FORMER: Final = 100_000
LATE_HEARTBEATS: Final = 3
TICK_S: Final = 0.25
TURN_S: Final = 4.5  # twice this, and nothing has been sent for less than 10 s
WHEEL_SLOTS: Final = 64
CARD_WAIT_S: Final = 1.0
CLOSE_TIMEOUT_S: Final = 2.0
MOVE_SLICES: Final = 20
SHED_GRACE_S: Final = 5.0
SHED_FOR_S: Final = 30.0
JOIN_BURST_S: Final = 2.0
RELIEF: Final = 0.9  # down to which share of the cap the slowest are closed
FREEZE_AFTER_JOINS: Final = 5000
log = structlog.get_logger()


class Puller(NamedTuple):
    """Who may pull: as a member, or for a while after that (`until_s`)."""

    user: str
    role: Role
    ticket_rooms: tuple[str, ...]
    until_s: float | None = None


class HandedOver(web.StreamResponse):
    """The answer aiohttp is given where the connection is no longer its own: it writes nothing."""

    async def prepare(self, request: web.BaseRequest) -> None:
        """Write nothing."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Write nothing."""


class _Behind:
    """Takes what a viewer sent right behind its upgrade, before the answer: aiohttp has read it already."""

    def __init__(self) -> None:
        self.data = b""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Keep it."""
        self.data += data
        return False, b""

    def feed_eof(self) -> None:
        """Nothing more comes this way."""


class Server:
    """The public app of a gateway, and its members."""

    now_s = staticmethod(time.monotonic)

    def __init__(self, settings: EdgeSettings, hub: Hub, rules: Rules, runtime: Runtime, generation: int) -> None:
        self.settings = settings
        self.hub = hub
        self.rules = rules
        self.generation = generation
        self.members: dict[Member, None] = {}
        self.pullers: dict[str, Puller] = {}
        self.cards_wanted: dict[str, None] = {}
        self.answering: set[RequestHandler] = set()
        self.joins = 0
        self.leaves = 0
        self.draining = False
        # what members need (edge.member.Gateway)
        self.backlogs: dict[Member, Backlog] = {}
        self.unsent = 0
        self.slow_unsent = settings.slow_unsent_bytes
        self.max_unsent = settings.max_unsent_bytes
        now_s = self.now_s()
        self._wheel: Wheel[Member] = Wheel(TICK_S, WHEEL_SLOTS, now_s)
        self._joins_left = Bucket(settings.max_joins_per_s, settings.max_joins_per_s * JOIN_BURST_S, now_s)
        self._former: OrderedDict[str, float] = OrderedDict()
        self._listeners: dict[str, Listener] = {}
        self._by_address: dict[str, int] = {}
        self._addresses: dict[Member, str] = {}
        self._connected_s: dict[RequestHandler, float] = {}
        self._unfrozen = 0
        self._emptied = asyncio.Event()
        self._moving: asyncio.Task[None] | None = None
        self._asked: OrderedDict[Member, float] = OrderedDict()  # to move, and when; over several orders to shed
        self.worst_delay_ms: float | None = None
        self._keys: Mapping[str, bytes] = {}
        self._proxies = Networks((network, network) for network in settings.proxies)
        self._runtime = runtime
        made = runtime.metrics
        self._joined = {outcome: made.counter(metrics.JOINS, outcome) for outcome in ("joined", "refused")}
        self._resumed = {outcome: made.counter(metrics.RESUMES, outcome) for outcome in ("ring", "pull")}
        self._closes = {code: made.counter(metrics.CLOSES, str(code)) for code in TABLE}
        self._other_closes = {name: made.counter(metrics.CLOSES, name) for name in ("none", "other")}
        self._refused = {code: made.counter(metrics.UPGRADES_REFUSED, code.value) for code in Code}
        self._bad = made.counter(metrics.BAD_RECORDS, topics.BROADCAST.name, BadRecord.UNHANDLED.value)
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

    # ---- coming
    async def _live(self, request: web.Request) -> web.StreamResponse:
        """Take a viewer over WebSocket."""
        self._check_open()
        handshake = shake(request.headers)
        address, user = self._admit(request)
        form = DEFLATED if handshake.deflates else PLAIN
        member = Member(self, user, secrets.token_urlsafe(12), self.now_s(), form)
        return self._take_over(request, member, address, handshake.answer)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Take a viewer whose network lets no WebSocket through: events over HTTP."""
        self._check_open()
        address, user = self._admit(request)
        member = Listener(self, user, secrets.token_urlsafe(12), self.now_s())
        head = _event_stream(self._readable_by(request))
        self._listeners[member.pull] = member
        return self._take_over(request, member, address, head)

    async def _said(self, request: web.Request) -> web.StreamResponse:
        """Take a frame of a viewer who hears events."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        listener = self._listeners.get(token.strip()) if scheme.lower() == "bearer" else None
        if listener is None:
            raise _not_listening()
        self.answering.add(request.protocol)
        try:
            async with asyncio.timeout(self.settings.handshake_timeout_s):
                text = await request.read()
            if self._listeners.get(listener.pull) is not listener:  # it went meanwhile: nobody may enter a room for it
                raise _not_listening()
            listener.spoke(text)
        except TimeoutError:
            raise ProblemError(Code.BODY_LATE) from None
        finally:
            self.answering.discard(request.protocol)
        return web.Response(status=HTTPStatus.NO_CONTENT)

    def _readable_by(self, request: web.Request) -> str | None:
        """Return the origin whose pages may read the answer."""
        origin = request.headers.get("Origin")
        return origin if origin is not None and origin.isascii() and origin_allowed(origin, self.settings.origins) else None

    def _check_open(self) -> None:
        if self.draining or self._runtime.stopping.is_set():
            raise ProblemError(Code.DRAINING, retry_after_s=0.2)

    def _take_over(self, request: web.Request, member: Member, address: str, answer: bytes) -> web.StreamResponse:
        """Make the request's connection the member's own, and greet."""
        transport, protocol = request.transport, request.protocol
        if transport is None or transport.is_closing():
            self._listeners.pop(member.pull, None)
            return HandedOver()  # gone already
        behind = _Behind()
        protocol.set_parser(behind)  # type: ignore[arg-type]  # it is only fed
        protocol.transport = None  # aiohttp lets go: no task, no timer, no parser is left of it
        member.take_over(transport)
        protocol.connection_lost(None)
        self._take_in(member, address, self.now_s())
        hello = Hello(
            gateway=self.settings.instance,
            generation=self.generation,
            heartbeat_s=self.settings.heartbeat_s,
            silence_s=VIEWER_SILENCE_S,
            user=member.user,
            pull=member.pull,
        )
        member.send_raw(answer + member.framed(encode_frame(hello)))
        if behind.data:
            member.data_received(behind.data)
        return HandedOver()

    def _admit(self, request: web.Request) -> tuple[str, tickets.User]:
        """Return from where who comes, or raise the refusal. Cheap checks first."""
        settings = self.settings
        address = subscriber(caller(request.remote, request.headers.get("X-Forwarded-For"), self._proxies))
        origin = request.headers.get("Origin")
        if origin is not None and settings.origins and not origin_allowed(origin, settings.origins):
            raise ProblemError(Code.ORIGIN, origin[:200])
        if len(self.members) >= settings.max_connections:
            raise ProblemError(Code.FULL, retry_after_s=1)
        if settings.max_per_address and self._by_address.get(address, 0) >= settings.max_per_address:
            raise ProblemError(Code.RATE_ADDRESS, "too many connections from this address", retry_after_s=10)
        now_ms = time.time_ns() // 1_000_000
        ticket = tickets.verify(request.query.get("ticket", ""), self._keys, tickets.ENTRY, now_ms)
        if (settings.instance, self.generation) not in ticket.gateways:
            raise ProblemError(Code.TICKET_INVALID, "the ticket is for other gateways, or for this one before it was restarted")
        if wait_s := self._joins_left.take(self.now_s()):
            raise ProblemError(Code.FULL, "too many come at once", retry_after_s=max(1.0, wait_s))
        return address, ticket.user

    def _take_in(self, member: Member, address: str, now_s: float) -> None:
        self.members[member] = None
        self.pullers[member.pull] = Puller(member.user, member.role, member.ticket_rooms)
        if self.settings.max_per_address:
            self._addresses[member] = address
            self._by_address[address] = self._by_address.get(address, 0) + 1
        self._wheel.put(member, now_s + min(TURN_S, self.settings.handshake_timeout_s))
        self._unfrozen += 1

    # ---- what members tell (edge.member.Gateway)
    def heard(self, member: Member, text: bytes) -> None:
        """Take what a viewer said."""
        try:
            frame = decode_client_frame(text)
        except BadFrameError:
            member.close(Close.BAD_FRAME)
            return
        match frame:
            case Join():
                self._join(member, frame)
            case Leave():
                if self.hub.leave(member, frame.room, self.now_s()):
                    member.send(encode_frame(Left(frame.room)))
                else:
                    _refuse(member, Code.NOT_IN_ROOM, frame.room)
            case Heartbeat():
                member.send(encode_frame(Beat(time.time_ns() // 1_000_000)))

    def leaving(self, member: Member) -> None:
        """Let a member that is ending take part in nothing; it has `CLOSE_TIMEOUT_S` to go by itself."""
        self.hub.drop(member, self.now_s())
        self._wheel.put(member, self.now_s() + CLOSE_TIMEOUT_S)

    def lost(self, member: Member) -> None:
        """Forget a member."""
        now_s = self.now_s()
        self.hub.drop(member, now_s)
        if self.members.pop(member, "gone") == "gone":
            return
        self.leaves += 1
        self._listeners.pop(member.pull, None)
        if not self.members:
            self._emptied.set()
        code = member.close_code
        counter = self._closes.get(code)
        (counter if counter is not None else self._other_closes["other" if code else "none"]).inc()
        until_s = now_s + self.settings.pull_for_s
        self.pullers[member.pull] = self.pullers[member.pull]._replace(until_s=until_s)
        self._former[member.pull] = until_s
        if len(self._former) > MAX_FORMER:
            del self.pullers[self._former.popitem(last=False)[0]]
        address = self._addresses.pop(member, None)
        if address is not None:
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]

    def overflowed(self) -> None:
        """Close the slowest viewers, largest first, when too much waits for all together."""
        cap = self.settings.max_unsent_total_bytes
        if self.unsent <= cap:
            return
        for member in sorted(self.backlogs, key=lambda member: member.unsent, reverse=True):
            if self.unsent <= cap * RELIEF:
                break
            member.close(Close.SLOW)

    # ---- joins
    def _refusal(self, member: Member, room: str) -> Code | None:
        """Return why a member may not enter a room."""
        if not ROOM_ID.match(room):
            return Code.ROOM_INVALID
        if member.ticket_rooms and room not in member.ticket_rooms:
            return Code.FORBIDDEN
        if len(member.rooms) >= MAX_ROOMS_PER_CONNECTION and room_hash(room) not in member.rooms:
            return Code.TOO_MANY_ROOMS
        if self.rules.settings(room).dissolved:
            return Code.ROOM_DISSOLVED
        return Code.BANNED if self.ban_of(member.user, member.role, room) is not None else None

    def ban_of(self, user: str, role: Role, room: str) -> Moderation | None:
        """Return the ban of a user from a room that holds."""
        return self.rules.banned(room, user, _now_ms()) if role not in UNTOUCHABLE else None

    def _join(self, member: Member, frame: Join) -> None:
        refusal = self._refusal(member, frame.room)
        if refusal is not None:
            self._joined["refused"].inc()
            _refuse(member, refusal, frame.room)
            return
        now_s = self.now_s()
        room = self.hub.knock(member, frame.room, now_s)
        self.joins += 1
        self._joined["joined"].inc()
        if frame.epoch is not None and frame.seq is not None and frame.rseq is not None:
            missed = room.missed(Position(frame.epoch, frame.seq, frame.rseq), member.form)
            self._resumed["ring" if missed is not None else "pull"].inc()
            if missed is not None:
                self._let_in(member, room, missed)
                return
        if member in room.members or room.has_fresh_card(now_s):
            self._welcome(member, room)
        elif room.wants_card(now_s):
            self.cards_wanted[room.name] = None

    def _welcome(self, member: InRooms, room: Room) -> None:
        self._let_in(member, room, room.greeting(self.now_s(), member.form))

    def _let_in(self, member: InRooms, room: Room, parts: Sequence[tuple[Frames, bool]]) -> None:
        """Push the room's batches from now on, after what comes before them; tell a mute that holds."""
        self.hub.enter(member, room)
        for frames, is_whole in parts:
            if frames.is_readable:
                member.replay(frames, is_whole=is_whole)
            else:  # it ended the connection of whoever deflates; this one sees a hole, and pulls
                self._bad.inc()
                log.warning("room_part_left_out", room=room.name, offset=frames.offset)
        mute = self.rules.muted(room.name, member.user, _now_ms())
        if mute is not None and member.role not in UNTOUCHABLE:
            member.send(_notice(Kind.MUTE, mute))

    # ---- putting out
    def on_rule(self, rule: Moderation) -> None:
        """Put out who is banned from now on."""
        if rule.kind is not RuleKind.BAN or not holds(rule, _now_ms()):
            return
        hash_ = room_hash(rule.room)
        for member in self.hub.devices(room_hash(rule.name)):
            if hash_ in member.rooms and member.role not in UNTOUCHABLE:
                member.send(_notice(Kind.BAN, rule))
                self._put_out(member, member.rooms[hash_], Code.BANNED, Close.BANNED)

    def kick(self, room: int, user: int) -> None:
        """Put out all devices of a user (hashes)."""
        for member in self.hub.devices(user):
            if room in member.rooms:
                self._put_out(member, member.rooms[room], Code.KICKED, Close.KICKED)

    def dissolve(self, room: Room) -> Iterator[None]:
        """Put everybody out of a room; yields between slices."""
        for number, member in enumerate([*room.members, *room.waiting], 1):
            if room.hash in member.rooms:
                self._put_out(member, room, Code.ROOM_DISSOLVED, Close.ROOM_DISSOLVED)
            if number % SLICE == 0:
                yield

    def _put_out(self, member: InRooms, room: Room, code: Code, close: Close) -> None:
        """Take a member out of a room, and end its connection where it is in no other."""
        self.hub.leave(member, room.name, self.now_s())
        member.send(encode_frame(Error(code.value, room=room.name)))
        if not member.rooms:
            member.close(close)

    def carded(self, rooms: Iterable[Room]) -> None:
        """Answer those who waited for the card of a room; give it to those who could not wait."""
        for room in rooms:
            card = room.read_card()
            if room.owed and card is not None:
                late = encode_frame(Carded(room.name, card))
                for owed in room.owed:
                    owed.send(late)
                room.owed.clear()
            for member in list(room.waiting):
                self._welcome(member, room)

    # ---- time
    def turn(self) -> None:
        """Look at the members whose time has come: who is silent, who must hear something, who takes too little."""
        now_s = self.now_s()
        beat = encode_frame(Beat(time.time_ns() // 1_000_000))
        for member in self._wheel.turn(now_s):
            self._look_at(member, now_s, beat)
        for room in self.hub.rooms.values():
            if (room.waiting or room.owed) and room.wants_card(now_s):
                self.cards_wanted[room.name] = None  # who came within a second of the last question found it asked already
        for waiting, room in waiting_too_long(self.hub.rooms.values(), now_s, CARD_WAIT_S):
            room.owed[waiting] = None
            self._welcome(waiting, room)
        for member in list(self.backlogs):
            since_s = member.waits_since()
            if since_s is not None and now_s - since_s > self.settings.max_unsent_s:
                member.close(Close.SLOW)
        while self._former:
            pull, until_s = next(iter(self._former.items()))
            if until_s > now_s:
                break
            del self._former[pull], self.pullers[pull]
        self.hub.forget_vacant(now_s)

    def _look_at(self, member: Member, now_s: float, beat: bytes) -> None:
        if member.transport is None:
            return
        if member.close_code:
            if now_s - member.closing_s >= CLOSE_TIMEOUT_S:
                member.abort()
            return
        silent_s = now_s - member.heard_s
        timeout_s = self.settings.handshake_timeout_s
        member.frames = 0
        if silent_s > self.settings.heartbeat_s * LATE_HEARTBEATS:
            member.close(Close.HEARTBEAT_LATE)
        elif not member.rooms and silent_s >= timeout_s:
            member.close(Close.HANDSHAKE_LATE)
        else:
            if member not in self.backlogs and all(now_s - room.pushed_s >= TURN_S for room in member.rooms.values()):
                member.send(beat)
            self._wheel.put(member, now_s + TURN_S if member.rooms else min(now_s + TURN_S, member.heard_s + timeout_s))

    async def keep_time(self, connections: Callable[[], Iterable[RequestHandler]]) -> None:
        """Turn the wheel, for ever. `connections`: those that are still aiohttp's, so have sent no whole request."""
        freeze_at = 0
        while True:
            await asyncio.sleep(TICK_S)
            self.turn()
            self._end_late_handshakes(connections())
            if self._unfrozen >= FREEZE_AFTER_JOINS and self.joins == freeze_at:  # the wave is over
                self._unfrozen = 0
                gc.collect(1)
                gc.freeze()  # members live long: a full collection need not look at them
            freeze_at = self.joins

    def _end_late_handshakes(self, connections: Iterable[RequestHandler]) -> None:
        """Close what has been connected for long without having become a member, unless it is being answered."""
        now_s = self.now_s()
        seen = {}
        for connection in connections:
            if connection in self.answering:
                continue
            since_s = seen[connection] = self._connected_s.get(connection, now_s)
            if now_s - since_s >= self.settings.handshake_timeout_s:
                connection.force_close()
        self._connected_s = seen

    # ---- moving viewers away
    async def drain(self) -> None:
        """Take nobody more, ask viewers in slices to move, end those who stay."""
        self.draining = True
        log.info("draining", viewers=len(self.members), over_s=self.settings.drain_s)
        members = list(self.members)
        per_slice = -(-len(members) // MOVE_SLICES) or 1
        move = encode_frame(Move("drain"))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.drain_s):
                for start in range(0, len(members), per_slice):
                    for member in members[start : start + per_slice]:
                        member.send(move)
                    await asyncio.sleep(self.settings.drain_s / 2 / MOVE_SLICES)
                await self._all_gone()
        for member in list(self.members):
            member.close(Close.SERVICE_RESTART)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._all_gone()
        for member in list(self.members):
            member.abort()

    async def _all_gone(self) -> None:
        if self.members:
            self._emptied.clear()
            await self._emptied.wait()

    def obey(self, order: Order) -> None:
        """Do what the pool asks. A later order takes the place of an earlier one."""
        if (order.gateway, order.generation) != (self.settings.instance, self.generation):
            return  # another gateway's, or this one's before it was restarted
        log.info("ordered", kind=order.kind.value, reason=order.reason, rate_per_s=order.rate_per_s)
        self.stop_moving()
        if order.kind is not OrderKind.SHED:
            self._asked.clear()
        match order.kind:
            case OrderKind.DRAIN:
                self.draining = True
                self._moving = asyncio.create_task(self.drain())
            case OrderKind.SHED:
                self.draining = False
                if order.rate_per_s > 0:
                    self._moving = asyncio.create_task(self.shed(order.rate_per_s))
            case OrderKind.RESUME:
                self.draining = False

    def stop_moving(self) -> None:
        """Move nobody any more; who was asked to may still go."""
        if self._moving is not None:
            self._moving.cancel()
            self._moving = None

    async def shed(self, rate_per_s: float) -> None:
        """Ask so many viewers a second to move, chosen at random, for `SHED_FOR_S`; end those who do not.

        The pool says it again while it is wanted: a leader that has died, or was paused, says nothing more.
        """
        asked, until_s = self._asked, self.now_s() + SHED_FOR_S
        move = encode_frame(Move("shed"))
        while asked or self.now_s() < until_s:
            await asyncio.sleep(1 / rate_per_s)
            now_s = self.now_s()
            staying = [member for member in self.members if member not in asked and not member.close_code]
            if staying and now_s < until_s:
                chosen = random.choice(staying)  # noqa: S311 - no secret
                chosen.send(move)
                asked[chosen] = now_s
            while asked:
                member, since_s = next(iter(asked.items()))
                if now_s - since_s < SHED_GRACE_S:
                    break
                del asked[member]
                member.close(Close.SHED)


def _not_listening() -> ProblemError:
    return ProblemError(Code.TOKEN_INVALID, "it takes the `pull` of a hello that came as an event, while that lasts")


def _event_stream(origin: str | None) -> bytes:
    """Return the head of an answer that goes on for ever. `origin`: of the page that may read it."""
    allow = f"Access-Control-Allow-Origin: {origin}\r\nVary: Origin\r\n" if origin else ""
    return (
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\nX-Accel-Buffering: no\r\n"
        f"Connection: close\r\n{allow}\r\n"
    ).encode()


def _notice(kind: Kind, rule: Moderation) -> bytes:
    return encode_frame(Notice(rule.room, kind, rule.id, rule.at_ms, rule.until_ms, rule.why))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _refuse(member: Member, code: Code, room: str) -> None:
    member.send(encode_frame(Error(code.value, room=room[:64])))
