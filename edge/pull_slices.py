"""Slices of the log that were read for pulls, kept for later pulls. Pure.

Owns the slices of rooms, up to `KEPT_BYTES` of all rooms together and for `KEPT_S`, and for each
partition an index of the rooms that its reads met. So a pull of a room that has nothing in the log,
or that somebody invented, reads only the records that came since. `edge.pulls` asks here before it
reads.
"""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, NamedTuple

from edge.prepared_batch import PreparedBatch

KEPT_S: Final = 10.0
INDEX_S: Final = 60.0
KEPT_BYTES: Final = 32 * 1024 * 1024  # of all rooms
MAX_ROOM_BYTES: Final = 4 * 1024 * 1024  # of one room in one slice
MAX_INDEXED: Final = 20_000  # rooms of one partition; 2 MiB
PART_BYTES: Final = 500  # what a part or a slice takes beside payloads, about
_BEFORE_ALL: Final = -1


class Part(NamedTuple):
    """A room's part of a batch, and the epoch of its numbers."""

    epoch: int
    prepared: PreparedBatch


class LogSlice(NamedTuple):
    """What one room has in the log from the offset `start` up to but not including `stop`.

    `cut`: records before this offset are gone, though `start` is before it; 0: none are. `at_s`:
    when its beginning was read. `size`: of its parts, in bytes. `is_full`: the room has more behind
    it than one slice may hold.
    """

    start: int
    stop: int
    parts: Sequence[Part]
    cut: int
    at_s: float
    size: int = 0
    is_full: bool = False

    def covers(self, offset: int, stop: int) -> bool:
        """Return whether it answers a pull from `offset` to `stop`, or the first part of it."""
        return self.start <= offset and (self.stop >= stop or (self.is_full and offset < self.stop))

    def joined(self, later: "LogSlice") -> "LogSlice":
        """Return this slice continued by one that begins at its `stop` or before."""
        added = [part for part in later.parts if part.prepared.offset >= self.stop]
        size = self.size + sum(len(part.prepared.payload) + PART_BYTES for part in added)
        is_full = later.is_full or size > MAX_ROOM_BYTES
        cut = max(self.cut, later.cut)
        return LogSlice(self.start, max(self.stop, later.stop), [*self.parts, *added], cut, self.at_s, size, is_full)

    def parts_from(self, offset: int) -> Sequence[Part]:
        """Return its parts in records from `offset` on: all that a pull from there is answered."""
        return self.parts[bisect_left(self.parts, offset, key=_offset_of) :]


def _offset_of(part: Part) -> int:
    return part.prepared.offset


class PartitionIndex(NamedTuple):
    """The rooms that have a batch in a partition from the offset `start` up to `stop`.

    `last`: the offset of the last batch of each, by the hash of the room. `is_first`: nothing
    before `start` may be read. `is_cut`: something was there.
    """

    start: int
    stop: int
    last: dict[int, int]
    is_first: bool
    is_cut: bool
    at_s: float

    def empty_slice(self, room: int, offset: int) -> LogSlice | None:
        """Return the slice of a room from `offset` on, where it is known to be empty."""
        if (offset < self.start and not self.is_first) or offset > self.stop:
            return None
        if self.last.get(room, _BEFORE_ALL) >= max(offset, 0):
            return None
        return LogSlice(offset, self.stop, (), self.start if self.is_cut and offset < self.start else 0, self.at_s)

    def joined(self, later: "PartitionIndex") -> "PartitionIndex":
        """Return this index continued by one that begins at its `stop` or before."""
        return self._replace(stop=max(self.stop, later.stop), last=self.last | later.last)


class KeptSlices:
    """The slices and indexes of one gateway. `size`: of all slices, in bytes."""

    def __init__(self) -> None:
        self.size = 0
        self._slices: OrderedDict[tuple[int, int], LogSlice] = OrderedDict()
        self._starts: dict[int, list[int]] = {}
        self._indexes: dict[int, PartitionIndex] = {}

    def find(self, room: int, partition: int, offset: int, now_s: float) -> LogSlice | None:
        """Return the slice of a room that begins at `offset` or before and reaches furthest.

        None: there is none that holds something from `offset` on, or can be continued from there.
        """
        found: LogSlice | None = None
        for start in self._starts.get(room, ()):
            kept = self._slices[room, start]
            is_near = offset < kept.stop or (offset == kept.stop and not kept.is_full)
            if kept.start <= offset and is_near and now_s - kept.at_s < KEPT_S:
                found = kept if found is None or kept.stop > found.stop else found
        index = self._indexes.get(partition)
        if found is None and index is not None and now_s - index.at_s < INDEX_S:
            return index.empty_slice(room, offset)
        return found

    def extend(self, room: int, partition: int, read: LogSlice, now_s: float) -> None:
        """Keep what was read of a room, joined to the slice that it continues, if there is one."""
        before = self.find(room, partition, read.start, now_s)
        if before is None or before.stop < read.stop:
            self.keep(room, read if before is None else before.joined(read), now_s)

    def keep(self, room: int, kept: LogSlice, now_s: float) -> None:
        """Keep a slice of a room, in place of those that lie within it; forget the oldest ones."""
        for start in list(self._starts.get(room, ())):
            if start == kept.start or (start > kept.start and self._slices[room, start].stop <= kept.stop):
                self._forget((room, start))
        self._slices[room, kept.start] = kept
        self._starts.setdefault(room, []).append(kept.start)
        self.size += kept.size + PART_BYTES
        while self._slices and self.size > KEPT_BYTES:
            self._forget(next(iter(self._slices)))
        self.expire(now_s)

    def keep_index(self, partition: int, index: PartitionIndex, now_s: float) -> None:
        """Keep an index, or let it continue the one that is kept."""
        kept = self._indexes.get(partition)
        if kept is not None and now_s - kept.at_s < INDEX_S and kept.start <= index.start <= kept.stop:
            index = kept.joined(index)
        elif kept is not None and now_s - kept.at_s < INDEX_S and kept.start <= index.start:
            return
        if len(index.last) <= MAX_INDEXED:
            self._indexes[partition] = index
        else:
            self._indexes.pop(partition, None)

    def expire(self, now_s: float) -> None:
        """Forget the slices and indexes that are too old."""
        while self._slices:
            key, oldest = next(iter(self._slices.items()))
            if now_s - oldest.at_s < KEPT_S:
                break
            self._forget(key)
        for partition in [partition for partition, index in self._indexes.items() if now_s - index.at_s >= INDEX_S]:
            del self._indexes[partition]

    def _forget(self, key: tuple[int, int]) -> None:
        self.size -= self._slices.pop(key).size + PART_BYTES
        room, start = key
        starts = self._starts[room]
        starts.remove(start)
        if not starts:
            del self._starts[room]
