"""Joins: who may enter a room, and what a member receives on entering.

Owns the decision, the wait for a room's snapshot, and the list of snapshots to ask for. Refuses a
join with an error frame. A member that says how far it has seen the room receives what it missed;
any other one waits up to `SNAPSHOT_WAIT_S` for a fresh snapshot. Called by `edge.gateway` for each
`join`, by `edge.fanout` when a snapshot arrives, and by `edge.keepalive` as time passes.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import structlog

from edge.bans import notice_of
from edge.hub import Hub
from edge.member import Member
from edge.prepared_batch import PreparedBatch
from edge.room import Position, Room, Subscriber
from liveroom import clock, metric_catalog, topics
from liveroom.errors import Code
from liveroom.kinds import Kind, Role
from liveroom.moderation import Rules, binds, refusal_by_modes
from liveroom.records.codec import BadRecord
from liveroom.registry import Metrics
from liveroom.topics import ROOM_ID, room_hash
from liveroom.wire import MAX_ROOMS_PER_CONNECTION, Carded, Error, Join, encode_frame

SNAPSHOT_WAIT_S: Final = 1.0
REFUSALS: Final = (
    Code.ROOM_INVALID,
    Code.FORBIDDEN,
    Code.TOO_MANY_ROOMS,
    Code.FULL,
    Code.ROOM_DISSOLVED,
    Code.BANNED,
)
log = structlog.get_logger()


class Refused(NamedTuple):
    """Why a user is refused: the code, and the reason in words."""

    code: Code
    why: str = ""


class Joins:
    """The joins of one gateway.

    `accepted`: how many so far. `snapshots_wanted`: the rooms whose owners must be asked for a
    snapshot; whoever asks takes them out.
    """

    def __init__(self, hub: Hub, rules: Rules, metrics: Metrics, max_user_rooms: int) -> None:
        self.accepted = 0
        self.snapshots_wanted: dict[str, None] = {}
        self._hub = hub
        self._rules = rules
        self._max_user_rooms = max_user_rooms
        self._joined = {outcome: metrics.counter(metric_catalog.JOINS, outcome) for outcome in ("joined", "refused")}
        self._refused = {code: metrics.counter(metric_catalog.JOINS_REFUSED, code.value) for code in REFUSALS}
        self._resumed = {outcome: metrics.counter(metric_catalog.RESUMES, outcome) for outcome in ("ring", "pull")}
        self._bad = metrics.counter(metric_catalog.BAD_RECORDS, topics.BROADCAST.name, BadRecord.UNHANDLED.value)

    # ---- who may enter
    def refusal_by_rules(self, user: str, role: Role, ticket_rooms: Sequence[str], room: str) -> Refused | None:
        """Return why a user may neither be in a room nor read it; None: the rules let it.

        `ticket_rooms`: the rooms that its ticket names; empty: it names none.
        """
        why = refusal_by_modes(self._rules.settings(room), room, role, ticket_rooms)
        if why is not None:
            return Refused(Code.FORBIDDEN, why)
        ban = self._rules.banned(room, user, clock.unix_ms())
        return Refused(Code.BANNED, ban.why) if ban is not None and binds(ban, role) else None

    def _refusal(self, member: Member, room: str) -> Refused | None:
        """Return why a member may not enter a room."""
        code = self._refusal_by_state(member, room)
        return Refused(code) if code is not None else self.refusal_by_rules(member.user, member.role, member.ticket_rooms, room)

    def _refusal_by_state(self, member: Member, room: str) -> Code | None:
        if not ROOM_ID.match(room):
            return Code.ROOM_INVALID
        if member.ticket_rooms and room not in member.ticket_rooms:
            return Code.FORBIDDEN
        if len(member.rooms) >= MAX_ROOMS_PER_CONNECTION and room_hash(room) not in member.rooms:
            return Code.TOO_MANY_ROOMS
        if not self._hub.may_enter(member.user_hash, room, self._max_user_rooms):
            return Code.TOO_MANY_ROOMS
        if not self._hub.has_space_for(room):
            return Code.FULL
        if self._rules.settings(room).dissolved:
            return Code.ROOM_DISSOLVED
        return None

    # ---- entering
    def join(self, member: Member, frame: Join) -> None:
        """Let a member enter a room, or send it the refusal."""
        refusal = self._refusal(member, frame.room)
        if refusal is not None:
            self._joined["refused"].inc()
            self._refused[refusal.code].inc()
            refuse(member, refusal.code, frame.room, refusal.why)
            return
        now_s = clock.monotonic_s()
        room = self._hub.add_pending(member, frame.room, now_s)
        self.accepted += 1
        self._joined["joined"].inc()
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


def refuse(member: Member, code: Code, room: str, why: str = "") -> None:
    """Send the refusal of a frame that names a room."""
    member.send(encode_frame(Error(code.value, why, room[:64])))
