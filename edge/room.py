"""One room on this gateway: its members, its newest numbers, its snapshot, and a ring of what was
pushed last. Pure.

Owns what a viewer receives on entering: the snapshot and what followed it, or, after an absence,
what it missed. Never skips messages silently: what the ring does not hold is left to a pull. Called
by the hub and by joins.
"""

from collections import deque
from collections.abc import Generator, Sequence
from enum import IntEnum
from typing import Final, NamedTuple, Protocol

from edge.prepared_batch import Cleared, Form, PreparedBatch
from liveroom.closecodes import Close
from liveroom.kinds import Role
from liveroom.wire import Card, Joined, decode_card, encode_frame, pack_lines

RING_S: Final = 60.0
RING_BYTES: Final = 1024 * 1024
SNAPSHOT_FRESH_S: Final = 10.0
SNAPSHOT_ASK_S: Final = 1.0
ASKED_OFTEN: Final = 5  # times in a row, which a take-over may need
MAX_DOUBLINGS: Final = 4  # of the time after that: an owner with too many rooms does not answer
RESUME_WHOLE_BYTES: Final = 48 * 1024  # a resume must not queue so much that the viewer counts as slow
RESUME_BYTES: Final = 192 * 1024
GREETING_WHOLE_BYTES: Final = 12 * 1024  # a newcomer reads no more chatter than that
_INFLATES: Final = 6  # how much longer a payload is for a viewer without compression


class NotSent(IntEnum):
    """Why `Subscriber.push` sent nothing: a verdict in place of the bytes, which are above 0.

    One number says both, because a push that returned a verdict and a size as a tuple took 0.3 us
    more, of 0.5 us without the system call.
    """

    SKIPPED = 0
    GONE = -1


class Subscriber(Protocol):
    """A viewer's connection, as rooms and the hub see it.

    `device_hash`: of the user and its device; 0 where the device is unknown. `address`: of one
    subscriber (`liveroom.networks.subscriber`). `form`: the value of its `Form`. `named_rooms`:
    the rooms of its ticket that the user's token names. `request_id`: its name in the log.
    """

    user: str
    user_hash: int
    device_hash: int
    address: str
    role: Role
    named_rooms: tuple[str, ...]
    rooms: "dict[int, Room]"
    form: int
    request_id: str

    def push(self, prepared: PreparedBatch) -> int:
        """Send a batch, or its reliable part to a slow viewer.

        Returns the bytes sent or queued, or `NotSent`.
        """

    def send(self, text: bytes) -> None:
        """Send a text to this viewer alone."""

    def close(self, code: Close, reason: str = "", /) -> None:
        """Close with a code and a reason (empty: that of the code)."""

    def replay(self, prepared: PreparedBatch, *, is_whole: bool) -> None:
        """Send all of a batch or its reliable part, however slow the viewer is."""


class Audience(NamedTuple):
    """How many watch a room here: users, their devices, and their connections.

    A connection whose device is unknown counts as a device of its own. So `users` is at most
    `devices`, and `devices` at most `connections`.
    """

    users: int
    devices: int
    connections: int


class Position(NamedTuple):
    """How far a viewer has seen a room, by its own account."""

    epoch: int
    seq: int
    rseq: int


class RoomSnapshot(NamedTuple):
    """A room as its owner packed it for newcomers.

    `text`: the frame field `card`. `at`: the numbers up to which it goes. `offset`: of its record.
    `taken_s`: when it came.
    """

    text: bytes
    at: Position
    offset: int
    taken_s: float


