"""Joins: who may enter a room, and what a member receives on entering.

Owns the decision, the rates of joins, the wait for a room's snapshot, and the list of snapshots to
ask for. Refuses a join with an error frame. A member that reports how far it has seen the room
receives what it missed; any other one waits up to `SNAPSHOT_WAIT_S` for a fresh snapshot. Called by
`edge.gateway` for each `join`, by `edge.fanout` when a snapshot arrives, and by `edge.keepalive` as
time passes.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import structlog

from edge.bans import notice_of
from edge.hub import Evicted, Hub, Space
from edge.limits import DETAILS, Limit
from edge.member import Member
from edge.prepared_batch import PreparedBatch
from edge.room import Position, Room, Subscriber
from liveroom import clock, metric_catalog, topics
from liveroom.budgets import Rate, Rates
from liveroom.errors import OWN_WORDS, Code
from liveroom.kinds import Kind, Role
from liveroom.moderation import Rules, binds, refusal_by_modes
from liveroom.records.codec import BadRecord
from liveroom.refusals import RefusalLog
from liveroom.registry import Metrics
from liveroom.settings import EdgeSettings
from liveroom.topics import ROOM_ID, room_hash, valid_room
from liveroom.wire import MAX_ROOMS_PER_CONNECTION, Carded, Error, Join, encode_frame

SNAPSHOT_WAIT_S: Final = 1.0
SPACE_WAIT_S: Final = 1.0  # a gateway, an address or a user that has too many rooms may have one less after that
REPEATED_COST: Final = 4.0  # of a join of a room that the connection is in: it may bring the ring again
REFUSALS: Final = (
    Code.ROOM_INVALID,
    Code.FORBIDDEN,
    Code.RATE_USER,
    Code.RATE_ADDRESS,
    Code.TOO_MANY_ROOMS,
    Code.FULL,
    Code.ROOM_DISSOLVED,
    Code.BANNED,
)
log = structlog.get_logger()


class Refused(NamedTuple):
    """Why a user is refused: the code, and the reason in words.

    `until_ms`: when the ban ends (-1: never; 0: it is no ban). `limit`: the limit that refuses it;
    None: it is no matter of limits. `wait_s`: after so long the same join may succeed (None: nobody
    knows).
    """

    code: Code
    why: str = ""
    until_ms: int = 0
    limit: Limit | None = None
    wait_s: float | None = None

    @property
    def detail(self) -> str | None:
        """The reason as the log may show it: not a host's, which is a text for the user alone."""
        return self.why or None if self.code in OWN_WORDS else None


