"""The log, read again for pulls: what rooms have in a slice of one partition.

Owns no state. `liveroom.fencing` decides which records are valid. A batch that cannot be decoded is
reported and left out, but one of a version that cannot be read fails the read. A read ends early
where it has taken `READ_S` or holds `MAX_READ_BYTES`: its slices then end early too, and the next
pull continues there. `edge.pulls` calls it.
"""

from collections.abc import Generator, Sequence
from typing import Final, NamedTuple

from edge.prepared_batch import PreparedBatch
from edge.pull_queue import RoomRange
from edge.pull_slices import MAX_INDEXED, MAX_ROOM_BYTES, PART_BYTES, LogSlice, Part, PartitionIndex
from edge.slices import Slices
from liveroom import clock
from liveroom.broadcast_log import LogReader, LogVersionError
from liveroom.fencing import Ruling, find_ruling, stamp_of, validate
from liveroom.kafka_port import Kafka
from liveroom.kinds import RecordType
from liveroom.records.broadcast import ROOM_ENTRY, Batch, RoomFlags, decode_broadcast
from liveroom.records.codec import BadRecordError

READ_S: Final = 2.0
MAX_READ_BYTES: Final = 32 * 1024 * 1024  # of all rooms of one read
_ENTRIES_A_STEP: Final = 1000
_DEFLATED: Final = int(RoomFlags.DEFLATED)
_CLEAR: Final = int(RoomFlags.CLEAR)


class PartitionRead(NamedTuple):
    """The result of a read: a slice for each range that it reached, and all rooms that it met.

    `met` is None where these are too many. `bad`: the valid batches that cannot be decoded, by
    offset; what was in them is missing from the slices.
    """

    slices: dict[RoomRange, LogSlice]
    met: PartitionIndex | None = None
    bad: Sequence[tuple[int, BadRecordError]] = ()


async def read_rooms(
    kafka: Kafka, partition: int, ranges: Sequence[RoomRange], *, back_s: float, slices: Slices
) -> PartitionRead:
    """Read one partition once for all `ranges`, from the lowest start on.

    It passes that start in any case, reads no further back than `back_s` seconds, by Kafka's time
    index, and takes at most `MAX_ROOM_BYTES` of one room. `slices` shares the loop. Raises the
    errors of `LogReader`.
    """
    began_s = clock.monotonic_s()
    async with LogReader(kafka, partition) as reader:
        first, end = await reader.bounds()
        floor = await reader.offset_since(clock.unix_ms() - int(back_s * 1000))
        lowest = min(range_.start for range_ in ranges)
        start = max(first, end if floor is None else floor, lowest)
        stop = max(start, *(range_.stop for range_ in ranges))
        collected = _Collected(ranges, await reader.drive(find_ruling(first, start)), start)
        while collected.at < stop and not collected.is_full:
            await slices.run(collected.take(await reader.read(collected.at, stop)))
            if clock.monotonic_s() - began_s >= READ_S:
                break
    is_cut = first > 0 or start > first
    now_s = clock.monotonic_s()
    met = None
    if len(collected.last) <= MAX_INDEXED:
        met = PartitionIndex(start, collected.at, collected.last, lowest < start, is_cut, now_s)
    found = {range_: collected.slice_of(range_, start, is_cut, now_s) for range_ in ranges}
    reached = {range_: found[range_] for range_ in ranges if found[range_].stop > min(range_.start, range_.stop - 1)}
    return PartitionRead(reached, met, collected.bad)


class _Collected:
    """What a read found so far.

    `at`: the offset that it reached. `last`: as in PartitionIndex. `bad`: as in PartitionRead.
    """

    def __init__(self, ranges: Sequence[RoomRange], ruling: Ruling, start: int) -> None:
        self.at = start
        self.last: dict[int, int] = {}
        self.bad: list[tuple[int, BadRecordError]] = []
        self._parts: dict[int, list[Part]] = {range_.room: [] for range_ in ranges}
        self._sizes = dict.fromkeys(self._parts, 0)
        self._full: dict[int, int] = {}
        self._size = 0
        self._ruling = ruling

    @property
    def is_full(self) -> bool:
        """Return whether it may take no more of any room."""
        return len(self._full) == len(self._parts) or self._size > MAX_READ_BYTES

    def take(self, records: Sequence[tuple[int, bytes]]) -> Generator[None, None, None]:
        """Take records of the log, up to where it is full; yields after each step.

        Raises LogVersionError.
        """
        for offset, value in records:
            stamp = stamp_of(value)
            if stamp is not None:
                self._ruling, is_valid = validate(self._ruling, stamp, offset)
                if is_valid and stamp.type is RecordType.BATCH:
                    yield from self._take_batch(value, offset)
            self.at = offset + 1
            if self.is_full:
                return
            yield

    def _take_batch(self, value: bytes, offset: int) -> Generator[None, None, None]:
        try:
            batch = decode_broadcast(value)
        except BadRecordError as error:
            if error.reason.is_foreign:  # the answer would be a hole: a later version can read what is in it
                raise LogVersionError(str(error)) from None
            self.bad.append((offset, error))
            return
        if not isinstance(batch, Batch):
            return
        parts, last, begin = self._parts, self.last, 0
        for count, entry in enumerate(ROOM_ENTRY.iter_unpack(batch.entries), 1):
            hash_, first, last_seq, rseq, _, _, size, reliable_size, epoch, flags = entry
            if len(last) <= MAX_INDEXED:
                last[hash_] = offset
            if hash_ in parts and hash_ not in self._full:
                prepared = PreparedBatch(
                    bytes(batch.body[begin : begin + size]),
                    reliable_size,
                    is_deflated=bool(flags & _DEFLATED),
                    has_clear=bool(flags & _CLEAR),
                    first=first,
                    last=last_seq,
                    rseq=rseq,
                    offset=offset,
                )
                parts[hash_].append(Part(epoch, prepared))
                self._sizes[hash_] += size + PART_BYTES
                self._size += size + PART_BYTES
                if self._sizes[hash_] > MAX_ROOM_BYTES:
                    self._full[hash_] = offset + 1
            begin += size
            if count % _ENTRIES_A_STEP == 0:
                yield

    def slice_of(self, range_: RoomRange, start: int, is_cut: bool, now_s: float) -> LogSlice:
        """Return the slice of one room that was read from `start` on."""
        room = range_.room
        return LogSlice(
            min(range_.start, start),
            self._full.get(room, self.at),
            self._parts[room],
            start if is_cut and range_.start < start else 0,
            now_s,
            self._sizes[room],
            room in self._full,
        )