class Room:
    """A room that has viewers here, or had some a moment ago.

    `epoch`, `seq`, `rseq`: the newest numbers seen (None: none yet). `members`: those to whom
    batches are pushed. `waiting`: members that wait to enter, with the time since when. `users`:
    how many users all these are; the hub counts them. `owed`: members that entered without a
    snapshot. `base`: the ring holds everything numbered after this (seq, rseq). `ring_from`: it
    also holds everything in records from this offset on. `left_s`: when the last member left.
    `has_content`: whether a message came since the room is here.

    `is_quiet`: as far as this gateway knows, nobody ever spoke in the room, so somebody may have
    invented it (`edge.quiet_rooms`). `opener`: while it is quiet and watched, the member for whose
    address it counts. `opened_s`: since when it is watched.
    """

    __slots__ = (
        "_greeting",
        "_unanswered",
        "asked_s",
        "base",
        "epoch",
        "has_content",
        "hash",
        "is_quiet",
        "left_s",
        "members",
        "name",
        "opened_s",
        "opener",
        "owed",
        "pos",
        "pushed_s",
        "ring",
        "ring_bytes",
        "ring_from",
        "rseq",
        "seq",
        "snapshot",
        "users",
        "waiting",
    )

    def __init__(self, name: str, hash_: int, now_s: float) -> None:
        self.name = name
        self.hash = hash_
        self.members: dict[Subscriber, None] = {}
        self.waiting: dict[Subscriber, float] = {}
        self.users = 0
        self.owed: dict[Subscriber, None] = {}
        self.epoch: int | None = None
        self.seq: int | None = None
        self.rseq: int | None = None
        self.pos = ""
        self.pushed_s = now_s
        self.left_s = now_s
        self.ring: deque[PreparedBatch] = deque()
        self.ring_bytes = 0
        self.ring_from: int | None = None
        self.base = (0, 0)
        self.has_content = False
        self.is_quiet = True
        self.opener: Subscriber | None = None
        self.opened_s = now_s
        self.snapshot: RoomSnapshot | None = None
        self.asked_s = float("-inf")
        self._unanswered = 0
        self._greeting: PreparedBatch | None = None

    @property
    def is_empty(self) -> bool:
        """Return whether nobody is here."""
        return not self.members and not self.waiting

    @property
    def size(self) -> int:
        """Return how many connections are here."""
        return len(self.members) + len(self.waiting)

    def audience(self) -> Audience:
        """Return how many are here, those that wait to enter among them."""
        devices = {member.device_hash or id(member) for members in (self.members, self.waiting) for member in members}
        return Audience(self.users, len(devices), self.size)

    def list_users(self) -> set[int]:
        """Return the users (hashes) who are here, those that wait to enter among them."""
        return {member.user_hash for members in (self.members, self.waiting) for member in members}

    def take(self, prepared: PreparedBatch, epoch: int, pos: str, max_bytes: int) -> bool:
        """Add a batch's part to the ring of at most `max_bytes`; return whether numbers are missing
        before it.
        """
        ring = self.ring
        self._unanswered = 0
        is_gap = self.epoch == epoch and self.seq is not None and prepared.first > self.seq + 1
        if is_gap or self.epoch != epoch:
            ring.clear()
            self.ring_bytes = 0
            self.base = (prepared.first - 1, prepared.rseq)
            self.ring_from = prepared.offset
        elif ring:
            ring[-1].forget()
        self.epoch, self.seq, self.rseq, self.pos, self.pushed_s = epoch, prepared.last, prepared.rseq, pos, prepared.at_s
        ring.append(prepared)
        self.ring_bytes += len(prepared.payload)
        while self.ring_bytes > max_bytes or ring[0].at_s < prepared.at_s - RING_S:
            old = ring.popleft()
            self.ring_bytes -= len(old.payload)
            self.base = (old.last, old.rseq)
            self.ring_from = old.offset + 1
            if not ring:
                break
        return is_gap

    def pass_over(self, prepared: PreparedBatch) -> None:
        """Empty the ring after a part that could not be handled: only a pull can recover it."""
        self.ring.clear()
        self.ring_bytes = 0
        self.base = (prepared.last, prepared.rseq)
        self.ring_from = prepared.offset + 1

    def clear(self, clears: Sequence[Cleared]) -> Generator[None, None, None]:
        """Take cleared messages out of the ring, and so out of all send queues; drop the snapshot.

        Yields after each batch of the ring.
        """
        self.drop_snapshot()
        for prepared in list(self.ring):
            prepared.purge(clears)
            yield
        self.ring_bytes = sum(len(prepared.payload) for prepared in self.ring)

    # ---- the snapshot
    def take_snapshot(self, text: bytes, pos: str, offset: int, now_s: float) -> bool:
        """Take the room's snapshot as its owner packed it; return whether it shows that anybody
        ever sent anything to the room.

        Where no batch of its epoch has come yet, the room takes its numbers too. Raises
        `BadFrameError`.
        """
        card = decode_card(text)
        self._unanswered = 0
        if card.epoch is None or card.seq is None or card.rseq is None:
            return False
        if self.seq is None or self.epoch != card.epoch:
            self.epoch, self.seq, self.rseq, self.pos = card.epoch, card.seq, card.rseq, pos
            self.base = (card.seq, card.rseq)
            self.ring.clear()
            self.ring_bytes = 0
            self.ring_from = offset + 1
        self.snapshot = RoomSnapshot(text, Position(card.epoch, card.seq, card.rseq), offset, now_s)
        self._greeting = None
        return bool(card.seq or card.likes)

    def read_snapshot(self) -> Card | None:
        """Return the snapshot as the protocol's `card`."""
        return decode_card(self.snapshot.text) if self.snapshot is not None else None

    def drop_snapshot(self) -> None:
        """Forget the snapshot: it shows messages that were cleared."""
        self.snapshot = self._greeting = None

    def has_fresh_snapshot(self, now_s: float) -> bool:
        """Return whether the snapshot and the ring together show the room as it is."""
        return self._fresh_snapshot(now_s) is not None

    def _fresh_snapshot(self, now_s: float) -> RoomSnapshot | None:
        snapshot = self.snapshot
        if snapshot is None or snapshot.at.epoch != self.epoch:
            return None
        at = snapshot.at
        is_bridged = at.seq >= self.base[0] or at.rseq >= self.base[1]
        is_fresh = is_bridged and (at.seq == self.seq or now_s - snapshot.taken_s <= SNAPSHOT_FRESH_S)
        return snapshot if is_fresh else None

    def wants_snapshot(self, now_s: float) -> bool:
        """Return whether to ask the owner for a snapshot now; if so, it counts as asked.

        After `ASKED_OFTEN` questions that nothing of the room followed, each doubles the time until
        the next one.
        """
        doublings = min(max(0, self._unanswered - ASKED_OFTEN), MAX_DOUBLINGS)
        if now_s - self.asked_s < SNAPSHOT_ASK_S * (1 << doublings):
            return False
        self.asked_s = now_s
        self._unanswered += 1
        return True

    # ---- answers
    def greeting(self, now_s: float, form: int) -> Sequence[tuple[PreparedBatch, bool]]:
        """Return what a newcomer receives: `joined`, with the snapshot where that is fresh, and
        then what followed it.

        Each batch comes with whether all of it is sent, or its reliable part only.
        """
        snapshot = self._fresh_snapshot(now_s)
        if snapshot is None:
            return [(_public(Joined(self.name, self.epoch, self.seq, self.rseq, self.pos)), True)]
        epoch, seq, rseq = snapshot.at
        if self._greeting is None:
            self._greeting = _public(Joined(self.name, epoch, seq, rseq, self.pos, card=decode_card(snapshot.text)))
        since, _ = self._since(snapshot.at, GREETING_WHOLE_BYTES, form, snapshot.offset)
        return [(self._greeting, True), *since]

    def missed(self, at: Position, form: int) -> Sequence[tuple[PreparedBatch, bool]] | None:
        """Return what a viewer that was away receives: `joined`, and what it missed after `at`, as
        `greeting` does. None: the ring does not hold it, or it is too much; the viewer must pull.
        """
        if at.epoch != self.epoch or not (at.seq >= self.base[0] or at.rseq >= self.base[1]):
            return None
        since, size = self._since(at, RESUME_WHOLE_BYTES, form)
        if size > RESUME_BYTES:
            return None
        joined = Joined(self.name, at.epoch, at.seq, at.rseq, self.pos, resumed=True)
        return [(_public(joined), True), *since]

    def _since(
        self, at: Position, whole_bytes: int, form: int, offset: int = 0
    ) -> tuple[list[tuple[PreparedBatch, bool]], int]:
        """Return what the ring holds after `at`, and its size in bytes.

        After a long absence, chat is dropped as for slow viewers: batches are whole within the
        newest `whole_bytes`, and reliable parts before that. Of the batches that hold sums alone
        (likes, viewers), the newest counts, unless its record is before `offset`.
        """
        parts: list[tuple[PreparedBatch, bool]] = []
        size = 0
        has_sums = False
        for prepared in reversed(self.ring):
            if prepared.is_empty:
                if has_sums or prepared.offset < offset:
                    continue
                has_sums = True
            elif prepared.last <= at.seq and prepared.rseq <= at.rseq:
                break
            whole = len(prepared.payload) * (1 if form == Form.DEFLATED or not prepared.is_deflated else _INFLATES)
            is_whole = size + whole <= whole_bytes
            if is_whole or prepared.reliable_size:
                size += whole if is_whole else whole * prepared.reliable_size // len(prepared.payload)
                parts.append((prepared, is_whole))
        parts.reverse()
        return parts, size


def _public(joined: Joined) -> PreparedBatch:
    packed = pack_lines(encode_frame(joined))
    return PreparedBatch(packed.data, is_deflated=packed.deflated)
