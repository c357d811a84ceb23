"""The rooms of one partition: takes records of the uplink and returns the BATCH made of them. Pure.

Owns all that the owner of a partition holds in memory, and its balance. Takes decoded uplink
records with their offsets and Kafka's time of each, never the wall clock: numbers must not depend
on it. A room in a snapshot stays packed until it is needed. Nothing lasts of a room in which nobody
ever spoke (`broadcaster.silent_rooms`), and rooms of each kind have a cap. Refuses a record whose
body its kind does not allow (`BadBodyError`). Called by `broadcaster.partition` and
`broadcaster.restored_rooms`.

One BATCH is one step of the partition: it holds everything that was taken before `Rooms.pack`. So
the caller stops taking when `Rooms.is_full`, which keeps every BATCH below the size of a record.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from itertools import islice
from operator import attrgetter
from typing import Final, NamedTuple

import msgspec

from broadcaster.dedupe import BEST_EFFORT_DEDUPE_MS, DEDUPE_MS, RecentIds
from broadcaster.items import (
    ONE_DANMAKU,
    Contents,
    check_danmaku,
    clear_of,
    is_long_remembered,
    near_clears,
    notice_of,
    read_items,
    with_item,
)
from broadcaster.room import Part, Room, Unpacked, unpack
from broadcaster.silent_rooms import SilentRooms
from liveroom.audience import GATEWAY_SILENCE_S, NOBODY, Viewers
from liveroom.bodies import Sanction
from liveroom.far_times import AHEAD_MS, BEHIND_MS
from liveroom.kinds import Kind
from liveroom.records.balance import Balance
from liveroom.records.broadcast import Batch, CardEntry, NoticeEntry, RoomEntry, RoomFlags
from liveroom.records.codec import AnotherVersionError, BadRecord, BadRecordError, refuse_foreign
from liveroom.records.control import PRESENCE_INTERVAL_S
from liveroom.records.sections import Section
from liveroom.records.snapshot import PartitionState, RoomState, StoredRoom, decode_room, encode_room
from liveroom.records.uplink import Uplink
from liveroom.topics import BROADCAST, room_hash

# The largest BATCH, in bytes, of the 921,600 that a record of `broadcast` may have:
#
#   458,752  are taken at most (`MAX_TAKEN_BYTES`) before the last record
#   239,800  that record: 64 bans, each a ban, a notice and a `clear`. Each of these 192 lines has
#            LINE_BYTES + 64 (id) + 192 (user) + 64 (package) + ESCAPED_BYTES * 64 (name) = 912;
#            and the bodies have at most the 64,700 that the record has beside these names
#   196,608  EXTRA_BYTES, of which a card and ROOM_BYTES of it take at most 164,240
#   -------
#   895,160
#
# So MAX_TAKEN_BYTES leaves 26,000 for the head. A user id needs no escape (`liveroom.users`).
# tests/broadcaster/test_rooms.py builds such batches.
MAX_TAKEN_BYTES: Final = 448 * 1024
_DATA: Final = attrgetter("data")
LINE_BYTES: Final = 208  # at most what a message's line has beside its data and its sender's texts: names of fields, numbers
ESCAPED_BYTES: Final = 6  # at most what a character takes in JSON
ROOM_BYTES: Final = 400  # at most a room's directory entry and header
MAX_ALLOWANCES: Final = 1000  # rooms at their limit that a BATCH names, 12 bytes each: of the 26,000
EXTRA_BYTES: Final = 192 * 1024  # for viewer counts and cards; a card is smaller than this
IDLE_MS: Final = 3_600_000
OPEN_MS: Final = 120_000
ACTIVE_MS: Final = 1000
MAX_ROOMS: Final = 5_000  # open ones, and silent ones
PACKED_PER_ROOM: Final = 20  # so many times as many may be packed
FORGET_STEP: Final = 500  # rooms at once: their epochs may have to be unpacked
FORGET_AMONG: Final = 4 * FORGET_STEP
AUDIENCE_KNOWN_MS: Final = int(1000 * (PRESENCE_INTERVAL_S + GATEWAY_SILENCE_S))  # all gateways have reported by then
_U32: Final = 0xFFFFFFFF


class LostRoom(NamedTuple):
    """A room that begins again without its history, and why.

    `name` is empty for an entry of a BATCH whose room is not known.
    """

    name: str
    why: str


class RoomLimit(Enum):
    """Why a room was forgotten early, or never opened, so that rooms stay within their caps."""

    SILENT_FORGOTTEN = "silent_forgotten"
    SILENT_REFUSED = "silent_refused"
    FORGOTTEN = "forgotten"


class Unfit(NamedTuple):
    """A record that was taken and cannot be packed, even by a room without history.

    It becomes a dead letter, and its id is forgotten.
    """

    offset: int
    record: Uplink
    why: str


class Packed(NamedTuple):
    """The parts of one BATCH.

    `oldest_ms` is the Unix time at which its oldest interaction was accepted, 0 where it holds
    none. `text_bytes` counts the messages' lines as JSON, `packed_bytes` the payloads made of them.
    `unfit` must become dead letters before the BATCH is written.
    """

    rooms: list[tuple[RoomEntry, bytes]]
    notices: list[tuple[NoticeEntry, bytes]]
    cards: list[tuple[CardEntry, bytes]]
    oldest_ms: int
    text_bytes: int
    packed_bytes: int
    unfit: Sequence[Unfit] = ()

    def __bool__(self) -> bool:
        return bool(self.rooms or self.notices or self.cards)


NOTHING: Final = Packed([], [], [], 0, 0, 0)


class Rooms:
    """All rooms of a partition and the balance of what was taken.

    `balance` is that of the last `pack`: what was taken since is not in it. `belongs` returns
    whether a room is of this partition; records of others are refused. `lost`: rooms that lost
    their history, and why; the caller empties it.

    A room's epoch is the second in which it was opened, and never below one that viewers know of
    it, whatever clocks do. For that the floor of new epochs is above the epochs of all rooms that
    were forgotten, and it is in the snapshot; a BATCH names a new epoch before any card does.
    `epoch_floor` is above all epochs given before a loss of history.

    At most about `max_rooms` rooms are open: beyond that those without a recent message are packed.
    At most `PACKED_PER_ROOM` times as many are packed: beyond that small ones are forgotten
    before their time, of those that hold nothing but chatter (`StoredRoom.is_chatter`). At most
    `max_rooms` more are silent: nobody ever spoke in them. Beyond that the longest vacant is
    forgotten. Where all have viewers no more is opened until one leaves. Nobody counts as gone
    before all gateways have reported. `limited` counts what that did; the caller empties it.

    `far_times` counts records whose own time was too far from Kafka's; the caller sets it to 0.

    Whatever is wrong with one room stays in it: it loses its history and begins again, and no other
    room notices.
    """

    def __init__(
        self,
        state: PartitionState | None = None,
        *,
        dedupe_ms: int = DEDUPE_MS,
        limit_per_s: int = 1000,
        epoch_floor: int = 1,
        belongs: Callable[[str], bool] = lambda _: True,
        max_rooms: int = MAX_ROOMS,
    ) -> None:
        self.balance = msgspec.structs.replace(state.balance) if state is not None else Balance()
        self.clock_ms = state.clock_ms if state is not None else 0
        self._coming = msgspec.structs.replace(self.balance)
        self._dedupe_ms = dedupe_ms
        self._limit_per_s = limit_per_s
        self._epoch_floor = max(epoch_floor, state.epoch_floor) if state is not None else epoch_floor
        self._belongs = belongs
        self._max_rooms = max_rooms
        self.lost: list[LostRoom] = []
        self.limited: Counter[RoomLimit] = Counter()
        self.far_times = 0
        self._stored: dict[str, StoredRoom] = {room.room: room for room in state.rooms} if state is not None else {}
        self._silent = SilentRooms(max_rooms, (name for name, stored in self._stored.items() if not stored.last_ms))
        self._open: dict[str, Room] = {}
        self._changed: dict[str, None] = {}
        self._begin_again: set[int] = set()
        self._waiting: list[Room] = []
        self._viewers: dict[str, Viewers] = {}
        self._unpublished: dict[str, None] = {}
        self._refused: dict[str, None] = {}  # watched, and without a place among the silent rooms
        self._audience_asked_ms: int | None = None
        self._is_audience_known = False
        self._cards: dict[str, None] = {}
        self._shown_now: set[str] = set()  # opened for the coming batch, maybe silent
        self._taken_bytes = 0
        self._recent = RecentIds(BEST_EFFORT_DEDUPE_MS)
        self._limited: dict[str, None] = {}
        self._restored: dict[int, int] = {}
        self._restored_ms = 0
        self._others: tuple[Section, ...] = state.others if state is not None else ()

    def __len__(self) -> int:
        return len(self._stored) + sum(name not in self._stored for rooms in (self._open, self._silent) for name in rooms)

    @property
    def remembered(self) -> int:
        """How many ids of best-effort interactions are remembered."""
        return len(self._recent)

    @property
    def silent(self) -> int:
        """How many rooms are kept in which nobody ever spoke."""
        return len(self._silent)

    # ---- in
    @property
    def is_full(self) -> bool:
        """Whether nothing more may be taken before the next `pack`."""
        return self._taken_bytes >= MAX_TAKEN_BYTES

    @property
    def has_news(self) -> bool:
        """Whether a `pack` now would hold something."""
        return bool(self._waiting or self._unpublished or self._cards)

    def take(self, record: Uplink, offset: int, at_ms: int) -> None:
        """Take one uplink record, whole. `at_ms` is Kafka's time of it, in Unix milliseconds.

        Where the record's own time is too far from Kafka's, Kafka's is taken, for all to see.
        Raises BadBodyError where its kind does not allow a body, BadRecordError where the room is
        of another partition or the id named another interaction before, all before anything
        changed. The caller then makes it a dead letter and calls `dead_letter`. Must not be called
        once `is_full`.
        """
        if not -AHEAD_MS <= at_ms - record.at_ms <= BEHIND_MS:  # `far_times.is_far`, without its call
            record = msgspec.structs.replace(record, at_ms=at_ms)
            self.far_times += 1
        name, items = record.room, record.items
        count = len(items)
        # Nearly every record is one danmaku, so nothing is called for it that can be left out.
        is_usual = count == 1 and items[0].kind is Kind.DANMAKU
        contents = ONE_DANMAKU
        if is_usual:
            check_danmaku(items[0])
        else:
            record, contents = self._read(record, at_ms)
        _, numbered, reliable, sanctions, _, _ = contents
        room = self._open.get(name) or self._taken_in(name, at_ms)
        notices = _notices_of(record, room, sanctions) if sanctions else ()
        is_duplicate = (
            self._recent.meet(name, record.user, record.id, at_ms)
            if is_usual
            else self._is_duplicate(room, record, contents, at_ms)
        )
        if at_ms > self.clock_ms:  # noqa: PLR1730 - a call of max takes as long as the whole line below
            self.clock_ms = at_ms
        room.clock_ms = at_ms
        coming = self._coming
        coming.taken += count
        if is_duplicate:
            coming.duplicate += count
            self._changed[name] = None
            return
        if room.has_cleared and _is_hidden(room, record, contents):
            coming.skipped += count
            self._changed[name] = None
            return
        if not room.is_waiting:
            self._let_wait(room)
            self._taken_bytes += ROOM_BYTES
        if not 0 < room.oldest_ms <= record.at_ms:  # 0: nothing waits yet
            room.oldest_ms = record.at_ms
        line = LINE_BYTES + len(record.id) + len(record.user) + len(record.package) + ESCAPED_BYTES * len(record.name)
        if numbered:
            room.wait(offset, record, numbered, may_go=not reliable)
        if is_usual:
            self._taken_bytes += line + len(items[0].data)
        else:
            self._taken_bytes += (count + 2 * len(sanctions)) * line + sum(map(len, map(_DATA, record.items)))
            room.notices = (*room.notices, *notices)
            self._take_effects(room, record, offset, contents)

    def _read(self, record: Uplink, at_ms: int) -> tuple[Uplink, Contents]:
        """Return a record, with no clear that hides what is still to come, and its contents."""
        contents = read_items(record.items)
        if contents.clears and (near := near_clears(record, at_ms)) is not None:
            self.far_times += 1
            return near, read_items(near.items)
        return record, contents

    def _is_duplicate(self, room: Room, record: Uplink, contents: Contents, at_ms: int) -> bool:
        """Remember a record's id; return whether it was met before.

        Raises BadRecordError where it was met with another content.
        """
        if contents.reliable or contents.sanctions:
            before, digest = room.seen.meet(f"{record.user} {record.id}", at_ms, contents.digest), contents.digest
            if before and digest and before != digest:
                raise BadRecordError(BadRecord.ID_REUSED, f"'{record.user}' sent '{record.id}' before, with another content")
            return before is not None
        return self._recent.meet(record.room, record.user, record.id, at_ms)

    def _take_effects(self, room: Room, record: Uplink, offset: int, contents: Contents) -> None:
        """Take likes and sanctions, and remember whose messages are cleared before they arrive."""
        coming = self._coming
        if contents.likes:
            room.like(contents.likes)
            coming.folded += len(record.items) - contents.numbered - len(contents.sanctions)
        for clear in contents.clears:
            room.hide(clear.user, clear.before_ms)
        for kind, sanction in contents.sanctions:
            coming.noticed += 1
            if kind is Kind.BAN:
                clear = clear_of(record, sanction.user)
                room.hide(clear.user, clear.before_ms)
                room.wait(offset, with_item(record, Kind.CLEAR, clear), 1, may_go=False)
                coming.numbered -= 1  # it comes with the ban, which is counted: the message is no item of its own

    def _let_wait(self, room: Room) -> None:
        """Let a room's part be in the next batch."""
        room.is_waiting = True
        self._waiting.append(room)

    def dead_letter(self, items: int = 1) -> None:
        """Count a record that became a dead letter instead of being taken."""
        self._coming.taken += items
        self._coming.dead_lettered += items

    def watch(self, name: str, viewers: Viewers) -> None:
        """Put a room's viewer sums into its next batch; they hold until they are set again."""
        is_watched = viewers.connections > 0
        if is_watched:
            self._viewers[name] = viewers
        else:
            self._viewers.pop(name, None)
            self._refused.pop(name, None)
        self._silent.watch(name, is_watched=is_watched)
        if is_watched or self._has(name):
            self._unpublished[name] = None
        else:
            self._unpublished.pop(name, None)

    def want_card(self, name: str) -> None:
        """Put a room's card into one of the next batches, unless too many wait for that.

        A gateway asks again.
        """
        if len(self._cards) < self._max_rooms:
            self._cards[name] = None

    # ---- out
    def pack(self, pos: str, now_ms: int) -> Packed:
        """Number all that was taken and return it as the parts of one BATCH.

        As many viewer sums and cards as fit go with it. `pos` is the newest acknowledged position
        of the partition, `now_ms` Unix time for the headers.
        """
        packed: list[tuple[RoomEntry, bytes]] = []
        notices: list[tuple[NoticeEntry, bytes]] = []
        unfit: list[Unfit] = []
        oldest_ms = text = 0
        for room in self._waiting:  # not when they began to wait: a snapshot may have been made since
            self._changed[room.state.room] = None
        extra = self._let_audiences_wait(now_ms)
        extra += self._let_new_epochs_wait(now_ms, EXTRA_BYTES // 2 - extra)
        coming = self._coming
        for room in self._waiting:
            if room.oldest_ms and (oldest_ms == 0 or room.oldest_ms < oldest_ms):
                oldest_ms = room.oldest_ms
            notices += room.notices
            if (room.has_news or not room.is_told) and (part := self._pack_room(room, pos, now_ms, unfit)) is not None:
                packed.append((part.entry, part.payload))
                text += part.text_bytes
                coming.numbered += part.entry.messages
                coming.folded += part.folded
                coming.skipped += part.entry.skipped
                if part.entry.skipped:
                    self._limited[room.state.room] = None
            room.packed()
        if unfit:
            self._forget_ids(unfit)
        done, self._waiting = self._waiting, []
        self._taken_bytes = 0
        self.balance = msgspec.structs.replace(coming)
        size = sum(len(payload) for _, payload in packed)
        cards = self._pack_cards(EXTRA_BYTES - extra, now_ms)
        for room in done:
            self._lay_down_silent(room)
        self._shown_now.clear()
        self._begin_again.clear()  # they matter to batches that are applied, and no more are
        self._pack_away()
        return Packed(packed, notices, cards, oldest_ms, text, size, unfit)

    def _let_audiences_wait(self, now_ms: int) -> int:
        """Let as many viewer sums as fit be in the next batch; return the bytes that they take."""
        extra = 0
        for name in list(self._unpublished):
            if extra > EXTRA_BYTES // 2:
                break
            del self._unpublished[name]
            if (room := self._shown(name, now_ms)) is None:
                continue
            if not room.is_waiting:
                self._let_wait(room)
                extra += ROOM_BYTES
            room.watch(self._viewers.get(name, NOBODY))
        return extra

    def _let_new_epochs_wait(self, now_ms: int, max_bytes: int) -> int:
        """Let rooms be in the next batch whose cards are wanted and whose epochs none has named.

        An owner that dies would otherwise leave viewers with an epoch that the next one cannot
        know. Returns the bytes that they take.
        """
        extra = 0
        for name in list(self._cards):
            if extra > max_bytes:
                break
            room = self._open.get(name) if self._has(name) else self._shown(name, now_ms)
            if room is not None and not (room.is_told or room.is_waiting):
                self._let_wait(room)
                extra += ROOM_BYTES
        return extra

    def allowances(self) -> dict[int, int]:
        """Return how many messages each room at its limit may number at once, by the room's hash.

        It is for the next owner, who cannot know it from the messages.
        """
        found: dict[int, int] = {}
        for name in list(self._limited)[:MAX_ALLOWANCES]:
            room = self._open.get(name)
            left = room.allowance(self.clock_ms, self._limit_per_s) if room is not None else None
            if room is None or left is None:
                del self._limited[name]
            else:
                found[room.hash] = left
        return found

    def _pack_room(self, room: Room, pos: str, now_ms: int, unfit: list[Unfit]) -> Part | None:
        """Pack a room. Where that fails the room begins again, so that what waits is not lost.

        Where it fails again the records that wait are unfit.
        """
        try:
            return room.pack(pos, now_ms, self._limit_per_s)
        except Exception as error:  # noqa: BLE001 - see the class
            again = self._without_history(room, error)
        try:
            return again.pack(pos, now_ms, self._limit_per_s)
        except Exception as error:  # noqa: BLE001 - see the class
            unfit += [Unfit(waiting.offset, waiting.record, repr(error)) for waiting in again.waiting]
            self._coming.dead_lettered += sum(waiting.cost for waiting in again.waiting)
            again = self._without_history(again, error)  # with numbers that no half of it was given
            return None
        finally:
            again.packed()

    def _forget_ids(self, unfit: Sequence[Unfit]) -> None:
        """Forget the ids of records that become dead letters, so that they may be sent again."""
        brief: list[tuple[str, str, str]] = []
        for _, record, _ in unfit:
            if not is_long_remembered(record.items):
                brief.append((record.room, record.user, record.id))
            elif (room := self._open.get(record.room)) is not None:
                room.seen.forget(f"{record.user} {record.id}")
        if brief:
            self._recent.forget(brief)

    def _pack_cards(self, max_bytes: int, now_ms: int) -> list[tuple[CardEntry, bytes]]:
        cards: list[tuple[CardEntry, bytes]] = []
        for name in list(self._cards):
            room = self._shown(name, now_ms) if self._has(name) else None
            if room is None or not room.is_told:
                continue  # the next batch names its epoch first
            try:
                card = room.card()
            except Exception as error:  # noqa: BLE001 - see the class
                again = self._without_history(room, error)
                self._let_wait(again)
                del self._cards[name]
                continue
            self._lay_down_silent(room)
            max_bytes -= len(card) + ROOM_BYTES
            if max_bytes < 0:
                break
            del self._cards[name]
            cards.append((CardEntry(room.hash, len(card)), card))
        return cards

    # ---- within the caps
    def _has(self, name: str) -> bool:
        """Return whether anything is kept of a room."""
        return name in self._open or name in self._stored or name in self._silent

    def _shown(self, name: str, now_ms: int) -> Room | None:
        """Return a room of which viewers ask for no more than its card or its audience.

        None: nobody ever spoke in it, and there is no space for one more such room. It gets its
        place later if it still has viewers then.
        """
        if (room := self._open.get(name)) is not None:
            return room
        if not self._has(name) and not self._silent.has_space(len(self._shown_now)):
            vacant = self._silent.longest_vacant() if self._is_audience_known else None
            if vacant is None:
                self.limited[RoomLimit.SILENT_REFUSED] += 1
                self._cards.pop(name, None)
                if name in self._viewers:
                    self._refused[name] = None
                return None
            self.limited[RoomLimit.SILENT_FORGOTTEN] += 1
            self._forget_silent(vacant)
        self._shown_now.add(name)
        return self._opened(name, now_ms)

    def _lay_down_silent(self, room: Room) -> None:
        """Keep of an open room in which nobody ever spoke its epoch alone, and nothing where nobody
        knows that.
        """
        name = room.state.room
        self._shown_now.discard(name)
        if not room.is_silent or room.is_waiting or room.hash in self._begin_again or self._open.get(name) is not room:
            return
        del self._open[name]
        if not room.is_told:
            self._changed.pop(name, None)
            return
        self._silent.keep(name, room.state.epoch, is_watched=name in self._viewers)
        stored = self._stored.get(name)
        if stored is None or stored.last_ms or stored.epoch != room.state.epoch:
            self._changed[name] = None
        else:
            self._changed.pop(name, None)  # who watches is in no snapshot

    def forget_silent(self, now_ms: int) -> None:
        """Forget rooms in which nobody ever spoke and which nobody watches any more; forget packed
        ones above the number that may be kept.

        Others that found no place get one. `now_ms` is the time of a monotonic clock.
        """
        if self._audience_asked_ms is None:
            self._audience_asked_ms = now_ms
        self._is_audience_known = now_ms - self._audience_asked_ms >= AUDIENCE_KNOWN_MS
        self._silent.pass_time(now_ms)
        if not self._is_audience_known:
            return
        for name in self._silent.over(FORGET_STEP):
            self._forget_silent(name)
        self._forget_smallest()
        if self._refused:
            for name in list(islice(self._refused, self._silent.places(FORGET_STEP))):
                del self._refused[name]
                self._unpublished[name] = None

    def _forget_silent(self, name: str) -> None:
        self._forget(name, self._silent.epoch(name) or self._epoch_of(self._stored[name]))

    def _forget(self, name: str, epoch: int) -> None:
        """Forget a room. When somebody speaks in it again, its epoch is above `epoch`."""
        self._epoch_floor = max(self._epoch_floor, min(epoch + 1, _U32))
        self._silent.drop(name)
        for rooms in (self._open, self._stored, self._changed):
            rooms.pop(name, None)

    def _epoch_of(self, stored: StoredRoom) -> int:
        """Return the epoch of a packed room; where it cannot be read, one that is not below it."""
        if stored.epoch:
            return stored.epoch
        try:
            return decode_room(stored).epoch
        except BadRecordError:
            return min(self.clock_ms // 1000, _U32)

    @property
    def epoch_above_all(self) -> int:
        """An epoch above all that rooms have now, and not below the floor."""
        epochs = [room.state.epoch for room in self._open.values()]
        epochs += [self._silent.epoch(name) or 0 for name in self._silent]
        epochs += [self._epoch_of(stored) for stored in self._stored.values()]
        return max(self._epoch_floor, min(max(epochs, default=0) + 1, _U32))

    def _pack_away(self) -> None:
        """Pack rooms above the number that may be open, but not those with a recent message."""
        excess = max(0, len(self._open) - self._max_rooms)
        for name in list(islice(self._open, 2 * excess)):
            if len(self._open) <= self._max_rooms:
                break
            room = self._open[name]
            if room.is_waiting or room.clock_ms > self.clock_ms - ACTIVE_MS:
                self._open[name] = self._open.pop(name)  # behind the others
                continue
            self._changed[name] = None
            self._store(name)
            self._open.pop(name, None)

    def _forget_smallest(self) -> None:
        """Forget packed rooms above the number that may be kept, without viewers: at most
        `FORGET_STEP`, the smallest of the next `FORGET_AMONG`.

        A room with more than chatter is never one of them: its modes would be lost, and gifts that
        are sent again would count twice. Nor is one with an id that must be remembered.
        """
        most = self._max_rooms * PACKED_PER_ROOM
        excess = len(self._stored) - len(self._silent) - most
        if excess <= 0 or not self._is_audience_known:
            return
        kept = self._open, self._silent, self._viewers
        seen_ms = self.clock_ms - self._dedupe_ms
        left: list[StoredRoom] = []
        for name in list(islice(self._stored, FORGET_AMONG)):
            room = self._stored[name] = self._stored.pop(name)  # behind the others: the next time it is their turn
            if room.is_chatter and room.seen_ms < seen_ms and not any(name in rooms for rooms in kept):
                left.append(room)
        count = min(excess + most // 20, FORGET_STEP)
        for stored in heapq.nsmallest(count, left, key=lambda room: (len(room.data), room.last_ms)):
            self.limited[RoomLimit.FORGOTTEN] += 1
            self._forget(stored.room, self._epoch_of(stored))

    # ---- lasting
    @property
    def has_changed(self) -> bool:
        """Whether a snapshot would differ from the last one."""
        return bool(self._changed)

    def store(self, at_most: int) -> bool:
        """Encode up to `at_most` changed rooms for the next snapshot; return whether none is left.

        The caller packs first: nothing that was taken may wait.
        """
        for name in list(islice(self._changed, at_most)):
            self._store(name)
        return not self._changed

    def _store(self, name: str) -> None:
        """Encode one changed room for the next snapshot."""
        if (room := self._open.get(name)) is not None:
            self._lay_down_silent(room)
        self._changed.pop(name, None)
        if epoch := self._silent.epoch(name):
            self._stored[name] = encode_room(RoomState(name, epoch))
        if (room := self._open.get(name)) is None:
            return
        try:
            self._stored[name] = encode_room(room.frozen(self._dedupe_ms))
        except Exception as error:  # noqa: BLE001 - see the class
            again = self._without_history(room, error)
            self._stored[name] = encode_room(again.frozen(self._dedupe_ms))
            del self._changed[name]
            if room.is_waiting:  # its card failed since the last batch
                self._waiting.remove(room)
                self._let_wait(again)

    def snapshot(self) -> PartitionState:
        """Return all that outlives this owner. The caller stores everything first (`store`).

        Idle rooms without viewers are closed, and forgotten once the log has no message of them
        left, so that nobody can hold their numbers; at most `FORGET_STEP` at once.
        """
        for name, room in list(self._open.items()):
            if room.clock_ms < self.clock_ms - OPEN_MS and name not in self._viewers and not room.is_waiting:
                del self._open[name]
        before_ms = self.clock_ms - BROADCAST.retention_ms - IDLE_MS
        kept = self._open, self._silent, self._viewers
        over = [room for room in self._stored.values() if room.last_ms < before_ms]
        left = (room for room in over if not any(room.room in rooms for rooms in kept))
        for stored in islice(left, FORGET_STEP):  # the next snapshot forgets more
            self._forget(stored.room, self._epoch_of(stored))
        self._forget_smallest()
        balance = msgspec.structs.replace(self.balance)
        return PartitionState(balance, self.clock_ms, list(self._stored.values()), self._others, self._epoch_floor)

    def apply(self, batch: Batch) -> None:
        """Restore what a valid batch of the last owner did. Batches come in order."""
        self.clock_ms = max(self.clock_ms, batch.clock_ms)
        for entry, payload in batch.rooms():
            name = None
            try:
                unpacked = unpack(entry, payload)
                name = unpacked.header.room
                self._apply(batch, entry, unpacked)
            except AnotherVersionError:
                raise
            except Exception as error:  # noqa: BLE001 - see the class
                self._lose(name or self._name_of(entry.hash), entry.hash, entry.epoch, error)
        try:
            self.balance, allowances = batch.balance, batch.allowances
        except BadRecordError as error:
            self.lost.append(LostRoom("", f"the counts of a batch: {error}"))
            return
        self._coming = msgspec.structs.replace(self.balance)
        self._restore_allowances(allowances, batch.clock_ms)

    def _restore_allowances(self, allowances: Mapping[int, int], clock_ms: int) -> None:
        """Restore what rooms may number at once. Rooms that are not open have it when they open."""
        self._restored, self._restored_ms = dict(allowances), clock_ms
        if allowances:
            for name, room in self._open.items():
                self._restore_allowance(name, room)

    def _restore_allowance(self, name: str, room: Room) -> None:
        if (left := self._restored.pop(room.hash, None)) is not None:
            room.restore_allowance(left, self._restored_ms, self._limit_per_s)
            self._limited[name] = None

    def _apply(self, batch: Batch, entry: RoomEntry, unpacked: Unpacked) -> None:
        name, epoch = unpacked.header.room, unpacked.header.epoch
        room = self._open.get(name)
        if room is None:
            if not self._belongs(name):
                return  # an earlier version took records of rooms that are not of this partition
            room = self._opened(name, batch.clock_ms)
        if room.state.epoch != epoch:
            if entry.hash in self._begin_again and unpacked.header.seq[0] > 1:
                return  # it goes on from numbers that are lost
            if entry.flags & RoomFlags.AGAIN:
                room = room.begin_again(epoch)
            else:
                room = Room(RoomState(name, epoch, last_ms=batch.at_ms), self._dedupe_ms)
            self._open[name] = room
        room.apply(unpacked, batch.clock_ms, self._recent)
        self._changed[name] = None
        self._lay_down_silent(room)

    def _name_of(self, hash_: int) -> str:
        """Return the name of a room whose part in a BATCH cannot be read; "" where it has no other
        history.
        """
        return next((name for name in (*self._open, *self._stored) if room_hash(name) == hash_), "")

    def _lose(self, name: str, hash_: int, epoch: int, error: Exception) -> None:
        """Forget a room's history: it begins again with an epoch above `epoch` and above all that
        may have been given.
        """
        self._begin_again.add(hash_)
        above = self.clock_ms // 1000 + 1  # of the second of its first record, which may be this one
        self._epoch_floor = max(self._epoch_floor, min(max(above, epoch + 1), _U32))
        self._forget(name, epoch)
        self.lost.append(LostRoom(name, repr(error)))

    def _without_history(self, room: Room, error: Exception) -> Room:
        """Let a room begin again at once."""
        name = room.state.room
        self._lose(name, room.hash, room.state.epoch, error)
        again = self._open[name] = room.begin_again(self._epoch_floor)
        self._changed[name] = None
        return again

    def _taken_in(self, name: str, at_ms: int) -> Room:
        if not self._belongs(name):
            raise BadRecordError(BadRecord.WRONG_PARTITION, "the room lives in another partition: murmur2 of the key decides")
        return self._opened(name, at_ms)

    def _opened(self, name: str, at_ms: int) -> Room:
        stored, epoch = self._stored.get(name), self._silent.epoch(name)
        state = None
        if epoch:
            state = RoomState(name, epoch, last_ms=at_ms)
        elif stored is not None:
            try:
                state = decode_room(stored)
            except BadRecordError as error:
                refuse_foreign(error)
                self.clock_ms = max(self.clock_ms, at_ms)
                self._lose(name, room_hash(name), stored.epoch, error)
        if is_new := state is None:
            state = RoomState(name, max(self._epoch_floor, min(at_ms // 1000, _U32), 1), last_ms=at_ms)
            self._changed[name] = None
        room = self._open[name] = Room(state, self._dedupe_ms)
        room.is_told = not is_new
        if (viewers := self._viewers.get(name)) is not None:
            room.watch(viewers)  # they may have come while the room had no place, or nobody asked
        self._refused.pop(name, None)
        self._silent.drop(name)
        self._restore_allowance(name, room)
        return room


def _notices_of(record: Uplink, room: Room, sanctions: Sequence[tuple[Kind, Sanction]]) -> Sequence[tuple[NoticeEntry, bytes]]:
    """Return the notices that the users of a record's sanctions get."""
    return [notice_of(record, room.hash, kind, sanction) for kind, sanction in sanctions]


def _is_hidden(room: Room, record: Uplink, contents: Contents) -> bool:
    """Return whether a record, all of it best effort, was cleared before it arrived."""
    is_best_effort = contents.numbered == len(record.items) and not contents.reliable
    return is_best_effort and room.hides(record.user, record.at_ms)
