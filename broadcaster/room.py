"""One room in its owner's hands: what waits, what gets which number, what lasts. Pure.

Owns a room's numbers and lasting state. Takes what `broadcaster.rooms` found fit to take, numbers
it when it is packed, and reads the same state back from packed batches. Remembers the ids it has
seen (`SeenIds`), by which duplicates are found, and thins what is above the room's limit.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
from msgspec import UNSET

from broadcaster.dedupe import SeenIds
from broadcaster.items import NUMBERED, RELIABLE
from broadcaster.thinning import Allowance, Candidate, choose
from liveroom.audience import Viewers
from liveroom.bodies import Clear
from liveroom.kinds import Kind, Role
from liveroom.records.broadcast import NoticeEntry, RoomEntry, RoomFlags
from liveroom.records.snapshot import RoomChange, RoomState, Seen, Tombstone
from liveroom.records.uplink import Item, Uplink
from liveroom.topics import room_hash
from liveroom.wire import BatchHeader, Card, decode_header, pack_payload, payload_text, split_message

BEST_EFFORT_DEDUPE_MS: Final = 10_000
RECENT_MESSAGES: Final = 20
RECENT_BYTES: Final = 16 * 1024
MAX_TOMBSTONES: Final = 100
MAX_CARD_BYTES: Final = 160 * 1024

_FOLDERS: Final = frozenset({Role.VIEWER, Role.GUEST})

_DEFLATED: Final = int(RoomFlags.DEFLATED)
_encode: Final = msgspec.json.Encoder().encode
_encode_lines: Final = msgspec.json.Encoder().encode_lines
_change_decoder: Final = msgspec.json.Decoder(RoomChange)
_clear_decoder: Final = msgspec.json.Decoder(Clear)


class _Line(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A message as viewers get it (`wire.Message`), its numbers first.

    `rseq` and `n` are unset where `wire.Message` would have their defaults. So every field can be
    passed by position, which takes a third of the time that names take.
    """

    seq: int
    rseq: int | msgspec.UnsetType
    n: int | msgspec.UnsetType
    kind: Kind
    id: str
    user: str
    at: int
    name: str = ""
    role: Role = Role.VIEWER
    level: int = 0
    package: str = ""
    data: msgspec.Raw = msgspec.Raw(b"{}")


class Waiting(msgspec.Struct, frozen=True, gc=False):
    """A record that waits: its items that take a number (`cost`), whether it may be thinned, how
    many identical ones it is.
    """

    offset: int
    record: Uplink
    cost: int
    may_go: bool
    n: int = 1


class Part(msgspec.Struct, frozen=True, gc=False):
    """A room's part of a BATCH: its entry and payload, how many of the waiting items were folded
    into others, and the bytes of its lines as JSON.
    """

    entry: RoomEntry
    payload: bytes
    folded: int
    text_bytes: int


class Unpacked(NamedTuple):
    """A room's part of a BATCH, opened again.

    `lines` are the messages', the reliable ones first.
    """

    header: BatchHeader
    lines: list[bytes]


class HistoryError(ValueError):
    """Valid batches whose numbers do not follow each other: never to be seen."""


