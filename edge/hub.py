"""The rooms and users of a gateway, and the fan-out of a batch to them. Pure.

Owns the map of rooms to connections. Does no I/O: it hands finished frames to `Subscriber.push`. A
room exists while somebody is in it, and `LINGER_S` longer unless its place is needed. Rooms that
viewers invented take nothing from the rings of others, and make space for other rooms
(`edge.quiet_rooms`). Called by the fan-out (`deliver`), joins and bans.
"""

import heapq
from collections.abc import Generator, Iterable
from enum import StrEnum
from typing import Final, NamedTuple

from edge.prepared_batch import PreparedBatch
from edge.quiet_rooms import QuietRooms
from edge.room import RING_BYTES, Audience, NotSent, Room, Subscriber
from liveroom.kinds import Kind
from liveroom.records.broadcast import ROOM_ENTRY, Batch, RoomFlags
from liveroom.topics import room_hash

SLICE: Final = 1000  # pushes until the loop has its turn: 5 to 10 ms
LINGER_S: Final = 120.0
RINGS_BYTES: Final = 256 * 1024 * 1024  # of all rooms together that have content
QUIET_RING_BYTES: Final = 1024  # of a room without: it holds viewer counts only
MAX_ROOMS: Final = 20_000
MAX_QUIET_OF_ADDRESS: Final = 1000
_DEFLATED: Final = int(RoomFlags.DEFLATED)
_CLEAR: Final = int(RoomFlags.CLEAR)
_DISSOLVED: Final = int(RoomFlags.DISSOLVED)


class Delivered(NamedTuple):
    """The totals of one BATCH, and what the gateway must do after it.

    `wasted_bytes`: payloads of rooms that are not here. `with_snapshot`: rooms that got a snapshot.
    `dissolved`: rooms that it dissolves. `kicked`: the connections that it kicks, with their rooms.
    `failed`: rooms whose part could not be handled, with the error; other rooms are not affected.
    """

    rooms: int
    frames: int
    messages: int
    sent_bytes: int
    skipped: int
    wasted_bytes: int
    gaps: int
    with_snapshot: tuple[Room, ...] = ()
    dissolved: tuple[Room, ...] = ()
    kicked: tuple[tuple[Subscriber, Room], ...] = ()
    failed: tuple[tuple[Room, Exception], ...] = ()


class Space(StrEnum):
    """Why there is no space for a room."""

    ADDRESS = "address_rooms"
    GATEWAY = "gateway_rooms"


class Evicted(NamedTuple):
    """A room that made space for another, and the members that were in it."""

    room: Room
    members: list[Subscriber]


class _Places(NamedTuple):
    """Where a user with several connections is: these, and how many of them are in each room."""

    connections: dict[Subscriber, None]
    rooms: dict[int, int]


