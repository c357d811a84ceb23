"""The query of a pull, and the answer to it from a slice of the log. Pure.

Owns the choice of the messages: those that the query wants, without cleared ones, in as many whole
batches as fit into one answer. A batch is opened only where its numbers show that it holds wanted
messages; with `before_seq` the newest ones come first, until the answer is full. The answer states
where more follows, and whether wanted messages are no longer kept or cannot be read. `edge.pulls`
calls it.
"""

import re
from collections.abc import Generator, Mapping, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import msgspec

from edge.prepared_batch import Clears, PreparedBatch, purged
from edge.pull_slices import LogSlice
from edge.room import Room
from liveroom.errors import Code, ProblemError
from liveroom.wire import BadFrameError, MessageHead, Pulled

MAX_DIGITS: Final = 18
_BEFORE_ALL: Final = -1  # an offset
MAX_MESSAGES: Final = 1000
MAX_ANSWER_BYTES: Final = 512 * 1024
_PARTS_A_STEP: Final = 500  # looking at the numbers of so many batches takes a tenth of a millisecond
_POS: Final = re.compile(r"([0-9]{1,4})\.([0-9]{1,18})\Z")

Line = tuple[MessageHead, bytes]


class PullQuery(NamedTuple):
    """The messages that a viewer wants: those after, or before, numbers of the room.

    `offset`: where to begin in the log. `epoch`: of the numbers (None: the newest one).
    """

    offset: int
    epoch: int | None
    after_rseq: int | None
    after_seq: int | None
    before_seq: int | None

    @property
    def is_empty(self) -> bool:
        """Return whether no message can have the wanted numbers."""
        return self.before_seq is not None and self.before_seq <= (self.after_seq or 0) + 1

    def is_held_by(self, room: Room) -> bool:
        """Return whether the room's ring holds everything that the answer needs."""
        if room.epoch is None or self.epoch not in {None, room.epoch}:
            return False
        seq, rseq = room.base
        if self.after_rseq is not None:
            return self.after_rseq >= rseq
        if self.after_seq is not None and self.after_seq >= seq:
            return True
        return self.before_seq is not None and min(self.before_seq - 1, room.seq or 0) - seq >= MAX_MESSAGES

    def may_want(self, prepared: PreparedBatch) -> bool:
        """Return whether a batch may hold wanted messages, by its numbers alone."""
        if prepared.first > prepared.last or (self.before_seq is not None and prepared.first >= self.before_seq):
            return False
        if self.after_rseq is not None and (not prepared.reliable_size or prepared.rseq <= self.after_rseq):
            return False
        return self.after_seq is None or prepared.last > self.after_seq

    def may_miss(self, before: PreparedBatch, after: PreparedBatch) -> bool:
        """Return whether wanted messages may be missing between two batches of a slice."""
        if after.first <= before.last + 1 or (self.before_seq is not None and before.last + 1 >= self.before_seq):
            return False
        if self.after_rseq is not None:
            return after.rseq > max(self.after_rseq, before.rseq)
        return self.after_seq is None or after.first - 1 > self.after_seq

    def wants(self, line: MessageHead) -> bool:
        """Return whether a message is wanted."""
        if self.before_seq is not None and line.seq >= self.before_seq:
            return False
        if self.after_rseq is not None:
            return line.rseq > self.after_rseq
        return self.after_seq is None or line.seq > self.after_seq

    def lines_of(self, prepared: PreparedBatch) -> Generator[None, None, list[Line]]:
        """Return the wanted messages of a batch, in order of `seq`; none of one that is broken.

        Yields after each step of the work.
        """
        lines: list[Line] = []
        try:
            for line in prepared.walk(reliable_only=self.after_rseq is not None):
                if line is None:
                    yield
                elif self.wants(line[0]):
                    lines.append(line)
        except BadFrameError:
            return []
        lines.sort(key=_seq)
        return lines