class Room:
    """One room: its lasting state, and what waits for the next batch."""

    __slots__ = (
        "_allowance",
        "_cleared",
        "_clears",
        "_dissolves",
        "_is_again",
        "_waiting",
        "_waiting_items",
        "_waiting_may_go",
        "clock_ms",
        "has_news",
        "hash",
        "is_waiting",
        "likes_changed",
        "notices",
        "oldest_ms",
        "recent",
        "recent_reliable",
        "seen",
        "state",
        "viewers",
        "viewers_changed",
    )

    def __init__(self, state: RoomState, dedupe_ms: int) -> None:
        self.state = state
        self.hash = room_hash(state.room)
        self.clock_ms = state.last_ms
        self.seen = SeenIds(dedupe_ms, {f"{seen.user} {seen.id}": seen.at_ms for seen in state.seen})
        self.recent = state.recent[-RECENT_MESSAGES:]
        self.recent_reliable = state.recent_reliable[-RECENT_MESSAGES:]
        self.viewers: Viewers | None = None
        self._cleared = {stone.user: stone.before_ms for stone in state.tombstones if stone.before_ms}
        self._allowance = Allowance()
        self._is_again = False
        self._reset()

    def _reset(self) -> None:
        self._waiting: list[Waiting] = []
        self._waiting_items = self._waiting_may_go = self.oldest_ms = 0
        self._clears = self._dissolves = False
        self.is_waiting = self.has_news = self.likes_changed = self.viewers_changed = False
        self.notices: Sequence[tuple[NoticeEntry, bytes]] = ()

    # ---- in
    def hide(self, user: str, before_ms: int) -> None:
        """Pass over what a user sent before then, though it comes later: it was on its way when it
        was cleared.
        """
        self._cleared[user] = max(before_ms, self._cleared.pop(user, 0))
        if len(self._cleared) > MAX_TOMBSTONES:
            del self._cleared[next(iter(self._cleared))]

    @property
    def has_cleared(self) -> bool:
        """Whether `hides` may be true of anybody."""
        return bool(self._cleared)

    def hides(self, user: str, at_ms: int) -> bool:
        """Whether what a user sent at that time was cleared before it came."""
        return at_ms < self._cleared.get(user, 0)

    def wait(self, offset: int, record: Uplink, cost: int, *, may_go: bool) -> None:
        """Let a record wait of which `cost` items take a number; `may_go`: none of them must
        arrive.
        """
        self._waiting.append(Waiting(offset, record, cost, may_go))
        self._waiting_items += cost
        self.has_news = True
        if may_go:
            self._waiting_may_go += cost

    def like(self, count: int) -> None:
        """Add likes to the room's sum."""
        self.state.likes += count
        self.likes_changed = self.has_news = True

    def watch(self, viewers: Viewers) -> None:
        """Set the sums of those who watch."""
        self.viewers = viewers
        self.viewers_changed = self.has_news = True

    def begin_again(self, epoch: int) -> "Room":
        """Return this room without its history, under a new epoch.

        What waits, who watches, its modes, totals and ids are kept; by whoever takes over too, for
        its next batch says so.
        """
        old = self.state
        kept = RoomState(
            old.room,
            epoch,
            likes=old.likes,
            gifts=old.gifts,
            messages=old.messages,
            skipped=old.skipped,
            settings=old.settings,
            last_ms=self.clock_ms,
        )
        room = Room(kept, 0)
        room.seen, room._cleared = self.seen, self._cleared
        room._is_again = True
        room.viewers, room.viewers_changed = self.viewers, self.viewers_changed
        room.likes_changed, room.has_news, room.oldest_ms = self.likes_changed, self.has_news, self.oldest_ms
        for waiting in self._waiting:
            room.wait(waiting.offset, waiting.record, waiting.cost, may_go=waiting.may_go)
        return room

    @property
    def waiting(self) -> Sequence[Waiting]:
        """What waits for the next batch."""
        return self._waiting

    # ---- out
    def pack(self, pos: str, now_ms: int, limit_per_s: int) -> Part:
        """Number what waits and return it as the room's part of a BATCH."""
        state = self.state
        first = state.seq + 1
        kept, folded, skipped = self._survivors(limit_per_s)
        if self._waiting_may_go == self._waiting_items:
            reliable: Sequence[bytes] = ()
            best_effort: Sequence[bytes] = self._number_best_effort(kept)
        else:
            reliable, best_effort = self._number(kept)
        count = state.seq + 1 - first
        state.messages += count
        state.skipped += skipped
        header = BatchHeader(
            state.room,
            state.epoch,
            (first, state.seq),
            state.rseq,
            now_ms,
            pos,
            skipped,
            state.likes if self.likes_changed else None,
            self.viewers if self.viewers_changed else None,
        )
        payload = pack_payload(header, reliable, best_effort)
        flags, size = self._flags(deflated=payload.deflated), len(payload.data)
        entry = RoomEntry._make(  # half the time of a call by position
            (self.hash, first, state.seq, state.rseq, count, skipped, size, payload.reliable_size, state.epoch, flags)
        )
        line_breaks = max(0, count - len(reliable) - len(best_effort))  # within a text of many lines
        return Part(entry, payload.data, folded, sum(map(len, reliable)) + sum(map(len, best_effort)) - line_breaks)

    def _flags(self, *, deflated: bool) -> int:
        """Return the `RoomFlags` of this batch."""
        flags = _DEFLATED if deflated else 0
        if self._clears:
            flags |= RoomFlags.CLEAR
        if self._dissolves:
            flags |= RoomFlags.DISSOLVED
        if self._is_again:
            flags |= RoomFlags.AGAIN
            self._is_again = False
        return int(flags)

    def packed(self) -> None:
        """Forget what waited: it is in a batch now."""
        self._reset()

    def _survivors(self, limit_per_s: int) -> tuple[Sequence[Waiting], int, int]:
        """Return what stays of what waits, in order, and how many items were folded and skipped."""
        settings, wanted = self.state.settings, self._waiting_may_go
        waiting: Sequence[Waiting] = self._waiting
        folded = 0
        if settings.fold_identical and wanted > 1:
            waiting = _fold(waiting)
            folded = len(self._waiting) - len(waiting)
            wanted -= folded
        left = self._allowance.left(settings.limit_per_s or limit_per_s, self.clock_ms)
        if wanted <= left:
            self._allowance.spend(wanted)
            return waiting, folded, 0
        movable = [index for index, entry in enumerate(waiting) if entry.may_go]
        stays = choose([_candidate(waiting[index]) for index in movable], left)
        gone = {index for index, stay in zip(movable, stays, strict=True) if not stay}
        cost_gone = sum(waiting[index].cost for index in gone)
        folds_gone = sum(waiting[index].n - 1 for index in gone)
        self._allowance.spend(wanted - cost_gone)
        kept = [entry for index, entry in enumerate(waiting) if index not in gone]
        return kept, folded - folds_gone, cost_gone + folds_gone

    def _number_best_effort(self, kept: Sequence[Waiting]) -> Sequence[bytes]:
        """Return the lines, as one text, of records that hold nothing reliable: nearly all."""
        lines: list[_Line] = []
        seq = self.state.seq
        for waiting in kept:
            record, n = waiting.record, UNSET if waiting.n == 1 else waiting.n
            items = record.items
            alone = len(items) == 1
            for index, item in enumerate(items):
                if item.kind in NUMBERED:
                    seq += 1
                    message_id = record.id if alone else f"{record.id}#{index}"
                    lines.append(_line(record, item, message_id, seq, UNSET, n))
        if not lines:
            return ()
        self.state.seq = seq
        if len(lines) == 1:
            text = _encode(lines[0])
            self._remember(self.recent, text)
            return (text,)
        text = _encode_lines(lines)[:-1]
        newest = text.rsplit(b"\n", RECENT_MESSAGES)[-RECENT_MESSAGES:]
        if max(map(len, newest)) > RECENT_BYTES:  # it is not kept, so an older one is
            newest = text.split(b"\n")
        for line in newest:
            self._remember(self.recent, line)
        return (text,)

    def _number(self, kept: Sequence[Waiting]) -> tuple[list[bytes], list[bytes]]:
        """Return the lines of records of any kind, reliable and best-effort ones.

        Each has its effect in its turn: what a `clear` takes away came before it.
        """
        state = self.state
        reliable: list[bytes] = []
        best_effort: list[bytes] = []
        for waiting in kept:
            record, n = waiting.record, UNSET if waiting.n == 1 else waiting.n
            alone = len(record.items) == 1
            for index, item in enumerate(record.items):
                if item.kind not in NUMBERED:
                    continue
                message_id = record.id if alone else f"{record.id}#{index}"
                state.seq += 1
                if item.kind in RELIABLE:
                    state.rseq += 1
                    line = _encode(_line(record, item, message_id, state.seq, state.rseq, UNSET))
                    reliable.append(line)
                    self._reflect(item.kind.value, item.data, line)
                else:
                    line = _encode(_line(record, item, message_id, state.seq, UNSET, n))
                    best_effort.append(line)
                    self._remember(self.recent, line)
        return reliable, best_effort

    @staticmethod
    def _remember(recent: list[bytes], line: bytes) -> None:
        """Keep a line for cards. One too large for that is in the history alone."""
        if len(line) <= RECENT_BYTES:
            recent.append(line)
            if len(recent) > RECENT_MESSAGES:
                del recent[0]

    def _reflect(self, kind: str, data: msgspec.Raw | bytes, line: bytes) -> None:
        """Let a reliable message have its effect on what lasts; a kind that only a later version
        knows has none here.
        """
        state = self.state
        match kind:
            case Kind.GIFT.value:
                state.gifts += 1
            case Kind.ANNOUNCEMENT.value:
                state.announcement = line
            case Kind.ROOM.value:
                state.settings = msgspec.structs.replace(state.settings, **_change_decoder.decode(data).modes())
            case Kind.DISSOLVE.value:
                state.settings = msgspec.structs.replace(state.settings, dissolved=True)
                self._dissolves = True
            case Kind.REOPEN.value:
                state.settings = msgspec.structs.replace(state.settings, dissolved=False)
            case Kind.CLEAR.value:
                self._clear(_clear_decoder.decode(data))
        self._remember(self.recent_reliable, line)

    def _clear(self, clear: Clear) -> None:
        state = self.state
        self._clears = True
        if clear.before_ms:
            self.hide(clear.user, clear.before_ms)
        stone = Tombstone(state.seq, state.rseq, [clear.id] if clear.id else [], clear.user, clear.before_ms)
        state.tombstones = [*state.tombstones[-MAX_TOMBSTONES + 1 :], stone]
        for recent in (self.recent, self.recent_reliable):
            recent[:] = [line for line in recent if not _is_cleared(line, clear)]
        if state.announcement and _is_cleared(state.announcement, clear):
            state.announcement = b""

    # ---- lasting
    def frozen(self, dedupe_ms: int) -> RoomState:
        """Return the state as a snapshot holds it."""
        self.state.last_ms = self.clock_ms
        seen = [Seen(*_split(key), at) for key, at in self.seen.since(self.clock_ms - dedupe_ms)]
        recent, recent_reliable = _newest(self.recent), _newest(self.recent_reliable)
        return msgspec.structs.replace(self.state, seen=seen, recent=recent, recent_reliable=recent_reliable)

    def apply(self, batch: Unpacked, clock_ms: int, *, is_again: bool) -> None:
        """Bring back what a batch of the last owner did to this room. A batch that was written
        twice counts once.

        `is_again`: it reflects nothing of the uplink that the one before it did not; known by
        numbers only where it has some.
        """
        header, state = batch.header, self.state
        self._is_again = False  # this batch has said so
        (first, last), is_known = header.seq, header.seq[0] <= header.seq[1] <= state.seq
        if batch.lines or header.skipped or header.likes is not None:
            self.clock_ms = clock_ms
        if header.likes is not None:
            state.likes = max(state.likes, header.likes)
        if is_known:
            return
        if first != state.seq + 1:
            raise HistoryError(f"room {state.room}: numbers {first} to {last} behind {state.seq}")
        if not is_again:
            state.skipped += header.skipped
        messages = sorted(((*split_message(line), line) for line in batch.lines), key=lambda message: message[0].seq)
        state.messages += len(messages)
        for head, data, line in messages:
            state.seq = head.seq
            if head.rseq:
                state.rseq = head.rseq
                self.seen.meet(f"{head.user} {head.id.partition('#')[0]}", clock_ms)
                self._reflect(head.kind, data, line)
            else:
                self._remember(self.recent, line)
        self._reset()

    def card(self) -> bytes:
        """Return the room's card, without its messages where it would be too large."""
        state = self.state
        card = Card(
            epoch=state.epoch,
            seq=state.seq,
            rseq=state.rseq,
            likes=state.likes,
            users=self.viewers.users if self.viewers is not None else None,
            connections=self.viewers.connections if self.viewers is not None else None,
            settings=msgspec.Raw(_encode(state.settings)),
            announcement=msgspec.Raw(state.announcement or b"null"),
            messages=[msgspec.Raw(line) for line in _newest(self.recent)],
            reliable=[msgspec.Raw(line) for line in _newest(self.recent_reliable)],
            tombstones=[msgspec.Raw(_encode(stone)) for stone in state.tombstones],
        )
        text = _encode(card)
        if len(text) > MAX_CARD_BYTES:
            text = _encode(msgspec.structs.replace(card, messages=[], reliable=[], tombstones=[]))
        return text


