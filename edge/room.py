"""One room on this gateway: its members, its newest numbers, its snapshot, and the ring of what was
pushed last. Pure.

Owns what a viewer who joins is given: the snapshot and what came since it, or, where it says how
far it has seen, what it missed. Refuses to skip silently: what the ring does not hold is left to a
pull. Called by the hub and the gateway.
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
RESUME_WHOLE_BYTES: Final = 48 * 1024  # what a resume may queue for one viewer: it must not look like a slow one
RESUME_BYTES: Final = 192 * 1024
GREETING_WHOLE_BYTES: Final = 12 * 1024  # more chatter than that nobody reads who has just come
_INFLATES: Final = 6  # payloads are text again for those who do not deflate


class NotSent(IntEnum):
    """Why `Subscriber.push` took nothing. Never above 0, as a size is: a push costs no object of
    its own.

    A push that returned a tuple of a verdict and a size took 0.3 us more, of 0.5 us without the
    system call.
    """

    SKIPPED = 0
    GONE = -1


class Subscriber(Protocol):
    """A viewer's connection as its rooms and the hub need it. `form`: the value of its `Form`."""

    user: str
    user_hash: int
    role: Role
    rooms: "dict[int, Room]"
    form: int

    def push(self, prepared: PreparedBatch) -> int:
        """Send a batch, or what a slow viewer gets of it; return the bytes taken, or `NotSent`."""

    def send(self, text: bytes) -> None:
        """Send a text of its own."""

    def close(self, code: Close, reason: str = "", /) -> None:
        """Say why, and end."""

    def replay(self, prepared: PreparedBatch, *, is_whole: bool) -> None:
        """Send all of a batch or its reliable part, however slow the viewer is."""


class Position(NamedTuple):
    """How far a viewer says it has seen a room."""

    epoch: int
    seq: int
    rseq: int


class RoomSnapshot(NamedTuple):
    """A room as its owner packed it for who enters: the text of the frame's `card`, how far it
    goes, when it came.
    """

    text: bytes
    at: Position
    taken_s: float


class Room:
    """A room with viewers here, or that had some a moment ago; and the newest numbers seen of it
    (None: none yet).

    `waiting`: who wants in, since when (seconds); not pushed to yet. `owed`: who came in without a
    snapshot. `base`: the ring holds everything numbered after it (seq, rseq), and, from `ring_from`
    on, of every record. `left_s`: when the last one left.
    """

    __slots__ = (
        "_greeting",
        "asked_s",
        "base",
        "epoch",
        "hash",
        "left_s",
        "members",
        "name",
        "owed",
        "pos",
        "pushed_s",
        "ring",
        "ring_bytes",
        "ring_from",
        "rseq",
        "seq",
        "snapshot",
        "waiting",
    )

    def __init__(self, name: str, hash_: int, now_s: float) -> None:
        self.name = name
        self.hash = hash_
        self.members: dict[Subscriber, None] = {}
        self.waiting: dict[Subscriber, float] = {}
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
        self.snapshot: RoomSnapshot | None = None
        self.asked_s = float("-inf")
        self._greeting: PreparedBatch | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nobody is here."""
        return not self.members and not self.waiting

    def take(self, prepared: PreparedBatch, epoch: int, pos: str, max_bytes: int) -> bool:
        """Take a batch's part into the ring, which may hold so much; say whether numbers are
        missing before it.
        """
        ring = self.ring
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
        """Keep nothing of a batch's part that could not be handled, nor of what lies before it: a
        pull must tell.
        """
        self.ring.clear()
        self.ring_bytes = 0
        self.base = (prepared.last, prepared.rseq)
        self.ring_from = prepared.offset + 1

    def clear(self, clears: Sequence[Cleared]) -> Generator[None, None, None]:
        """Take cleared messages out of the ring, and so out of all queues; drop the snapshot.

        Yields after each batch.
        """
        self.drop_snapshot()
        for prepared in list(self.ring):
            prepared.purge(clears)
            yield
        self.ring_bytes = sum(len(prepared.payload) for prepared in self.ring)

    # ---- the snapshot
    def take_snapshot(self, text: bytes, pos: str, offset: int, now_s: float) -> None:
        """Take the room's snapshot as its owner packed it; it tells the numbers too where no batch
        has.
        """
        card = decode_card(text)
        if card.epoch is None or card.seq is None or card.rseq is None:
            return
        if self.seq is None or self.epoch != card.epoch:
            self.epoch, self.seq, self.rseq, self.pos = card.epoch, card.seq, card.rseq, pos
            self.base = (card.seq, card.rseq)
            self.ring.clear()
            self.ring_bytes = 0
            self.ring_from = offset + 1
        self.snapshot = RoomSnapshot(text, Position(card.epoch, card.seq, card.rseq), now_s)
        self._greeting = None

    def read_snapshot(self) -> Card | None:
        """Return the snapshot as the protocol's `card`."""
        return decode_card(self.snapshot.text) if self.snapshot is not None else None

    def drop_snapshot(self) -> None:
        """Forget the snapshot: it shows what is gone."""
        self.snapshot = self._greeting = None

    def has_fresh_snapshot(self, now_s: float) -> bool:
        """Whether the snapshot, with the reliable messages since it, shows the room as it is."""
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
        """Whether to ask the owner for a snapshot now; counts as asked."""
        if now_s - self.asked_s < SNAPSHOT_ASK_S:
            return False
        self.asked_s = now_s
        return True

    # ---- answers
    def greeting(self, now_s: float, form: int) -> Sequence[tuple[PreparedBatch, bool]]:
        """Return what a viewer without a place of its own gets, and of each whether all of it:
        `joined`, what came since.
        """
        snapshot = self._fresh_snapshot(now_s)
        if snapshot is None:
            return [(_public(Joined(self.name, self.epoch, self.seq, self.rseq, self.pos)), True)]
        epoch, seq, rseq = snapshot.at
        if self._greeting is None:
            self._greeting = _public(Joined(self.name, epoch, seq, rseq, self.pos, card=decode_card(snapshot.text)))
        since, _ = self._since(snapshot.at, GREETING_WHOLE_BYTES, form)
        return [(self._greeting, True), *since]

    def missed(self, at: Position, form: int) -> Sequence[tuple[PreparedBatch, bool]] | None:
        """Return what a viewer has missed, and of each whether all of it (else its reliable part);
        None: a pull must tell.
        """
        if at.epoch != self.epoch or not (at.seq >= self.base[0] or at.rseq >= self.base[1]):
            return None
        since, size = self._since(at, RESUME_WHOLE_BYTES, form)
        if size > RESUME_BYTES:
            return None
        joined = Joined(self.name, at.epoch, at.seq, at.rseq, self.pos, resumed=True)
        return [(_public(joined), True), *since]

    def _since(self, at: Position, whole_bytes: int, form: int) -> tuple[list[tuple[PreparedBatch, bool]], int]:
        """Return what the ring holds behind a place, and its bytes.

        Of a long time the chatter is left out as for slow viewers: only the newest `whole_bytes` of
        it are worth sending.
        """
        parts: list[tuple[PreparedBatch, bool]] = []
        size = 0
        for prepared in reversed(self.ring):
            if prepared.last <= at.seq and prepared.rseq <= at.rseq:
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