def _seq(line: Line) -> int:
    return line[0].seq


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
    `is_full`: more of them do not fit. `has_gap`: a batch is missing between two of them.
    """

    def __init__(self, query: PullQuery, clears: Clears) -> None:
        self._query = query
        self._clears = clears
        self._texts: list[tuple[int, bytes]] = []
        self._count = 0
        self._size = 0
        self.seq = query.after_seq or 0
        self.rseq = query.after_rseq or 0
        self.lowest: int | None = None
        self.is_full = False
        self.has_gap = False

    def pass_by(self, prepared: PreparedBatch) -> None:
        """Note that the answer is complete up to the end of a batch."""
        self.seq, self.rseq = max(self.seq, prepared.last), max(self.rseq, prepared.rseq)

    def take(self, lines: Sequence[Line]) -> bool:
        """Add the wanted messages of the next batch; return whether all of them are in the answer.

        Those that do not fit are left out together. Where they are the first ones, as many of them
        as fit are taken.
        """
        if self._fitting(lines) == len(lines):
            self._add(lines)
            return True
        self.is_full = True
        if not self._count:
            fitting = lines[: self._fitting(lines)]
            self._add(fitting)
            self.seq = max(self.seq, fitting[-1][0].seq)
            self.rseq = max(self.rseq, *(line.rseq for line, _ in fitting))
        return False

    def take_newest(self, lines: Sequence[Line]) -> None:
        """Add the newest of the wanted messages of the batch before, as many as fit."""
        newest = lines[::-1]
        fitting = self._fitting(newest)
        self.is_full = fitting < len(lines) or self._count + fitting == MAX_MESSAGES
        self._add(newest[:fitting])

    def _fitting(self, lines: Sequence[Line]) -> int:
        """Return how many of these messages fit, from the first one on; one always does."""
        count, size = self._count, self._size
        for number, (_, raw) in enumerate(lines):
            size += len(raw)
            if count and (count == MAX_MESSAGES or size > MAX_ANSWER_BYTES):
                return number
            count += 1
        return len(lines)

    def _add(self, lines: Sequence[Line]) -> None:
        for line, raw in lines:
            self._count += 1
            self._size += len(raw)
            number = line.rseq if self._query.after_rseq is not None else line.seq
            self.lowest = number if self.lowest is None else min(self.lowest, number)
            left = purged(line, raw, self._clears)
            if left is not None:
                self._texts.append((line.seq, left))

    def has_hole(self, batches: Sequence[PreparedBatch], *, is_cut: bool) -> bool:
        """Return whether messages may be missing among those wanted: at the beginning, where that
        was cut off, or where a batch is missing or broken.
        """
        if self._query.before_seq is not None and self.is_full:
            return False
        after = self._query.after_rseq if self._query.after_rseq is not None else self._query.after_seq
        if is_cut and (after is None or self.lowest is None or self.lowest > after + 1):
            return True
        return self.has_gap or any(prepared.is_broken and self._query.may_want(prepared) for prepared in batches)

    def messages(self) -> list[msgspec.Raw]:
        """Return the messages in order of `seq`."""
        self._texts.sort(key=lambda pair: pair[0])
        return [msgspec.Raw(raw) for _, raw in self._texts]


def answer(
    name: str, partition: int, query: PullQuery, log_slice: LogSlice, *, is_whole: bool
) -> Generator[None, None, Pulled]:
    """Return the answer to a query about the room `name`.

    `is_whole`: the slice reaches what this gateway has pushed; otherwise more follows behind it.
    The next pull begins at the end of the slice, and never before this query's offset. Batches that
    turn out to be broken are marked (`PreparedBatch.is_broken`). Yields after each step of the
    work, which takes a fraction of a millisecond (`edge.slices`).
    """
    newest = log_slice.parts[-1].epoch if log_slice.parts else None
    epoch = query.epoch if query.epoch is not None else newest
    batches = [part.prepared for part in log_slice.parts if part.epoch == epoch]
    yield
    clears = Clears()
    for prepared in batches:
        if prepared.has_clear:
            clears.add((yield from prepared.read_clears()))
            yield
    chosen = _Selection(query, clears)
    stop = log_slice.stop
    if query.before_seq is None:
        refused = yield from _take_forward(query, batches, chosen)
        if refused is not None:
            stop, is_whole = refused.offset, False
    else:
        yield from _take_backward(query, batches, chosen)
    yield
    return Pulled(
        room=name,
        epoch=epoch,
        seq=chosen.seq,
        rseq=chosen.rseq,
        pos=f"{partition}.{max(stop, query.offset)}",
        more=not is_whole,
        gone=chosen.has_hole(batches, is_cut=max(query.offset, 0) < log_slice.cut),
        messages=chosen.messages(),
    )


def empty_answer(name: str, partition: int, query: PullQuery, stop: int, epoch: int | None) -> Pulled:
    """Return the answer to a query that wants nothing (`PullQuery.is_empty`), without a slice.

    `stop`: the offset up to which there is nothing to read. `epoch`: the room's, where it is known.
    """
    return Pulled(
        room=name,
        epoch=epoch if query.epoch is None else query.epoch,
        seq=query.after_seq or 0,
        rseq=query.after_rseq or 0,
        pos=f"{partition}.{max(stop, query.offset)}",
    )


def _wanted(
    query: PullQuery, batches: Sequence[PreparedBatch], chosen: _Selection
) -> Generator[None, None, list[PreparedBatch]]:
    """Return the batches that may hold wanted messages, by their numbers alone."""
    found: list[PreparedBatch] = []
    for start in range(0, len(batches), _PARTS_A_STEP):
        found += [prepared for prepared in batches[start : start + _PARTS_A_STEP] if query.may_want(prepared)]
        pairs = pairwise(batches[max(0, start - 1) : start + _PARTS_A_STEP])
        chosen.has_gap = chosen.has_gap or any(query.may_miss(before, after) for before, after in pairs)
        yield
    return found


def _take_forward(
    query: PullQuery, batches: Sequence[PreparedBatch], chosen: _Selection
) -> Generator[None, None, PreparedBatch | None]:
    """Take batches from the oldest one on; return the first that does not fit, None: all do."""
    for prepared in (yield from _wanted(query, batches, chosen)):
        lines = yield from query.lines_of(prepared)
        yield
        if not chosen.take(lines):
            return prepared
        chosen.pass_by(prepared)
    if batches:
        chosen.pass_by(batches[-1])
    return None


def _take_backward(query: PullQuery, batches: Sequence[PreparedBatch], chosen: _Selection) -> Generator[None, None, None]:
    """Take batches from the newest one back, until the answer is full."""
    if batches:
        chosen.pass_by(batches[-1])
    for prepared in reversed((yield from _wanted(query, batches, chosen))):
        lines = yield from query.lines_of(prepared)
        yield
        chosen.take_newest(lines)
        if chosen.is_full:
            return
