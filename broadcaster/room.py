"""One room in its owner's hands: what waits, what gets which number, what lasts. Pure.

Owns a room's numbers and lasting state. Takes what `broadcaster.rooms` found fit to take, numbers
it when it is packed, and reads the same state back from packed batches. Remembers the ids it has
seen (`SeenIds`), by which duplicates are found, and thins what is above the room's limit.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

from broadcaster.thinning import Allowance, Candidate, choose
from liveroom.audience import Viewers
from liveroom.bodies import Clear
from liveroom.kinds import CLASS_OF, Class, Kind, Role
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

NUMBERED: Final = frozenset(kind for kind, belongs in CLASS_OF.items() if belongs in {Class.RELIABLE, Class.BEST_EFFORT})
RELIABLE: Final = frozenset(kind for kind, belongs in CLASS_OF.items() if belongs is Class.RELIABLE)
_FOLDERS: Final = frozenset({Role.VIEWER, Role.GUEST})

_encode: Final = msgspec.json.Encoder().encode
_change_decoder: Final = msgspec.json.Decoder(RoomChange)
_clear_decoder: Final = msgspec.json.Decoder(Clear)


class _Line(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """A message as viewers get it (`wire.Message`), its numbers first."""

    seq: int
    rseq: int = 0
    n: int = 1
    kind: Kind
    id: str
    user: str
    at: int
    name: str = ""
    role: Role = Role.VIEWER
    level: int = 0
    package: str = ""
    data: msgspec.Raw = msgspec.Raw(b"{}")


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

    def since(self, at_ms: int) -> list[tuple[str, int]]:
        """Return (key, when) of all met after `at_ms`, oldest first."""
        return [(key, at) for key, at in self._at.items() if at > at_ms]


class Waiting(msgspec.Struct, frozen=True, gc=False):
    """A record that waits: its items that take a number (`cost`), whether it may be thinned, how
    many identical ones it is.
    """

    offset: int
    record: Uplink
    cost: int
    may_go: bool
    n: int = 1


class Numbered(msgspec.Struct, frozen=True, gc=False):
    """What became of the items that waited."""

    numbered: int
    folded: int
    skipped: int


class Part(msgspec.Struct, frozen=True, gc=False):
    """A room's part of a BATCH: its entry and payload, what became of the items that waited, its
    lines' bytes as JSON.
    """

    entry: RoomEntry
    payload: bytes
    counts: Numbered
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
        self.seen = SeenIds(dedupe_ms, ((f"{seen.user} {seen.id}", seen.at_ms) for seen in state.seen))
        self.recent: deque[bytes] = deque(state.recent, RECENT_MESSAGES)
        self.recent_reliable: deque[bytes] = deque(state.recent_reliable, RECENT_MESSAGES)
        self.viewers: Viewers | None = None
        self._cleared: dict[str, int] = {stone.user: stone.before_ms for stone in state.tombstones if stone.before_ms}
        self._allowance = Allowance()
        self._is_again = False
        self._reset()

    def _reset(self) -> None:
        self._waiting: list[Waiting] = []
        self._waiting_items = 0
        self._waiting_may_go = 0
        self._clears = False
        self._dissolves = False
        self.has_news = False
        self.notices: list[tuple[NoticeEntry, bytes]] = []
        self.oldest_ms = 0
        self.likes_changed = False
        self.viewers_changed = False

    # ---- in
    def hide(self, user: str, before_ms: int) -> None:
        """Pass over what a user sent before then, though it comes later: it was on its way when it
        was cleared.
        """
        self._cleared[user] = max(before_ms, self._cleared.pop(user, 0))
        if len(self._cleared) > MAX_TOMBSTONES:
            del self._cleared[next(iter(self._cleared))]

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
        counts, kept = self._survivors(limit_per_s)
        reliable: list[bytes] = []
        best_effort: list[bytes] = []
        for waiting in kept:
            record = waiting.record
            items = record.items
            alone = len(items) == 1
            for index, item in enumerate(items):
                if item.kind in RELIABLE:
                    reliable.append(self._number_reliable(record, item, record.id if alone else f"{record.id}#{index}"))
                elif item.kind in NUMBERED:
                    best_effort.append(self._number(record, item, record.id if alone else f"{record.id}#{index}", waiting.n))
        lines = reliable + best_effort
        state.messages += len(lines)
        state.skipped += counts.skipped
        header = BatchHeader(
            room=state.room,
            epoch=state.epoch,
            seq=(first, state.seq),
            rseq=state.rseq,
            at=now_ms,
            pos=pos,
            skipped=counts.skipped,
            likes=state.likes if self.likes_changed else None,
            viewers=self.viewers if self.viewers_changed else None,
        )
        payload = pack_payload(header, reliable, best_effort)
        flags = RoomFlags.DEFLATED if payload.deflated else 0
        if self._clears:
            flags |= RoomFlags.CLEAR
        if self._dissolves:
            flags |= RoomFlags.DISSOLVED
        if self._is_again:
            flags |= RoomFlags.AGAIN
            self._is_again = False
        entry = RoomEntry(
            self.hash,
            first,
            state.seq,
            state.rseq,
            len(lines),
            counts.skipped,
            len(payload.data),
            payload.reliable_size,
            state.epoch,
            int(flags),
        )
        return Part(entry, payload.data, counts, sum(map(len, lines)))

    def packed(self) -> None:
        """Forget what waited: it is in a batch now."""
        self._reset()

    def _survivors(self, limit_per_s: int) -> tuple[Numbered, Sequence[Waiting]]:
        """Return what stays of what waits, in order, with how many identical ones each stands
        for.
        """
        settings, total, wanted = self.state.settings, self._waiting_items, self._waiting_may_go
        waiting: Sequence[Waiting] = self._waiting
        folded = 0
        if settings.fold_identical and wanted > 1:
            waiting = _fold(waiting)
            folded = len(self._waiting) - len(waiting)
            wanted -= folded
        limit = settings.limit_per_s if settings.limit_per_s > 0 else limit_per_s
        left = self._allowance.left(limit, self.clock_ms)
        if wanted <= left:
            self._allowance.spend(wanted)
            return Numbered(total - folded, folded, 0), waiting
        movable = [index for index, entry in enumerate(waiting) if entry.may_go]
        stays = choose([_candidate(waiting[index]) for index in movable], left)
        gone = {index for index, stay in zip(movable, stays, strict=True) if not stay}
        cost_gone = sum(waiting[index].cost for index in gone)
        folds_gone = sum(waiting[index].n - 1 for index in gone)
        self._allowance.spend(wanted - cost_gone)
        counts = Numbered(total - folded - cost_gone, folded - folds_gone, cost_gone + folds_gone)
        return counts, [entry for index, entry in enumerate(waiting) if index not in gone]

    def _number(self, record: Uplink, item: Item, message_id: str, n: int) -> bytes:
        state = self.state
        state.seq += 1
        line = _line(record, item, message_id, state.seq, n=n)
        self._remember(self.recent, line)
        return line

    def _number_reliable(self, record: Uplink, item: Item, message_id: str) -> bytes:
        state = self.state
        state.seq += 1
        state.rseq += 1
        line = _line(record, item, message_id, state.seq, rseq=state.rseq)
        self._reflect(item.kind.value, item.data, line)
        return line

    @staticmethod
    def _remember(recent: deque[bytes], line: bytes) -> None:
        """Keep a line for cards. One too large for that is in the history alone."""
        if len(line) <= RECENT_BYTES:
            recent.append(line)

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
            kept = [line for line in recent if not _is_cleared(line, clear)]
            recent.clear()
            recent.extend(kept)
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


def _newest(recent: deque[bytes]) -> list[bytes]:
    """Return the newest lines that fit into `RECENT_BYTES`."""
    size = sum(map(len, recent))
    while size > RECENT_BYTES:
        size -= len(recent.popleft())
    return list(recent)


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


def _line(record: Uplink, item: Item, message_id: str, seq: int, *, rseq: int = 0, n: int = 1) -> bytes:
    return _encode(
        _Line(
            seq=seq,
            rseq=rseq,
            n=n,
            kind=item.kind,
            id=message_id,
            user=record.user,
            at=record.at_ms,
            name=record.name,
            role=record.role,
            level=record.level,
            package=record.package,
            data=item.data,
        )
    )


def _is_cleared(line: bytes, clear: Clear) -> bool:
    head, _ = split_message(line)
    return clear.takes(head.kind, head.id, head.user)


def _split(key: str) -> tuple[str, str]:
    user, _, id_ = key.partition(" ")
    return user, id_
