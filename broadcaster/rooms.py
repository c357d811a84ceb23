"""The rooms of one partition: number, fold, pack. Pure.

Owns what the owner of a partition holds in memory and every number a viewer sees. Takes decoded uplink records and `now_ms`,
returns the rooms' parts of a BATCH. Called by the broadcaster's partition loop alone; refuses nothing (what it takes is
accepted already), but a kind that nobody may send straight counts as dead-lettered.
"""

from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from liveroom.bodies import Like, Sanction
from liveroom.kinds import CLASS_OF, Class, Kind, Outcome
from liveroom.records import (
    Balance,
    Item,
    NoticeEntry,
    PartitionState,
    RoomEntry,
    RoomFlags,
    RoomState,
    Seen,
    Uplink,
)
from liveroom.topics import room_hash
from liveroom.wire import BatchHeader, Message, Notice, encode_frame, encode_message, pack_payload

DEDUPE_MS: Final = 600_000
BEST_EFFORT_DEDUPE_MS: Final = 10_000
RECENT_MESSAGES: Final = 20
RECENT_RELIABLE: Final = 20
IDLE_MS: Final = 3_600_000

_like_decoder: Final = msgspec.json.Decoder(Like)
_sanction_decoder: Final = msgspec.json.Decoder(Sanction)


class BadBodyError(ValueError):
    """An interaction whose body its kind does not allow; nothing of its record was taken."""


class Packed(NamedTuple):
    """What one BATCH holds, and when the oldest interaction in it was accepted (0: none).

    `text_bytes`: the messages' lines as JSON; `packed_bytes`: the payloads made of them.
    """

    rooms: list[tuple[RoomEntry, bytes]]
    notices: list[tuple[NoticeEntry, bytes]]
    oldest_ms: int
    text_bytes: int
    packed_bytes: int


class SeenIds:
    """Ids of the last `window_ms`, forgotten as time goes on."""

    __slots__ = ("_at", "_order", "_window_ms")

    def __init__(self, window_ms: int, seen: Iterable[tuple[str, int]] = ()) -> None:
        self._window_ms = window_ms
        self._at = dict(seen)
        self._order = deque(self._at.items())

    def meet(self, key: str, now_ms: int) -> bool:
        """Remember `key`; say whether it was met within the window before."""
        order, since = self._order, now_ms - self._window_ms
        while order and order[0][1] <= since:
            old, _ = order.popleft()
            self._at.pop(old, None)
        if key in self._at:
            return True
        self._at[key] = now_ms
        order.append((key, now_ms))
        return False

    def items(self) -> Iterable[tuple[str, int]]:
        """Give (key, when), oldest first."""
        return self._at.items()


class Room:
    """One room: its lasting state, and what waits for the next batch."""

    __slots__ = (
        "best_effort",
        "first",
        "fresh",
        "likes_changed",
        "notices",
        "oldest_ms",
        "recent",
        "recent_reliable",
        "reliable",
        "seen",
        "skipped",
        "state",
        "viewers_changed",
    )

    def __init__(self, state: RoomState) -> None:
        self.state = state
        self.reliable: list[bytes] = []
        self.best_effort: list[bytes] = []
        self.first = state.seq + 1
        self.oldest_ms = 0
        self.skipped = 0
        self.likes_changed = False
        self.viewers_changed = False
        self.notices: list[tuple[NoticeEntry, bytes]] = []
        self.seen = SeenIds(DEDUPE_MS, ((f"{seen.user} {seen.id}", seen.at_ms) for seen in state.seen))
        self.fresh = SeenIds(BEST_EFFORT_DEDUPE_MS)
        self.recent: deque[bytes] = deque(state.recent, RECENT_MESSAGES)
        self.recent_reliable: deque[bytes] = deque(state.recent_reliable, RECENT_RELIABLE)

    @property
    def has_news(self) -> bool:
        """Whether there is something for everybody in the room."""
        return bool(self.reliable or self.best_effort or self.skipped or self.likes_changed or self.viewers_changed)

    def frozen(self, now_ms: int) -> RoomState:
        """Return the state as a snapshot holds it."""
        since = now_ms - DEDUPE_MS
        seen = [Seen(*_split(key), at) for key, at in self.seen.items() if at > since]
        return msgspec.structs.replace(
            self.state, seen=seen, recent=list(self.recent), recent_reliable=list(self.recent_reliable)
        )


