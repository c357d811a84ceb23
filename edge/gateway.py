"""The members of a gateway: who is here, what they ask, which rooms they enter and leave, and who
is put out.

Owns the members, and who enters a room. Refuses a join with an error, and ends with a close code
who breaks the protocol, is banned or kicked, or is in the way of all others. `edge.upgrade` brings
members, `edge.keepalive` watches them, `edge.drain` moves them away; the hub knows the rooms.
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import structlog

from edge.hub import SLICE, Hub
from edge.member import CLOSE_TIMEOUT_S, TURN_S, Member, SseConnection
from edge.prepared_batch import PreparedBatch
from edge.pull_grants import PullGrant, PullGrants
from edge.room import Position, Room, Subscriber
from edge.send_queue import SendQueues
from edge.wheel import Wheel
from liveroom import clock, metric_catalog, topics
from liveroom.closecodes import TABLE, Close
from liveroom.errors import Code
from liveroom.kinds import UNTOUCHABLE, Kind, Role
from liveroom.moderation import Rules, holds
from liveroom.records.codec import BadRecord
from liveroom.records.control import Moderation, RuleKind
from liveroom.registry import Metrics
from liveroom.settings import EdgeSettings
from liveroom.topics import ROOM_ID, room_hash
from liveroom.wire import (
    MAX_ROOMS_PER_CONNECTION,
    BadFrameError,
    Beat,
    Carded,
    Error,
    Heartbeat,
    Join,
    Leave,
    Left,
    Notice,
    decode_client_frame,
    encode_frame,
)

TICK_S: Final = 0.25
WHEEL_SLOTS: Final = 64
log = structlog.get_logger()


class Gateway:
    """The members of one gateway. It hosts them (`edge.member.MemberHost`).

    `wheel`: when each member is to be looked at. `snapshots_wanted`: rooms whose owners are to be
    asked for a snapshot; who asks takes it out. `taken_in`, `joins`, `leaves`: how many so far.
    `draining`: nobody more is taken.
    """

    def __init__(self, settings: EdgeSettings, hub: Hub, rules: Rules, metrics: Metrics, generation: int) -> None:
        self.settings = settings
        self.hub = hub
        self.rules = rules
        self.generation = generation
        self.members: dict[Member, None] = {}
        self.sse_connections: dict[str, SseConnection] = {}
        self.queues: SendQueues[Member] = SendQueues(
            settings.slow_unsent_bytes, settings.max_unsent_bytes, settings.max_unsent_total_bytes, settings.max_unsent_s
        )
        self.wheel: Wheel[Member] = Wheel(TICK_S, WHEEL_SLOTS, clock.monotonic_s())
        self.grants = PullGrants()
        self.snapshots_wanted: dict[str, None] = {}
        self.taken_in = 0
        self.joins = 0
        self.leaves = 0
        self.draining = False
        self._by_address: dict[str, int] = {}
        self._addresses: dict[Member, str] = {}
        self._emptied = asyncio.Event()
        self._joined = {outcome: metrics.counter(metric_catalog.JOINS, outcome) for outcome in ("joined", "refused")}
        self._resumed = {outcome: metrics.counter(metric_catalog.RESUMES, outcome) for outcome in ("ring", "pull")}
        self._closes = {code: metrics.counter(metric_catalog.CLOSES, str(code)) for code in TABLE}
        self._other_closes = {name: metrics.counter(metric_catalog.CLOSES, name) for name in ("none", "other")}
        self._bad = metrics.counter(metric_catalog.BAD_RECORDS, topics.BROADCAST.name, BadRecord.UNHANDLED.value)

    # ---- who is here
    def connections_from(self, address: str) -> int:
        """Return how many members come from an address; counted only where that is limited."""
        return self._by_address.get(address, 0)

    def take_in(self, member: Member, address: str) -> None:
        """Take a new member."""
        self.members[member] = None
        self.taken_in += 1
        self.grants.grant(member.pull, PullGrant(member.user, member.role, member.ticket_rooms))
        if isinstance(member, SseConnection):
            self.sse_connections[member.pull] = member
        if self.settings.max_per_address:
            self._addresses[member] = address
            self._by_address[address] = self._by_address.get(address, 0) + 1
        self.wheel.put(member, clock.monotonic_s() + min(TURN_S, self.settings.handshake_timeout_s))

    async def all_gone(self) -> None:
        """Wait until nobody is here."""
        if self.members:
            self._emptied.clear()
            await self._emptied.wait()

    # ---- what members report (edge.member.MemberHost)
    def received(self, member: Member, text: bytes) -> None:
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
                if self.hub.leave(member, frame.room, clock.monotonic_s()):
                    member.send(encode_frame(Left(frame.room)))
                else:
                    _refuse(member, Code.NOT_IN_ROOM, frame.room)
            case Heartbeat():
                member.send(encode_frame(Beat(clock.unix_ms())))

    def ending(self, member: Member) -> None:
        """Let a member that is ending take part in nothing; it has `CLOSE_TIMEOUT_S` to go by
        itself.
        """
        self.hub.drop(member, clock.monotonic_s())
        self.wheel.put(member, clock.monotonic_s() + CLOSE_TIMEOUT_S)

    def lost(self, member: Member) -> None:
        """Forget a member."""
        now_s = clock.monotonic_s()
        self.hub.drop(member, now_s)
        if self.members.pop(member, "gone") == "gone":
            return
        self.leaves += 1
        self.sse_connections.pop(member.pull, None)
        if not self.members:
            self._emptied.set()
        code = member.close_code
        counter = self._closes.get(code)
        (counter if counter is not None else self._other_closes["other" if code else "none"]).inc()
        self.grants.end(member.pull, now_s + self.settings.pull_for_s)
        address = self._addresses.pop(member, None)
        if address is not None:
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]

    def relieve(self) -> None:
        """Close the slowest viewers, largest first, when too much waits for all together."""
        for member in self.queues.in_the_way():
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
        return self.rules.banned(room, user, clock.unix_ms()) if role not in UNTOUCHABLE else None

    def _join(self, member: Member, frame: Join) -> None:
        refusal = self._refusal(member, frame.room)
        if refusal is not None:
            self._joined["refused"].inc()
            _refuse(member, refusal, frame.room)
            return
        now_s = clock.monotonic_s()
        room = self.hub.add_pending(member, frame.room, now_s)
        self.joins += 1
        self._joined["joined"].inc()
        if frame.epoch is not None and frame.seq is not None and frame.rseq is not None:
            missed = room.missed(Position(frame.epoch, frame.seq, frame.rseq), member.form)
            self._resumed["ring" if missed is not None else "pull"].inc()
            if missed is not None:
                self._enter(member, room, missed)
                return
        if member in room.members or room.has_fresh_snapshot(now_s):
            self.let_in(member, room)
        else:
            self.want_snapshot(room, now_s)

    def want_snapshot(self, room: Room, now_s: float) -> None:
        """Have the owner of a room asked for its snapshot, unless that was done a moment ago."""
        if room.wants_snapshot(now_s):
            self.snapshots_wanted[room.name] = None

    def let_in(self, member: Subscriber, room: Room) -> None:
        """Let a member into a room, with the room's snapshot where that is fresh."""
        self._enter(member, room, room.greeting(clock.monotonic_s(), member.form))

    def _enter(self, member: Subscriber, room: Room, parts: Sequence[tuple[PreparedBatch, bool]]) -> None:
        """Push the room's batches from now on, after what comes before them; tell a mute that
        holds.
        """
        self.hub.enter(member, room)
        for prepared, is_whole in parts:
            if prepared.is_readable:
                member.replay(prepared, is_whole=is_whole)
            else:  # it ended the connection of whoever deflates; this one sees a hole, and pulls
                self._bad.inc()
                log.warning("room_part_left_out", room=room.name, offset=prepared.offset)
        mute = self.rules.muted(room.name, member.user, clock.unix_ms())
        if mute is not None and member.role not in UNTOUCHABLE:
            member.send(_notice(Kind.MUTE, mute))

    def on_snapshots(self, rooms: Iterable[Room]) -> None:
        """Let in who waited for the snapshot of a room; give it to those who could not wait."""
        for room in rooms:
            card = room.read_snapshot()
            if room.owed and card is not None:
                late = encode_frame(Carded(room.name, card))
                for owed in room.owed:
                    owed.send(late)
                room.owed.clear()
            for member in list(room.waiting):
                self.let_in(member, room)

    # ---- putting out
    def on_rule(self, rule: Moderation) -> None:
        """Put out who is banned from now on."""
        if rule.kind is not RuleKind.BAN or not holds(rule, clock.unix_ms()):
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

    def _put_out(self, member: Subscriber, room: Room, code: Code, close: Close) -> None:
        """Take a member out of a room, and end its connection where it is in no other."""
        self.hub.leave(member, room.name, clock.monotonic_s())
        member.send(encode_frame(Error(code.value, room=room.name)))
        if not member.rooms:
            member.close(close)


def _notice(kind: Kind, rule: Moderation) -> bytes:
    return encode_frame(Notice(rule.room, kind, rule.id, rule.at_ms, rule.until_ms, rule.why))


def _refuse(member: Member, code: Code, room: str) -> None:
    member.send(encode_frame(Error(code.value, room=room[:64])))
