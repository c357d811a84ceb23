"""One room in its owner's hands: what waits, which number each message gets, what lasts. Pure.

Owns a room's numbers and its lasting state. Takes what `broadcaster.rooms` found new and valid,
numbers it when it is packed, and restores the same state from packed batches. Thins what is above
the room's limit (`broadcaster.thinning`). Called by `broadcaster.rooms`.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NamedTuple

import msgspec

from broadcaster.dedupe import RecentIds, SeenIds
from broadcaster.items import NUMBERED, RELIABLE, digest_of_message
from broadcaster.lines import (
    RECENT_MESSAGES,
    Line,
    encode_line,
    encode_lines,
    is_cleared,
    line_of,
    newest,
    remember,
    remember_all,
)
from broadcaster.waiting_records import WaitingRecord, fold, thin
from liveroom.audience import Viewers
from liveroom.bodies import Clear
from liveroom.kinds import Kind
from liveroom.limits import Bucket
from liveroom.records.broadcast import MAX_ALLOWANCE, NoticeEntry, RoomEntry, RoomFlags
from liveroom.records.snapshot import RoomChange, RoomSettings, RoomState, Seen, Tombstone
from liveroom.records.uplink import Uplink
from liveroom.topics import room_hash
from liveroom.wire import BatchHeader, Card, decode_header, pack_payload, payload_text, split_message

MAX_TOMBSTONES: Final = 100
# A card's longest parts, in bytes, where all bodies are as documented (docs/records.md):
#
#    39,400  modes: the 200 users of `allow`, 195 each
#     3,600  the announcement: 500 characters of 4 bytes, its link, its sender's names
#    32,800  the newest messages, RECENT_BYTES of both classes each
#    36,000  MAX_TOMBSTONES of them: a user of 192, a message of 80, three numbers, 360 in all
#   -------
#   111,800
#
# An announcement may have the size of a record, 66,000. With it and the modes alone a card has
# 106,000, so it always fits without its messages (`Room.card`).
MAX_CARD_BYTES: Final = 160 * 1024


_DEFLATED: Final = int(RoomFlags.DEFLATED)
_encode: Final = msgspec.json.Encoder().encode
_change_decoder: Final = msgspec.json.Decoder(RoomChange)
_clear_decoder: Final = msgspec.json.Decoder(Clear)
_USUAL: Final = RoomSettings()


class Part(msgspec.Struct, frozen=True, gc=False):
    """A room's part of a BATCH.

    `folded` items were folded into identical ones; `text_bytes` counts the lines as JSON.
    """

    entry: RoomEntry
    payload: bytes
    folded: int
    text_bytes: int


class Unpacked(NamedTuple):
    """A room's part of a BATCH, unpacked: a line for each message, the reliable ones first."""

    header: BatchHeader
    lines: list[bytes]


class HistoryError(ValueError):
    """Valid batches whose numbers are not contiguous. It should never happen."""