class Rooms:
    """All rooms of a partition and the balance of what was taken.

    `new_epoch` is the `room_epoch` of rooms met for the first time: it differs after history was truly lost.
    """

    def __init__(self, new_epoch: int, state: PartitionState | None = None) -> None:
        self._new_epoch = new_epoch
        self.balance = state.balance if state is not None else Balance()
        self._rooms: dict[str, Room] = {room.room: Room(room) for room in state.rooms} if state is not None else {}
        self._dirty: dict[str, Room] = {}

    def __len__(self) -> int:
        return len(self._rooms)

    @property
    def is_dirty(self) -> bool:
        """Whether something waits for the next batch."""
        return bool(self._dirty)

    def take(self, record: Uplink, now_ms: int) -> None:
        """Take one uplink record, whole.

        Raises BadBodyError before anything changed when a body is not of its kind; the caller then puts it aside
        (`dead_letter`).
        """
        likes = sum(_likes(item) for item in record.items if item.kind is Kind.LIKE)
        notices = [_sanction(item) for item in record.items if CLASS_OF[item.kind] is Class.NOTICE]
        room = self._rooms.get(record.room) or self._open(record.room)
        state = room.state
        balance = self.balance
        count = len(record.items)
        balance.taken += count
        state.last_ms = now_ms
        # Reliable ids are kept for 10 minutes and across owners, best-effort ones briefly and here only: enough for a
        # sender that tries again after a 503.
        seen = room.seen if record.is_reliable() else room.fresh
        if seen.meet(f"{record.user} {record.id}", now_ms):
            balance.duplicate += count
            return
        self._dirty[record.room] = room
        if room.oldest_ms == 0 or record.at_ms < room.oldest_ms:
            room.oldest_ms = record.at_ms
        for index, item in enumerate(record.items):
            outcome = self._place(room, record, index, CLASS_OF[item.kind])
            setattr(balance, outcome.value, getattr(balance, outcome.value) + 1)
        room.notices += [_notice(record, kind, sanction) for kind, sanction in notices]
        if likes:
            state.likes += likes
            room.likes_changed = True

    def _place(self, room: Room, record: Uplink, index: int, belongs: Class) -> Outcome:
        if belongs is Class.FOLDED:
            return Outcome.FOLDED
        if belongs is Class.NOTICE:
            return Outcome.NOTICED
        state = room.state
        item = record.items[index]
        state.seq += 1
        state.messages += 1
        reliable = belongs is Class.RELIABLE
        if reliable:
            state.rseq += 1
        line = encode_message(
            Message(
                seq=state.seq,
                kind=item.kind,
                id=record.item_id(index),
                user=record.user,
                at=record.at_ms,
                rseq=state.rseq if reliable else 0,
                name=record.name,
                role=record.role,
                level=record.level,
                package=record.package,
                data=item.data,
            )
        )
        if reliable:
            room.reliable.append(line)
            room.recent_reliable.append(line)
            state.gifts += item.kind is Kind.GIFT
            if item.kind is Kind.ANNOUNCEMENT:
                state.announcement = line
        else:
            room.best_effort.append(line)
            room.recent.append(line)
        return Outcome.NUMBERED

    def dead_letter(self, items: int = 1) -> None:
        """Count a record that was put aside."""
        self.balance.taken += items
        self.balance.dead_lettered += items

    def _open(self, name: str) -> Room:
        room = self._rooms[name] = Room(RoomState(name, self._new_epoch))
        return room

    def pack(self, pos: str, now_ms: int, max_bytes: int) -> Packed:
        """Take what waits, of as many rooms as fit into `max_bytes` (at least one), as the rooms' parts of a BATCH."""
        packed: list[tuple[RoomEntry, bytes]] = []
        notices: list[tuple[NoticeEntry, bytes]] = []
        oldest_ms = size = text = 0
        for name in list(self._dirty):
            if packed and size >= max_bytes:
                break
            room = self._dirty.pop(name)
            if room.oldest_ms and (oldest_ms == 0 or room.oldest_ms < oldest_ms):
                oldest_ms = room.oldest_ms
            notices += room.notices
            if room.has_news:
                entry, payload, text_bytes = _pack_room(room, pos, now_ms)
                packed.append((entry, payload))
                size += len(payload)
                text += text_bytes
            _reset(room)
        return Packed(packed, notices, oldest_ms, text, size)

    def forget_idle(self, now_ms: int) -> int:
        """Forget rooms where nothing happened for an hour and no number is in use; return how many.

        A room with messages keeps its numbers: forgetting them would number anew under the old epoch.
        """
        idle = [
            n for n, r in self._rooms.items() if r.state.seq == 0 and not r.state.likes and r.state.last_ms < now_ms - IDLE_MS
        ]
        for name in idle:
            del self._rooms[name]
        return len(idle)

    def state(self, now_ms: int) -> PartitionState:
        """Return all that outlives this owner."""
        return PartitionState(1, msgspec.structs.replace(self.balance), [room.frozen(now_ms) for room in self._rooms.values()])


