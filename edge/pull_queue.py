"""The ranges of the log that pulls wait for, and which of them one read serves. Pure.

Theory of operation
-------------------
Ranges wait in one of two lanes. A range of at most `NEAR` records is near: viewers miss a moment,
and a read brings them to the end. Any other one is far. Each lane has reads of its own, one of a
partition at a time, so a far pull never holds up a near one.

A read begins where the range begins that it was started for, the first one. That range is answered
whatever the read reached, since a read always passes its beginning. Ranges of the same partition
and lane that begin behind it are taken along. One of these is answered only where the read reached
its end; otherwise it keeps its place and gets a read of its own. So nobody is answered with less
than without the others, and a thousand viewers that miss the same moment cause one read.

The order within a lane is by turns: a user's ranges have turns of their own, one after the other,
and the lowest turn comes first. So a user with many ranges delays another one by a read or two.

`edge.pulls` reads, and reports here what a read reached.
"""

from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

NEAR: Final = 1000  # records: at ten batches a second, 100 s of a partition
NEAR_READS: Final = 4
FAR_READS: Final = 2
MAX_WAITING: Final = 500  # ranges in one lane
MAX_OF_USER: Final = 16  # ranges in one lane: a user comes back to 8 rooms on two devices at once


class RoomRange(NamedTuple):
    """A wanted range of one room (its hash): the offsets from `start` up to but not including
    `stop`.
    """

    room: int
    start: int
    stop: int


class QueueFullError(Exception):
    """Too many ranges wait already."""


class WaitingRange:
    """A range that waits for a read, for all who want the same one.

    `user`: the one that wanted it first. `turn`: as the module's docstring says. `is_read`: a read
    for it is under way.
    """

    __slots__ = ("is_read", "partition", "range", "turn", "user")

    def __init__(self, partition: int, range_: RoomRange, user: str, turn: int) -> None:
        self.partition = partition
        self.range = range_
        self.user = user
        self.turn = turn
        self.is_read = False


class _Lane:
    """One lane. `most`: reads at the same time. `turn`: of the newest read."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.turn = 0
        self.waiting: dict[tuple[int, int, int], WaitingRange] = {}
        self.busy: set[int] = set()

    def next_turn(self, user: str) -> tuple[int, int]:
        """Return the turn of a user's next range, and how many of its ranges wait."""
        own = [waiting.turn for waiting in self.waiting.values() if waiting.user == user]
        return max([self.turn, *own]) + 1, len(own)


class LogRead(NamedTuple):
    """A read to make: it begins at the start of the first of `ranges`."""

    partition: int
    ranges: list[WaitingRange]
    lane: _Lane


class PullQueue:
    """The ranges that wait at one gateway, and the reads under way."""

    def __init__(self) -> None:
        self._near = _Lane(NEAR_READS)
        self._far = _Lane(FAR_READS)

    @property
    def waiting(self) -> list[WaitingRange]:
        """Return all ranges that have not been answered."""
        return [*self._near.waiting.values(), *self._far.waiting.values()]

    def add(self, partition: int, range_: RoomRange, user: str) -> WaitingRange:
        """Add a range, or join the one that begins at the same offset of the same room.

        That one may end a little earlier, where its read is under way. Raises QueueFullError where
        too many of all, or of `user`, wait in its lane.
        """
        lane = self._near if range_.stop - range_.start <= NEAR else self._far
        turn, own = lane.next_turn(user)
        key = partition, range_.room, range_.start
        waiting = lane.waiting.get(key)
        if waiting is None:
            if own >= MAX_OF_USER or len(lane.waiting) >= MAX_WAITING:
                raise QueueFullError
            waiting = lane.waiting[key] = WaitingRange(partition, range_, user, turn)
        waiting.turn = min(waiting.turn, turn)
        if not waiting.is_read:
            waiting.range = range_._replace(stop=max(range_.stop, waiting.range.stop))
        return waiting

    def take(self) -> LogRead | None:
        """Return the next read to make, None: none may begin. The caller reports its end."""
        for lane in (self._near, self._far):
            ready = [waiting for waiting in lane.waiting.values() if waiting.partition not in lane.busy]
            if not ready or len(lane.busy) >= lane.most:
                continue
            first = min(ready, key=lambda waiting: waiting.turn)
            along = [
                waiting
                for waiting in ready
                if waiting is not first and waiting.partition == first.partition and waiting.range.start >= first.range.start
            ]
            for waiting in (first, *along):
                waiting.is_read = True
            lane.turn = max(lane.turn, first.turn)
            lane.busy.add(first.partition)
            return LogRead(first.partition, [first, *along], lane)
        return None

    def served(self, read: LogRead, stops: Iterable[int | None]) -> list[WaitingRange]:
        """End a read; return the ranges that it answers, which wait no longer.

        `stops`: for each of its ranges, the offset up to which it was read; None: not at all.
        """
        answered = [
            waiting
            for waiting, stop in zip(read.ranges, stops, strict=True)
            if stop is not None and (waiting is read.ranges[0] or stop >= waiting.range.stop)
        ]
        self.end(read, answered)
        return answered

    def answered(self, waiting: WaitingRange) -> None:
        """Take out a range that needs no read any more; no read for it is under way."""
        for lane in (self._near, self._far):
            key = waiting.partition, waiting.range.room, waiting.range.start
            if lane.waiting.get(key) is waiting:
                del lane.waiting[key]

    def end(self, read: LogRead, gone: Collection[WaitingRange]) -> None:
        """End a read; `gone` wait no longer, its other ranges keep their places."""
        read.lane.busy.discard(read.partition)
        for waiting in read.ranges:
            waiting.is_read = False
        for waiting in gone:
            read.lane.waiting.pop((waiting.partition, waiting.range.room, waiting.range.start), None)
