"""One room on this gateway: its members, its newest numbers, its card, and the ring of what was pushed last. Pure.

Owns what a viewer who joins is given: the card and what came since it, or, where it says how far it has seen, what it missed.
Refuses to skip silently: what the ring does not hold is left to a pull. Called by the hub and the server.
"""

from collections import deque
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from edge.frames import DEFLATED, Cleared, Frames
from liveroom.wire import Card, Joined, decode_card, encode_frame, pack_lines

if TYPE_CHECKING:
    from edge.hub import Member

RING_S: Final = 60.0
RING_BYTES: Final = 1024 * 1024
CARD_FRESH_S: Final = 10.0
CARD_ASK_S: Final = 1.0
RESUME_WHOLE_BYTES: Final = 48 * 1024  # what a resume may queue for one viewer: it must not look like a slow one
RESUME_BYTES: Final = 192 * 1024
GREETING_WHOLE_BYTES: Final = 12 * 1024  # more chatter than that nobody reads who has just come
_INFLATES: Final = 6  # payloads are text again for those who do not deflate


class Position(NamedTuple):
    """How far a viewer says it has seen a room."""

    epoch: int
    seq: int
    rseq: int


class Room:
    """A room with viewers here, or that had some a moment ago; and the newest numbers seen of it (None: none yet).

    `waiting`: who wants in, since when (seconds); not pushed to yet. `owed`: who came in without a card. `base`: the ring holds
    everything numbered after it (seq, rseq), and, from `ring_from` on, of every record. `left_s`: when the last viewer left.
    """

    __slots__ = (
        "_greeting",
        "asked_s",
        "base",
        "card",
        "card_at",
        "card_s",
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
        "waiting",
    )

    def __init__(self, name: str, hash_: int, now_s: float) -> None:
        self.name = name
        self.hash = hash_
        self.members: dict[Member, None] = {}
        self.waiting: dict[Member, float] = {}
        self.owed: dict[Member, None] = {}
        self.epoch: int | None = None
        self.seq: int | None = None
        self.rseq: int | None = None
        self.pos = ""
        self.pushed_s = now_s
        self.left_s = now_s
        self.ring: deque[Frames] = deque()
        self.ring_bytes = 0
        self.ring_from: int | None = None
        self.base = (0, 0)
        self.card: bytes | None = None
        self.card_at: Position | None = None
        self.card_s = 0.0
        self.asked_s = float("-inf")
        self._greeting: Frames | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nobody is here."""
        return not self.members and not self.waiting

    def take(self, frames: Frames, epoch: int, pos: str, max_bytes: int) -> bool:
        """Take a batch's part into the ring, which may hold so much; say whether numbers are missing before it."""
        ring = self.ring
        is_gap = self.epoch == epoch and self.seq is not None and frames.first > self.seq + 1
        if is_gap or self.epoch != epoch:
            ring.clear()
            self.ring_bytes = 0
            self.base = (frames.first - 1, frames.rseq)
            self.ring_from = frames.offset
        elif ring:
            ring[-1].forget()
        self.epoch, self.seq, self.rseq, self.pos, self.pushed_s = epoch, frames.last, frames.rseq, pos, frames.at_s
        ring.append(frames)
        self.ring_bytes += len(frames.payload)
        while self.ring_bytes > max_bytes or ring[0].at_s < frames.at_s - RING_S:
            old = ring.popleft()
            self.ring_bytes -= len(old.payload)
            self.base = (old.last, old.rseq)
            self.ring_from = old.offset + 1
            if not ring:
                break
        return is_gap

    def pass_over(self, frames: Frames) -> None:
        """Keep nothing of a batch's part that could not be handled, nor of what lies before it: a pull must tell."""
        self.ring.clear()
        self.ring_bytes = 0
        self.base = (frames.last, frames.rseq)
        self.ring_from = frames.offset + 1

    def clear(self, clears: Sequence[Cleared]) -> Generator[None, None, None]:
        """Take cleared messages out of the ring, and so out of all queues; yields after each batch. The card may hold some."""
        self.drop_card()
        for frames in list(self.ring):
            frames.purge(clears)
            yield
        self.ring_bytes = sum(len(frames.payload) for frames in self.ring)

    # ---- the card
    def take_card(self, text: bytes, pos: str, offset: int, now_s: float) -> None:
        """Take the room's card as its owner packed it; it tells the numbers too where no batch has."""
        card = decode_card(text)
        if card.epoch is None or card.seq is None or card.rseq is None:
            return
        if self.seq is None or self.epoch != card.epoch:
            self.epoch, self.seq, self.rseq, self.pos = card.epoch, card.seq, card.rseq, pos
            self.base = (card.seq, card.rseq)
            self.ring.clear()
            self.ring_bytes = 0
            self.ring_from = offset + 1
        self.card, self.card_at, self.card_s = text, Position(card.epoch, card.seq, card.rseq), now_s
        self._greeting = None

    def read_card(self) -> Card | None:
        """Return the card."""
        return decode_card(self.card) if self.card is not None else None

    def drop_card(self) -> None:
        """Forget the card: it shows what is gone."""
        self.card = self.card_at = self._greeting = None

    def has_fresh_card(self, now_s: float) -> bool:
        """Whether the card, with the reliable messages since it, shows the room as it is."""
        at = self.card_at
        if at is None or at.epoch != self.epoch:
            return False
        is_bridged = at.seq >= self.base[0] or at.rseq >= self.base[1]
        return is_bridged and (at.seq == self.seq or now_s - self.card_s <= CARD_FRESH_S)

    def wants_card(self, now_s: float) -> bool:
        """Whether to ask the owner for a card now; counts as asked."""
        if now_s - self.asked_s < CARD_ASK_S:
            return False
        self.asked_s = now_s
        return True

    # ---- answers
    def greeting(self, now_s: float, form: int) -> Sequence[tuple[Frames, bool]]:
        """Return what a viewer without a place of its own gets, and of each whether all of it: `joined`, what came since."""
        if not self.has_fresh_card(now_s) or self.card is None or self.card_at is None:
            return [(_public(Joined(self.name, self.epoch, self.seq, self.rseq, self.pos)), True)]
        epoch, seq, rseq = self.card_at
        if self._greeting is None:
            self._greeting = _public(Joined(self.name, epoch, seq, rseq, self.pos, card=decode_card(self.card)))
        since, _ = self._since(self.card_at, GREETING_WHOLE_BYTES, form)
        return [(self._greeting, True), *since]

    def missed(self, at: Position, form: int) -> Sequence[tuple[Frames, bool]] | None:
        """Return what a viewer has missed, and of each whether all of it (else its reliable part); None: a pull must tell."""
        if at.epoch != self.epoch or not (at.seq >= self.base[0] or at.rseq >= self.base[1]):
            return None
        since, size = self._since(at, RESUME_WHOLE_BYTES, form)
        if size > RESUME_BYTES:
            return None
        joined = Joined(self.name, at.epoch, at.seq, at.rseq, self.pos, resumed=True)
        return [(_public(joined), True), *since]

    def _since(self, at: Position, whole_bytes: int, form: int) -> tuple[list[tuple[Frames, bool]], int]:
        """Return what the ring holds behind a place, and its bytes.

        Of a long time the chatter is left out as for slow viewers: only the newest `whole_bytes` of it are worth sending.
        """
        parts: list[tuple[Frames, bool]] = []
        size = 0
        for frames in reversed(self.ring):
            if frames.last <= at.seq and frames.rseq <= at.rseq:
                break
            whole = len(frames.payload) * (1 if form == DEFLATED or not frames.is_deflated else _INFLATES)
            is_whole = size + whole <= whole_bytes
            if is_whole or frames.reliable_size:
                size += whole if is_whole else whole * frames.reliable_size // len(frames.payload)
                parts.append((frames, is_whole))
        parts.reverse()
        return parts, size


def _public(joined: Joined) -> Frames:
    packed = pack_lines(encode_frame(joined))
    return Frames(packed.data, is_deflated=packed.deflated)