class Hub:
    """The rooms and users of one gateway.

    `changed`: rooms whose audience changed, with the users (hashes) who came (True) or left since
    the reporter took them out (`take_changes`). At most `max_rooms` rooms
    exist, and `max_quiet_of_address` watched quiet ones for each address (0: no such limit).
    """

    def __init__(self, max_rooms: int = MAX_ROOMS, max_quiet_of_address: int = MAX_QUIET_OF_ADDRESS) -> None:
        self._max_rooms = max_rooms
        self._max_quiet_of_address = max_quiet_of_address
        self._with_content = 0
        self.rooms: dict[int, Room] = {}
        self.changed: dict[str, dict[int, bool]] = {}
        self._vacant: dict[Room, None] = {}
        self._quiet = QuietRooms()
        self._by_user: dict[int, Subscriber | _Places] = {}  # most have one connection, which knows its rooms

    @property
    def users(self) -> int:
        """Return how many distinct users are in some room."""
        return len(self._by_user)

    @property
    def watched(self) -> int:
        """Return how many rooms have somebody in them."""
        return len(self.rooms) - len(self._vacant)

    @property
    def vacant(self) -> int:
        """Return how many rooms are kept that nobody is in any more."""
        return len(self._vacant)

    @property
    def quiet(self) -> int:
        """Return how many rooms are here in which nobody ever spoke, watched or not."""
        return len(self._quiet)

    def may_enter(self, user: int, name: str, most: int) -> bool:
        """Return whether a user (a hash) is in a room or in fewer than `most` rooms."""
        places = self._by_user.get(user)
        return places is None or len(places.rooms) < most or room_hash(name) in places.rooms

    def make_space(self, name: str, address: str, now_s: float) -> list[Evicted] | Space:
        """Make space for a room that somebody from an address joins; return what was evicted, or
        why there is no space.

        A room that is watched, or in which somebody spoke, needs no space. Where the address has
        its share of quiet rooms, one of those goes. Where the gateway has all its rooms, one that
        nobody is in goes, and else the emptiest quiet one. The caller reports to the members that
        they were put out.
        """
        room = self.rooms.get(room_hash(name))
        if room is not None and not (room.is_quiet and room.is_empty):
            return []
        evicted: list[Evicted] = []
        if address and 0 < self._max_quiet_of_address <= self._quiet.of(address):
            own = self._quiet.emptiest(now_s, address)
            if own is None:
                return Space.ADDRESS
            evicted.append(self._evict(own, now_s))
        if room is None and len(self.rooms) >= self._max_rooms:
            other = self._quiet.vacant() or next(iter(self._vacant), None) or self._quiet.emptiest(now_s)
            if other is None:
                return Space.GATEWAY
            evicted.append(self._evict(other, now_s))
        return evicted

    def audience(self, name: str) -> Audience:
        """Return how many watch a room."""
        room = self.rooms.get(room_hash(name))
        return room.audience() if room is not None else Audience(0, 0, 0)

    def take_changes(self, name: str) -> dict[int, bool]:
        """Return the users (hashes) who came into a room (True) or left it since the last call."""
        return self.changed.pop(name, {})

    def users_of(self, name: str) -> set[int]:
        """Return the users (hashes) in a room."""
        room = self.rooms.get(room_hash(name))
        return room.list_users() if room is not None else set()

    def hottest(self, count: int) -> list[tuple[str, int]]:
        """Return the `count` rooms with most connections, as (name, connections)."""
        counted = ((len(room.members) + len(room.waiting), room.name) for room in self.rooms.values())
        return [(name, connections) for connections, name in heapq.nlargest(count, counted) if connections]

    def connections_of(self, user: int) -> list[Subscriber]:
        """Return the connections of a user (a hash) that are in some room."""
        places = self._by_user.get(user)
        if places is None:
            return []
        return list(places.connections) if isinstance(places, _Places) else [places]

    # ---- who is where
    def add_pending(self, member: Subscriber, name: str, now_s: float) -> Room:
        """Let a member wait for a room: it counts as present and is pushed nothing.

        A member that is in the room already stays in it.
        """
        hash_ = room_hash(name)
        room = self.rooms.get(hash_)
        if room is None:
            room = self.rooms[hash_] = Room(name, hash_, now_s)
            self._quiet.opened(room)
        if hash_ in member.rooms:
            return room
        if room.is_empty:
            self._vacant.pop(room, None)
            room.opened_s = now_s
        room.waiting[member] = now_s
        member.rooms[hash_] = room
        if room.is_quiet:
            self._quiet.resized(room, room.size - 1)
        self._count_in(member, room)
        return room

    def enter(self, member: Subscriber, room: Room) -> None:
        """Push the room's batches, from the next one on, to a member that waits for it."""
        if room.waiting.pop(member, None) is not None:
            room.members[member] = None

    def leave(self, member: Subscriber, name: str, now_s: float) -> bool:
        """Take a member out of a room; return whether it was in it."""
        room = member.rooms.pop(room_hash(name), None)
        if room is None:
            return False
        room.members.pop(member, None)
        room.waiting.pop(member, None)
        room.owed.pop(member, None)
        if room.is_empty:
            room.left_s = now_s
            self._vacant[room] = None
        if room.is_quiet:
            self._quiet.resized(room, room.size + 1)
        self._count_out(member, room)
        return True

    def _count_in(self, member: Subscriber, room: Room) -> None:
        """Count a member, which has just come into a room, for its user."""
        places = self._by_user.get(member.user_hash)
        others = 0
        if places is None or places is member:
            self._by_user[member.user_hash] = member
        else:
            if not isinstance(places, _Places):
                places = self._by_user[member.user_hash] = _Places({places: None}, dict.fromkeys(places.rooms, 1))
            others = places.rooms.get(room.hash, 0)
            places.connections[member] = None
            places.rooms[room.hash] = others + 1
        self._note(room, member.user_hash, is_here=True, others=others)

    def _count_out(self, member: Subscriber, room: Room) -> None:
        """Count a member, which has just left a room, no more for its user."""
        places = self._by_user[member.user_hash]
        is_over = not member.rooms
        others = 0
        if isinstance(places, _Places):
            if is_over:
                del places.connections[member]
            others = places.rooms[room.hash] = places.rooms[room.hash] - 1
            if not others:
                del places.rooms[room.hash]
            is_over = not places.rooms
        if is_over:
            del self._by_user[member.user_hash]
        self._note(room, member.user_hash, is_here=False, others=others)

    def _note(self, room: Room, user: int, *, is_here: bool, others: int) -> None:
        """Note that a connection of a user came or left, beside `others` of that user in the room.

        Who comes and leaves again before anybody asks has not changed.
        """
        changed = self.changed.setdefault(room.name, {})
        if others:
            return
        room.users += 1 if is_here else -1
        if changed.pop(user, None) is None:
            changed[user] = is_here

    def drop(self, member: Subscriber, now_s: float) -> None:
        """Take a member out of all its rooms."""
        for room in list(member.rooms.values()):
            self.leave(member, room.name, now_s)

    def forget_vacant(self, now_s: float) -> None:
        """Forget the rooms that have been empty for `LINGER_S`."""
        for room in list(self._vacant):
            if now_s - room.left_s < LINGER_S:
                break
            self._forget(room)

    def _evict(self, room: Room, now_s: float) -> Evicted:
        members = [*room.members, *room.waiting]
        for member in members:
            self.leave(member, room.name, now_s)
        self._forget(room)
        return Evicted(room, members)

    def _forget(self, room: Room) -> None:
        self._with_content -= room.has_content
        if room.is_quiet:
            self._quiet.drop(room)
        del self._vacant[room], self.rooms[room.hash]

    # ---- what comes
    def deliver(self, batch: Batch, partition: int, offset: int, now_s: float) -> Generator[None, None, Delivered]:
        """Push every local room's part of a batch to its members; skip the parts of other rooms
        without touching their bytes.

        Yields between slices of `SLICE` pushes, so that a huge room does not block the loop, and
        returns the totals. To keep the order, the caller drives one batch to its end before the
        next one begins.
        """
        local = self.rooms
        body = batch.body
        pos = f"{partition}.{offset}"
        dissolved: list[Room] = []
        failed: list[tuple[Room, Exception]] = []
        start = rooms = frames_sent = messages_sent = sent_bytes = skipped = wasted = gaps = pushed = 0
        for hash_, first, last, rseq, messages, _, size, reliable_size, epoch, flags in ROOM_ENTRY.iter_unpack(batch.entries):
            end = start + size
            room = local.get(hash_)
            if room is None:
                wasted += size
                start = end
                continue
            prepared = PreparedBatch(
                bytes(body[start:end]),
                reliable_size,
                is_deflated=bool(flags & _DEFLATED),
                has_clear=bool(flags & _CLEAR),
                first=first,
                last=last,
                rseq=rseq,
                offset=offset,
                at_s=now_s,
            )
            start = end
            if flags & _DISSOLVED:
                dissolved.append(room)
            gaps += room.take(prepared, epoch, pos, self._ring_bytes(room, messages, last))
            rooms += 1
            frames_before = frames_sent
            members = list(room.members)
            try:
                if prepared.has_clear:
                    yield from room.clear(list(prepared.clears()))
                    members = [member for member in members if member in room.members]  # some may have left meanwhile
                for begin in range(0, len(members), SLICE):
                    part = members[begin : begin + SLICE]
                    if pushed + len(part) > SLICE:
                        yield
                        pushed = 0
                        part = [member for member in part if member in room.members]  # some may have left meanwhile
                    pushed += len(part)
                    pushes = _push(prepared, part)
                    frames_sent += pushes[0]
                    sent_bytes += pushes[1]
                    skipped += pushes[2]
            except Exception as error:  # noqa: BLE001 - a defect in one room's part must stay in that room
                room.pass_over(prepared)
                failed.append((room, error))
            messages_sent += messages * (frames_sent - frames_before)
        with_snapshot = self._take_snapshots(batch, pos, offset, now_s, failed) if batch.card_entries else ()
        kicked = self._notify(batch) if batch.notice_entries else ()
        return Delivered(
            rooms,
            frames_sent,
            messages_sent,
            sent_bytes,
            skipped,
            wasted,
            gaps,
            with_snapshot,
            tuple(dissolved),
            kicked,
            tuple(failed),
        )

    def _ring_bytes(self, room: Room, messages: int, last: int) -> int:
        """Return the size of a room's ring, as `messages` come up to the number `last`: rooms with
        content share it all.
        """
        if not room.has_content:
            if room.is_quiet and last:
                self._spoken_in(room)
            if not messages:
                return QUIET_RING_BYTES
            room.has_content = True
            self._with_content += 1
        return min(RING_BYTES, RINGS_BYTES // self._with_content)

    def _spoken_in(self, room: Room) -> None:
        """Note that somebody spoke in a room, at some time."""
        self._quiet.drop(room)
        room.is_quiet = False

    def _notify(self, batch: Batch) -> tuple[tuple[Subscriber, Room], ...]:
        """Send notices to their users' connections; return those that are kicked.

        A host gets no notice of a command that does not hold for it.
        """
        kicked: list[tuple[Subscriber, Room]] = []
        for notice in batch.notices():
            connections = [
                member for member in self.connections_of(notice.user) if notice.room == 0 or notice.room in member.rooms
            ]
            if not connections:
                continue
            head = notice.head
            for member in connections:
                if head is not None and not head.is_for(member.role):
                    continue
                member.send(notice.text)
                if head is not None and head.kind is Kind.KICK and notice.room in member.rooms:
                    kicked.append((member, member.rooms[notice.room]))
        return tuple(kicked)

    def _take_snapshots(
        self, batch: Batch, pos: str, offset: int, now_s: float, failed: list[tuple[Room, Exception]]
    ) -> tuple[Room, ...]:
        with_snapshot: list[Room] = []
        for entry, text in batch.cards():
            room = self.rooms.get(entry.room)
            if room is not None:
                try:
                    has_spoken = room.take_snapshot(text, pos, offset, now_s)
                except Exception as error:  # noqa: BLE001 - as in `deliver`
                    failed.append((room, error))
                else:
                    if room.is_quiet and has_spoken:
                        self._spoken_in(room)
                    with_snapshot.append(room)
        return tuple(with_snapshot)


def _push(prepared: PreparedBatch, members: Iterable[Subscriber]) -> tuple[int, int, int]:
    """Push a batch to members; return how many took it, the bytes sent, and how many skipped it."""
    sent = sent_bytes = skipped = 0
    for member in members:
        size = member.push(prepared)
        if size > 0:
            sent_bytes += size
            sent += 1
        elif size == NotSent.SKIPPED:
            skipped += 1
    return sent, sent_bytes, skipped
