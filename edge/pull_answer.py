"""The query of a pull, and the answer to it from a slice of the log. Pure.

Owns the choice of the messages: those that the query wants, without cleared ones, in as many whole
batches as fit into one answer. The answer says where more follows, and where older messages are no
longer kept. `edge.pulls` calls it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from edge.prepared_batch import Cleared, PreparedBatch, purged
from edge.room import Room
from liveroom.errors import Code, ProblemError
from liveroom.wire import MessageHead, Pulled

MAX_DIGITS: Final = 18
_BEFORE_ALL: Final = -1  # an offset
MAX_MESSAGES: Final = 1000
MAX_ANSWER_BYTES: Final = 512 * 1024
_POS: Final = re.compile(r"([0-9]{1,4})\.([0-9]{1,18})\Z")


class PullQuery(NamedTuple):
    """The messages that a viewer wants: those after, or before, numbers of the room.

    `offset`: where to begin in the log. `epoch`: of the numbers (None: the newest one).
    """

    offset: int
    epoch: int | None
    after_rseq: int | None
    after_seq: int | None
    before_seq: int | None

    def is_held_by(self, room: Room) -> bool:
        """Return whether the room's ring holds everything that is wanted."""
        if room.epoch is None or self.epoch not in {None, room.epoch}:
            return False
        seq, rseq = room.base
        if self.after_rseq is not None:
            return self.after_rseq >= rseq
        return self.after_seq is not None and self.after_seq >= seq

    def lines_of(self, prepared: PreparedBatch) -> list[tuple[MessageHead, bytes]]:
        """Return the wanted messages of a batch."""
        if prepared.last <= (self.after_seq or 0) or (self.after_rseq is not None and prepared.rseq <= self.after_rseq):
            return []
        return [(line, raw) for line, raw in prepared.lines() if self._wants(line)]

    def _wants(self, line: MessageHead) -> bool:
        if self.before_seq is not None and line.seq >= self.before_seq:
            return False
        if self.after_rseq is not None:
            return line.rseq > self.after_rseq
        return self.after_seq is None or line.seq > self.after_seq


class Part(NamedTuple):
    """A room's part of a batch, and the epoch of its numbers."""

    epoch: int
    prepared: PreparedBatch


class LogSlice(NamedTuple):
    """What one room has in the log from the offset `start` up to but not including `stop`.

    `is_cut`: older records that were wanted are gone. `at_s`: when it was read.
    """

    start: int
    stop: int
    parts: Sequence[Part]
    is_cut: bool
    at_s: float


def read_query(query: Mapping[str, str], partition: int) -> PullQuery:
    """Return the query of a pull; raise `ProblemError` (schema) where it is malformed."""
    numbers: dict[str, int | None] = {}
    for name in ("epoch", "after_rseq", "after_seq", "before_seq"):
        text = query.get(name)
        if text is not None and not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS):
            raise ProblemError(Code.SCHEMA, f"{name} is a number from 0 to 2^63")
        numbers[name] = None if text is None else int(text)
    offset = _BEFORE_ALL
    if pos := query.get("pos", ""):
        place = _POS.match(pos)
        if place is None or int(place[1]) != partition:
            raise ProblemError(Code.SCHEMA, "pos is one that a batch, a joined or a pull of this room gave")
        offset = int(place[2])
    return PullQuery(offset, **numbers)


class _Selection:
    """The messages of one answer, batch by batch.

    `seq`, `rseq`: the numbers up to which it is complete. `lowest`: the first wanted number found.
    """

    def __init__(self, query: PullQuery) -> None:
        self._query = query
        self._texts: list[tuple[int, bytes]] = []
        self._size = 0
        self.seq = query.after_seq or 0
        self.rseq = query.after_rseq or 0
        self.lowest: int | None = None

    def take(self, prepared: PreparedBatch, clears: Sequence[Cleared]) -> bool:
        """Add the wanted messages of a batch; return whether they fit.

        A batch that does not fit is left out whole.
        """
        lines = self._query.lines_of(prepared)
        added = sum(len(raw) for _, raw in lines)
        if not self._fits(len(lines), added):
            return False
        self._size += added
        for line, raw in lines:
            number = line.rseq if self._query.after_rseq is not None else line.seq
            self.lowest = number if self.lowest is None else min(self.lowest, number)
            left = purged(line, raw, clears)
            if left is not None:
                self._texts.append((line.seq, left))
        self.seq, self.rseq = max(self.seq, prepared.last), max(self.rseq, prepared.rseq)
        return True

    def _fits(self, messages: int, size: int) -> bool:
        if not self._texts or self._query.before_seq is not None:
            return True
        return len(self._texts) + messages <= MAX_MESSAGES and self._size + size <= MAX_ANSWER_BYTES

    def has_hole(self) -> bool:
        """Return whether messages may be missing between the wanted number and the first found."""
        after = self._query.after_rseq if self._query.after_rseq is not None else self._query.after_seq
        return after is None or self.lowest is None or self.lowest > after + 1

    def messages(self) -> list[msgspec.Raw]:
        """Return the messages in order of `seq`; of too many the newest."""
        self._texts.sort(key=lambda pair: pair[0])
        return [msgspec.Raw(raw) for _, raw in self._texts[-MAX_MESSAGES:]]


def answer(name: str, partition: int, query: PullQuery, log_slice: LogSlice, *, is_whole: bool) -> Pulled:
    """Return the answer to a query about the room `name`.

    `is_whole`: the slice reaches what this gateway has pushed; otherwise more follows behind it.
    """
    newest = log_slice.parts[-1].epoch if log_slice.parts else None
    epoch = query.epoch if query.epoch is not None else newest
    batches = [part.prepared for part in log_slice.parts if part.epoch == epoch]
    clears = [clear for prepared in batches if prepared.has_clear for clear in prepared.clears()]
    chosen = _Selection(query)
    stop = log_slice.stop
    for prepared in batches:
        if not chosen.take(prepared, clears):
            stop, is_whole = prepared.offset, False
            break
    return Pulled(
        room=name,
        epoch=epoch,
        seq=chosen.seq,
        rseq=chosen.rseq,
        pos=f"{partition}.{stop}",
        more=not is_whole,
        gone=log_slice.is_cut and chosen.has_hole(),
        messages=chosen.messages(),
    )