class Room:
    """One room: its lasting state, and what waits for the next batch.

    `is_told`: whether a batch, or the snapshot from which the room came, has named its epoch.
    """

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
        "is_told",
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
        self.seen = SeenIds(dedupe_ms, {f"{seen.user} {seen.id}": (seen.at_ms, seen.digest) for seen in state.seen})
        self.recent = state.recent[-RECENT_MESSAGES:]
        self.recent_reliable = state.recent_reliable[-RECENT_MESSAGES:]
        self.viewers: Viewers | None = None
        self.is_told = True
        self._cleared = {stone.user: stone.before_ms for stone in state.tombstones if stone.before_ms}
        self._allowance: Bucket | None = None
        self._is_again = False
        self._reset()

    def _reset(self) -> None:
        self._waiting: list[WaitingRecord] = []
        self._waiting_items = self._waiting_may_go = self.oldest_ms = 0
        self._clears = self._dissolves = False
        self.is_waiting = self.has_news = self.likes_changed = self.viewers_changed = False
        self.notices: Sequence[tuple[NoticeEntry, bytes]] = ()

    # ---- in
    def hide(self, user: str, before_ms: int) -> None:
        """Skip what this user sent before Unix time `before_ms` (ms) and what arrives later: it was
        on its way when it was cleared.
        """
        self._cleared[user] = max(before_ms, self._cleared.pop(user, 0))
        if len(self._cleared) > MAX_TOMBSTONES:
            del self._cleared[next(iter(self._cleared))]

    @property
    def has_cleared(self) -> bool:
        """Whether `hides` can return True for any user."""
        return bool(self._cleared)

    def hides(self, user: str, at_ms: int) -> bool:
        """Return whether what a user sent at Unix time `at_ms` was cleared before it arrived."""
        return at_ms < self._cleared.get(user, 0)

    def wait(self, offset: int, record: Uplink, cost: int, *, may_go: bool) -> None:
        """Let a record wait for the next batch (the arguments are those of `WaitingRecord`)."""
        self._waiting.append(WaitingRecord(offset, record, cost, may_go))
        self._waiting_items += cost
        self.has_news = True
        if may_go:
            self._waiting_may_go += cost

    def like(self, count: int) -> None:
        """Add likes to the room's sum."""
        self.state.likes += count
        self.likes_changed = self.has_news = True

    def watch(self, viewers: Viewers) -> None:
        """Set the room's viewer sums."""
        self.viewers = viewers
        self.viewers_changed = self.has_news = True

    def begin_again(self, epoch: int) -> "Room":
        """Return this room without its history, under a new epoch.

        It keeps the records that wait, the viewer sums, its modes, totals and ids, and the sections
        that it does not know. So does the
        next owner, because the next batch says so (`RoomFlags.AGAIN`).
        """
        old = self.state
        kept = RoomState(
            old.room,
            epoch,
            likes=old.likes,
            settings=old.settings,
            last_ms=self.clock_ms,
            others=old.others,
        )
        room = Room(kept, 0)
        room.seen, room._cleared, room._allowance = self.seen, self._cleared, self._allowance
        room._is_again, room.is_told = True, False
        room.viewers, room.viewers_changed = self.viewers, self.viewers_changed
        room.likes_changed, room.has_news, room.oldest_ms = self.likes_changed, self.has_news, self.oldest_ms
        for waiting in self._waiting:
            room.wait(waiting.offset, waiting.record, waiting.cost, may_go=waiting.may_go)
        return room

    @property
    def is_silent(self) -> bool:
        """Whether nobody ever spoke: there was no message, like, sanction or mode."""
        state = self.state
        return not (state.seq or state.likes or self.seen or state.others or self._is_again) and state.settings == _USUAL

    @property
    def waiting(self) -> Sequence[WaitingRecord]:
        """The records that wait for the next batch."""
        return self._waiting

    # ---- out
    def pack(self, pos: str, now_ms: int, limit_per_s: int) -> Part:
        """Number what waits and return it as the room's part of a BATCH.

        `pos` and `now_ms` go into its header. At most `limit_per_s` best-effort messages a second
        are numbered, where the room has no limit of its own. The caller then calls `packed`.
        """
        state = self.state
        first = state.seq + 1
        kept, folded, skipped = self._survivors(limit_per_s)
        if self._waiting_may_go == self._waiting_items:
            reliable: Sequence[bytes] = ()
            best_effort: Sequence[bytes] = self._number_best_effort(kept)
        else:
            reliable, best_effort = self._number(kept)
        count = state.seq + 1 - first
        both = not count  # so the newest batch without messages has both sums, for whoever comes after it
        self.is_told = True
        header = BatchHeader(
            state.room,
            state.epoch,
            (first, state.seq),
            state.rseq,
            now_ms,
            pos,
            skipped,
            state.likes if self.likes_changed or (both and state.likes) else None,
            self.viewers if self.viewers_changed or both else None,
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

    def _survivors(self, limit_per_s: int) -> tuple[Sequence[WaitingRecord], int, int]:
        """Return the records that are numbered, in order, and how many items were folded and
        skipped.
        """
        settings, wanted = self.state.settings, self._waiting_may_go
        waiting: Sequence[WaitingRecord] = self._waiting
        folded = 0
        if settings.fold_identical and wanted > 1:
            waiting = fold(waiting)
            folded = len(self._waiting) - len(waiting)
            wanted -= folded
        limit = settings.limit_per_s or limit_per_s
        if (allowance := self._allowance) is None:
            allowance = self._allowance = Bucket(limit, limit, self.clock_ms, ticks_per_s=1000)
        else:
            allowance.change(limit, limit)
        left = int(allowance.left(self.clock_ms))
        if wanted <= left:
            allowance.spend(wanted)
            return waiting, folded, 0
        kept, gone = thin(waiting, left)
        cost_gone = sum(entry.cost for entry in gone)
        folds_gone = sum(entry.n - 1 for entry in gone)
        allowance.spend(wanted - cost_gone)
        return kept, folded - folds_gone, cost_gone + folds_gone

    def allowance(self, clock_ms: int, limit_per_s: int) -> int | None:
        """Return how many best-effort messages may be numbered at once; None where it is at least
        half of what a quiet room may.
        """
        limit = self.state.settings.limit_per_s or limit_per_s
        if self._allowance is None or (left := self._allowance.left(clock_ms)) >= limit / 2:
            return None
        return min(int(left), MAX_ALLOWANCE)

    def restore_allowance(self, left: int, clock_ms: int, limit_per_s: int) -> None:
        """Let at most `left` best-effort messages be numbered at `clock_ms`: so it was before."""
        limit = self.state.settings.limit_per_s or limit_per_s
        self._allowance = Bucket(limit, limit, clock_ms, ticks_per_s=1000)
        self._allowance.lower(left)

    def _number_best_effort(self, kept: Sequence[WaitingRecord]) -> Sequence[bytes]:
        """Return the lines, as one text, of records that hold nothing reliable: nearly all."""
        lines: list[Line] = []
        seq = self.state.seq
        for waiting in kept:
            for index, item in enumerate(waiting.record.items):
                if item.kind in NUMBERED:
                    seq += 1
                    lines.append(line_of(waiting.record, index, item, seq, n=waiting.n))
        if not lines:
            return ()
        self.state.seq = seq
        if len(lines) == 1:
            text = encode_line(lines[0])
            remember(self.recent, text)
        else:
            text = encode_lines(lines)
            remember_all(self.recent, text)
        return (text,)

    def _number(self, kept: Sequence[WaitingRecord]) -> tuple[list[bytes], list[bytes]]:
        """Return the lines of records of any kind: the reliable ones, and the best-effort ones.

        Each has its effect in its turn: a `clear` takes away only messages before it.
        """
        state = self.state
        reliable: list[bytes] = []
        best_effort: list[bytes] = []
        for waiting in kept:
            for index, item in enumerate(waiting.record.items):
                if item.kind not in NUMBERED:
                    continue
                state.seq += 1
                if item.kind in RELIABLE:
                    state.rseq += 1
                    line = encode_line(line_of(waiting.record, index, item, state.seq, state.rseq))
                    reliable.append(line)
                    self._reflect(item.kind.value, item.data, line)
                    remember(self.recent_reliable, line)
                else:
                    line = encode_line(line_of(waiting.record, index, item, state.seq, n=waiting.n))
                    best_effort.append(line)
                    remember(self.recent, line)
        return reliable, best_effort

    def _reflect(self, kind: str, data: msgspec.Raw | bytes, line: bytes) -> None:
        """Apply a reliable message to the lasting state. A kind that only a later version knows
        changes nothing.
        """
        state = self.state
        match kind:
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

    def _clear(self, clear: Clear) -> None:
        state = self.state
        self._clears = True
        if clear.before_ms:
            self.hide(clear.user, clear.before_ms)
        ids = [clear.id] if clear.id else []
        stone = Tombstone(state.seq, state.rseq, ids, clear.user, clear.before_ms, clear.sender)
        state.tombstones = [*state.tombstones[-MAX_TOMBSTONES + 1 :], stone]
        for recent in (self.recent, self.recent_reliable):
            recent[:] = [line for line in recent if not is_cleared(line, clear)]
        if state.announcement and is_cleared(state.announcement, clear):
            state.announcement = b""

    # ---- lasting
    def frozen(self, dedupe_ms: int) -> RoomState:
        """Return the state as a snapshot holds it."""
        self.state.last_ms = self.clock_ms
        seen = [Seen(*_split(key), *met) for key, met in self.seen.since(self.clock_ms - dedupe_ms)]
        recent, recent_reliable = newest(self.recent), newest(self.recent_reliable)
        return msgspec.structs.replace(self.state, seen=seen, recent=recent, recent_reliable=recent_reliable)

    def apply(self, batch: Unpacked, clock_ms: int, recent: RecentIds) -> None:
        """Restore what a batch of the last owner did to this room. Raises HistoryError.

        The ids of best-effort messages go into `recent`. A batch that was written twice is applied
        once: its repeat is not valid.
        """
        header, state = batch.header, self.state
        self._is_again, self.is_told = False, True  # this batch has said so
        first, last = header.seq
        if batch.lines or header.skipped or header.likes is not None:
            self.clock_ms = clock_ms
        if header.likes is not None:
            state.likes = max(state.likes, header.likes)
        if first != state.seq + 1:
            raise HistoryError(f"room {state.room}: numbers {first} to {last} behind {state.seq}")
        messages = sorted(((*split_message(line), line) for line in batch.lines), key=lambda message: message[0].seq)
        for head, data, line in messages:
            state.seq = head.seq
            if head.rseq:
                state.rseq = head.rseq
                id_, is_of_many, _ = head.id.partition("#")
                self.seen.meet(f"{head.user} {id_}", clock_ms, 0 if is_of_many else digest_of_message(head.kind, data))
                with suppress(msgspec.ValidationError):  # a later version allows values that this one does not
                    self._reflect(head.kind, data, line)
                remember(self.recent_reliable, line)
            else:
                recent.meet(state.room, head.user, head.id.partition("#")[0], clock_ms)
                remember(self.recent, line)
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
            messages=[msgspec.Raw(line) for line in newest(self.recent)],
            reliable=[msgspec.Raw(line) for line in newest(self.recent_reliable)],
            tombstones=[msgspec.Raw(_encode(stone)) for stone in state.tombstones],
        )
        text = _encode(card)
        if len(text) > MAX_CARD_BYTES:
            text = _encode(msgspec.structs.replace(card, messages=[], reliable=[], tombstones=[]))
        return text


def unpack(entry: RoomEntry, payload: memoryview) -> Unpacked:
    """Return a room's part of a BATCH, unpacked."""
    text = payload_text(payload, deflated=bool(entry.flags & RoomFlags.DEFLATED))
    head, *lines = text.split(b"\n")
    return Unpacked(decode_header(head), lines)


def _split(key: str) -> tuple[str, str]:
    user, _, id_ = key.partition(" ")
    return user, id_