def _split(key: str) -> tuple[str, str]:
    user, _, id_ = key.partition(" ")
    return user, id_


def _likes(item: Item) -> int:
    try:
        return _like_decoder.decode(item.data).count
    except msgspec.DecodeError as error:
        raise BadBodyError(f"like: {error}") from None


def _sanction(item: Item) -> tuple[Kind, Sanction]:
    try:
        return item.kind, _sanction_decoder.decode(item.data)
    except msgspec.DecodeError as error:
        raise BadBodyError(f"{item.kind.value}: {error}") from None


def _notice(record: Uplink, kind: Kind, sanction: Sanction) -> tuple[NoticeEntry, bytes]:
    text = encode_frame(Notice(record.room, kind, record.id, record.at_ms, sanction.until_ms, sanction.why))
    return NoticeEntry(room_hash(record.room), room_hash(sanction.user), len(text)), text


def _pack_room(room: Room, pos: str, now_ms: int) -> tuple[RoomEntry, bytes, int]:
    state = room.state
    header = BatchHeader(
        room=state.room,
        epoch=state.epoch,
        seq=(room.first, state.seq),
        rseq=state.rseq,
        at=now_ms,
        pos=pos,
        skipped=room.skipped,
        likes=state.likes if room.likes_changed else None,
        viewers=(state.users, state.connections) if room.viewers_changed else None,
    )
    payload = pack_payload(header, room.reliable, room.best_effort)
    entry = RoomEntry(
        hash=room_hash(state.room),
        first=room.first,
        last=state.seq,
        rseq=state.rseq,
        messages=len(room.reliable) + len(room.best_effort),
        skipped=room.skipped,
        size=len(payload.data),
        reliable_size=payload.reliable_size,
        epoch=state.epoch,
        flags=RoomFlags.DEFLATED if payload.deflated else 0,
    )
    return entry, payload.data, _text_bytes((*room.reliable, *room.best_effort))


def _text_bytes(lines: Iterable[bytes]) -> int:
    return sum(map(len, lines))


def _reset(room: Room) -> None:
    room.reliable, room.best_effort, room.notices = [], [], []
    room.first = room.state.seq + 1
    room.oldest_ms = room.skipped = 0
    room.likes_changed = room.viewers_changed = False
