"""What a pull asks, and what it is answered from the stretch of the log that was read for it. Pure.

Owns the choice of the messages: those asked for, cleared ones left out, as many whole batches as
fit into one answer. Says what is not kept any more, and that there is more. `edge.pulls` asks.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from edge.prepared_batch import Cleared, PreparedBatch, purged
from edge.room import Room
from liveroom.errors import Code, ProblemError
from liveroom.records.codec import NO_OFFSET
from liveroom.wire import MessageHead, Pulled

MAX_DIGITS: Final = 18
MAX_MESSAGES: Final = 1000
MAX_ANSWER_BYTES: Final = 512 * 1024
_POS: Final = re.compile(r"([0-9]{1,4})\.([0-9]{1,18})\Z")


class Question(NamedTuple):
    """What a viewer asks: messages behind (`after`) and before numbers, from a place in the log
    on.
    """

    offset: int
    epoch: int | None
    after_rseq: int | None
    after_seq: int | None
    before_seq: int | None

    def is_held_by(self, room: Room) -> bool:
        """Whether the room's ring has all that is asked for."""
        if room.epoch is None or self.epoch not in {None, room.epoch}:
            return False
        seq, rseq = room.base
        if self.after_rseq is not None:
            return self.after_rseq >= rseq
        return self.after_seq is not None and self.after_seq >= seq

    def lines_of(self, prepared: PreparedBatch) -> list[tuple[MessageHead, bytes]]:
        """Return the messages of a batch that are asked for."""
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


class Stretch(NamedTuple):
    """What one room has in the log from `start` to before `stop`.

    `is_cut`: what lay before `start` is gone.
    """

    start: int
    stop: int
    parts: Sequence[Part]
    is_cut: bool
    at_s: float


def read_question(query: Mapping[str, str], partition: int) -> Question:
    """Read the query of a pull, or raise the problem: schema."""
    numbers: dict[str, int | None] = {}
    for name in ("epoch", "after_rseq", "after_seq", "before_seq"):
        text = query.get(name)
        if text is not None and not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS):
            raise ProblemError(Code.SCHEMA, f"{name} is a number from 0 to 2^63")
        numbers[name] = None if text is None else int(text)
    offset = NO_OFFSET
    if pos := query.get("pos", ""):
        place = _POS.match(pos)
        if place is None or int(place[1]) != partition:
            raise ProblemError(Code.SCHEMA, "pos is one that a batch, a joined or a pull of this room gave")
        offset = int(place[2])
    return Question(offset, **numbers)


class _Chosen:
    """The messages of one answer, batch by batch.

    `seq`, `rseq`: how far it goes; `lowest`: the first number asked for.
    """

    def __init__(self, question: Question) -> None:
        self._question = question
        self._texts: list[tuple[int, bytes]] = []
        self._size = 0
        self.seq = question.after_seq or 0
        self.rseq = question.after_rseq or 0
        self.lowest: int | None = None

    def take(self, prepared: PreparedBatch, clears: Sequence[Cleared]) -> bool:
        """Take what is asked for of a batch; say whether it fits.

        What does not is left out whole.
        """
        lines = self._question.lines_of(prepared)
        added = sum(len(raw) for _, raw in lines)
        if not self._fits(len(lines), added):
            return False
        self._size += added
        for line, raw in lines:
            number = line.rseq if self._question.after_rseq is not None else line.seq
            self.lowest = number if self.lowest is None else min(self.lowest, number)
            left = purged(line, raw, clears)
            if left is not None:
                self._texts.append((line.seq, left))
        self.seq, self.rseq = max(self.seq, prepared.last), max(self.rseq, prepared.rseq)
        return True

    def _fits(self, messages: int, size: int) -> bool:
        if not self._texts or self._question.before_seq is not None:
            return True
        return len(self._texts) + messages <= MAX_MESSAGES and self._size + size <= MAX_ANSWER_BYTES

    def has_hole(self) -> bool:
        """Whether something may be missing between the number asked for and the first one found."""
        after = self._question.after_rseq if self._question.after_rseq is not None else self._question.after_seq
        return after is None or self.lowest is None or self.lowest > after + 1

    def messages(self) -> list[msgspec.Raw]:
        """Return them in order; where there are too many the newest."""
        self._texts.sort(key=lambda pair: pair[0])
        return [msgspec.Raw(raw) for _, raw in self._texts[-MAX_MESSAGES:]]


def answer(name: str, partition: int, question: Question, stretch: Stretch, *, is_whole: bool) -> Pulled:
    """Return the messages that are asked for, cleared ones left out; as many whole batches as fit
    into one answer.

    `is_whole`: the stretch goes on to what viewers here have been pushed; else there is more behind
    it.
    """
    newest = stretch.parts[-1].epoch if stretch.parts else None
    epoch = question.epoch if question.epoch is not None else newest
    batches = [part.prepared for part in stretch.parts if part.epoch == epoch]
    clears = [clear for prepared in batches if prepared.has_clear for clear in prepared.clears()]
    chosen = _Chosen(question)
    stop = stretch.stop
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
        gone=stretch.is_cut and chosen.has_hole(),
        messages=chosen.messages(),
    )