def unpack(entry: RoomEntry, payload: memoryview) -> Unpacked:
    """Open a room's part of a BATCH."""
    text = payload_text(payload, deflated=bool(entry.flags & RoomFlags.DEFLATED))
    head, *lines = text.split(b"\n")
    return Unpacked(decode_header(head), lines)


def _newest(recent: list[bytes]) -> list[bytes]:
    """Return the newest lines that fit into `RECENT_BYTES`, and forget the others."""
    size, gone = sum(map(len, recent)), 0
    while size > RECENT_BYTES:
        size -= len(recent[gone])
        gone += 1
    del recent[:gone]
    return recent[:]


def _fold(waiting: Sequence[Waiting]) -> list[Waiting]:
    """Let the first of identical danmaku stand for all.

    Those of the streamer and moderators, and packages, stay themselves.
    """
    folded: dict[object, Waiting] = {}
    for index, entry in enumerate(waiting):
        record = entry.record
        key: object = index  # not the offset: a ban in a package waits beside its clear, under one offset
        if len(record.items) == 1 and record.items[0].kind is Kind.DANMAKU and record.role in _FOLDERS and not record.package:
            key = bytes(record.items[0].data)
        before = folded.get(key)
        folded[key] = entry if before is None else msgspec.structs.replace(before, n=before.n + 1)
    return list(folded.values())


def _candidate(entry: Waiting) -> Candidate:
    record = entry.record
    return Candidate(entry.offset, record.role, record.level, record.user, entry.cost)


def _line(
    record: Uplink, item: Item, message_id: str, seq: int, rseq: int | msgspec.UnsetType, n: int | msgspec.UnsetType
) -> _Line:
    return _Line(
        seq,
        rseq,
        n,
        item.kind,
        message_id,
        record.user,
        record.at_ms,
        record.name,
        record.role,
        record.level,
        record.package,
        item.data,
    )


def _is_cleared(line: bytes, clear: Clear) -> bool:
    head, _ = split_message(line)
    return clear.takes(head.kind, head.id, head.user)


def _split(key: str) -> tuple[str, str]:
    user, _, id_ = key.partition(" ")
    return user, id_