class Joins:
    """The joins of one gateway.

    `arrived`: how many connections have joined a room so far. `snapshots_wanted`: the rooms whose
    owners must be asked for a snapshot; whoever asks takes them out.
    """

    def __init__(self, hub: Hub, rules: Rules, metrics: Metrics, settings: EdgeSettings, refusals: RefusalLog) -> None:
        self.arrived = 0
        self.snapshots_wanted: dict[str, None] = {}
        self._hub = hub
        self._rules = rules
        self._refusal_log = refusals
        self._max_user_rooms = settings.max_user_rooms
        self._rates = Rates(
            connection=Rate(settings.connection_joins_per_s, settings.connection_joins_burst),
            user=Rate(settings.user_joins_per_s, settings.user_joins_burst),
            address=Rate(settings.address_joins_per_s, settings.address_joins_burst),
        )
        metrics.follow(metric_catalog.NAMES, self._rates.__len__, "joins")
        outcomes = ("joined", "repeated", "refused")
        self._joined = {outcome: metrics.counter(metric_catalog.JOINS, outcome) for outcome in outcomes}
        self._refused = {code: metrics.counter(metric_catalog.JOINS_REFUSED, code.value) for code in REFUSALS}
        self._limited = {limit: metrics.counter(metric_catalog.LIMITED, limit.value) for limit in Limit}
        self._evicted = {reason: metrics.counter(metric_catalog.ROOMS_EVICTED, reason) for reason in ("vacant", "quiet")}
        self._resumed = {outcome: metrics.counter(metric_catalog.RESUMES, outcome) for outcome in ("ring", "pull")}
        self._bad = metrics.counter(metric_catalog.BAD_RECORDS, topics.BROADCAST.name, BadRecord.UNHANDLED.value)

    # ---- who may enter
    def refusal_by_rules(self, user: str, role: Role, named_rooms: Sequence[str], room: str) -> Refused | None:
        """Return why a user may neither be in a room nor read it; None: the rules let it.

        `named_rooms`: the rooms that its token names, as far as the ticket states it.
        """
        why = refusal_by_modes(self._rules.settings(room), room, role, named_rooms)
        if why is not None:
            return Refused(Code.FORBIDDEN, why)
        ban = self._rules.banned(room, user, clock.unix_ms())
        return Refused(Code.BANNED, ban.why, ban.until_ms) if ban is not None and binds(ban, role) else None

    def _refusal(self, member: Member, room: str, now_s: float) -> Refused | None:
        """Return why a member may not enter a room, or make space for the room and return None.

        Every join that is not too fast is taken out of the budgets, so that a refused one is no
        free question.
        """
        is_repeated = room_hash(room) in member.rooms
        if (spent := self._rates.take(member.caller, now_s, REPEATED_COST if is_repeated else 1.0)) is not None:
            return _over(Limit(f"{spent.scope}_joins"), spent.code, spent.wait_s)
        if not ROOM_ID.match(room):
            return Refused(Code.ROOM_INVALID)
        if member.ticket_rooms and room not in member.ticket_rooms:
            return Refused(Code.FORBIDDEN)
        if self._rules.settings(room).dissolved:
            return Refused(Code.ROOM_DISSOLVED)
        if (refused := self.refusal_by_rules(member.user, member.role, member.named_rooms, room)) is not None:
            return refused
        if len(member.rooms) >= MAX_ROOMS_PER_CONNECTION and not is_repeated:
            return _over(Limit.CONNECTION_ROOMS, Code.TOO_MANY_ROOMS)
        if not self._hub.may_enter(member.user_hash, room, self._max_user_rooms):
            return _over(Limit.USER_ROOMS, Code.TOO_MANY_ROOMS, SPACE_WAIT_S)
        space = self._hub.make_space(room, member.address, now_s)
        if isinstance(space, Space):
            return _over(Limit(space.value), Code.FULL if space is Space.GATEWAY else Code.RATE_ADDRESS, SPACE_WAIT_S)
        for evicted in space:
            self._put_out(evicted)
        return None

    def _put_out(self, evicted: Evicted) -> None:
        """Report to the members of a room that it made space for another one."""
        self._evicted["quiet" if evicted.members else "vacant"].inc()
        refused = _over(Limit.GATEWAY_ROOMS, Code.FULL, SPACE_WAIT_S)
        for member in evicted.members:
            self._refusal_log.put_out(refused.code, member.request_id, room=evicted.room.name, user=member.user)
            member.send(_error(evicted.room.name, refused, member))

    # ---- entering
    def join(self, member: Member, frame: Join) -> None:
        """Let a member enter a room, or send it the refusal."""
        now_s = clock.monotonic_s()
        refusal = self._refusal(member, frame.room, now_s)
        if refusal is not None:
            self._joined["refused"].inc()
            self._refused[refusal.code].inc()
            if refusal.limit is not None:
                self._limited[refusal.limit].inc()
            self._refusal_log.refused(
                refusal.code, "join", member.request_id, room=valid_room(frame.room), user=member.user, detail=refusal.detail
            )
            member.send(_error(frame.room, refusal, member))
            return
        self._joined["repeated" if room_hash(frame.room) in member.rooms else "joined"].inc()
        room = self._hub.add_pending(member, frame.room, now_s)
        if not member.has_joined:
            member.has_joined = True
            self.arrived += 1
        if frame.epoch is not None and frame.seq is not None and frame.rseq is not None:
            missed = room.missed(Position(frame.epoch, frame.seq, frame.rseq), member.form)
            self._resumed["ring" if missed is not None else "pull"].inc()
            if missed is not None:
                self._enter(member, room, missed)
                return
        if member in room.members or room.has_fresh_snapshot(now_s):
            self._greet(member, room)
        else:
            self._want_snapshot(room, now_s)

    def _greet(self, member: Subscriber, room: Room) -> None:
        """Let a member enter with the room's snapshot, where that is fresh."""
        self._enter(member, room, room.greeting(clock.monotonic_s(), member.form))

    def _enter(self, member: Subscriber, room: Room, parts: Sequence[tuple[PreparedBatch, bool]]) -> None:
        """Push the room's batches from now on, after `parts`; repeat the notice of a mute that
        holds.
        """
        self._hub.enter(member, room)
        for prepared, is_whole in parts:
            if prepared.is_readable:
                member.replay(prepared, is_whole=is_whole)
            else:  # it ended the connection of whoever deflates; this one sees a hole, and pulls
                self._bad.inc()
                log.warning("room_part_left_out", room=room.name, offset=prepared.offset)
        mute = self._rules.muted(room.name, member.user, clock.unix_ms())
        if mute is not None and binds(mute, member.role):
            member.send(notice_of(Kind.MUTE, mute))

    # ---- snapshots
    def _want_snapshot(self, room: Room, now_s: float) -> None:
        """Have the owner of a room asked for its snapshot, unless that was done a moment ago."""
        if room.wants_snapshot(now_s):
            self.snapshots_wanted[room.name] = None

    def on_snapshots(self, rooms: Iterable[Room]) -> None:
        """Let the members enter who wait for the snapshots that arrived; send it to those who could
        not wait.
        """
        for room in rooms:
            card = room.read_snapshot()
            if room.owed and card is not None:
                late = encode_frame(Carded(room.name, card))
                for owed in room.owed:
                    owed.send(late)
                room.owed.clear()
            for member in list(room.waiting):
                self._greet(member, room)

    def end_waits(self, now_s: float) -> None:
        """Let the members enter who have waited for `SNAPSHOT_WAIT_S`; ask again for snapshots that
        are still missing.
        """
        late: list[tuple[Subscriber, Room]] = []
        for room in self._hub.rooms.values():
            if room.waiting or room.owed:
                self._want_snapshot(room, now_s)  # it may have been asked for just before the last member came
                late += [(member, room) for member, since_s in room.waiting.items() if now_s - since_s >= SNAPSHOT_WAIT_S]
        for member, room in late:
            if member in room.waiting:  # a greeting may end another member, where too much waits for all
                room.owed[member] = None
                self._greet(member, room)


def _over(limit: Limit, code: Code, wait_s: float | None = None) -> Refused:
    return Refused(code, DETAILS[limit], limit=limit, wait_s=wait_s)


def _error(room: str, refused: Refused, member: Subscriber) -> bytes:
    """Return the frame that refuses a join, or that puts a member out of a room."""
    wait_s = round(refused.wait_s, 3) if refused.wait_s is not None else None
    return encode_frame(
        Error(refused.code.value, refused.why, room[:64], wait_s, refused.until_ms, request_id=member.request_id)
    )
