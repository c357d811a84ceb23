"""The log, read again for pulls: what rooms have in a slice of one partition.

Owns no state. `liveroom.fencing` decides which records are valid; a record that cannot be
decoded has no effect. `edge.pulls` calls it.
"""

from collections.abc import Container, Iterator, Sequence
from typing import Final, NamedTuple

from edge.prepared_batch import PreparedBatch
from edge.pull_answer import LogSlice, Part
from liveroom import clock
from liveroom.broadcast_log import LogReader, LogVersionError
from liveroom.fencing import find_ruling, validate
from liveroom.kafka_port import Kafka
from liveroom.kinds import RecordType
from liveroom.records.broadcast import Batch, RoomFlags, decode_broadcast
from liveroom.records.codec import BadRecordError

MAX_ROOM_BYTES: Final = 4 * 1024 * 1024  # of one room in one read


class RoomRange(NamedTuple):
    """A wanted range of one room (its hash): the offsets from `start` up to but not including
    `stop`.
    """

    room: int
    start: int
    stop: int


async def read_rooms(kafka: Kafka, partition: int, ranges: Sequence[RoomRange], *, back_s: float) -> dict[int, LogSlice]:
    """Read one partition once for all `ranges`; return the slice of each room, by its hash.

    It reads no further back than `back_s`, by Kafka's time index, and takes at most
    `MAX_ROOM_BYTES` of one room. Raises the errors of `LogReader`.
    """
    found: dict[int, list[Part]] = {range_.room: [] for range_ in ranges}
    sizes = dict.fromkeys(found, 0)
    stops: dict[int, int] = {}
    async with LogReader(kafka, partition) as reader:
        first, end = await reader.bounds()
        floor = await reader.offset_since(clock.unix_ms() - int(back_s * 1000))
        start = max(first, end if floor is None else floor, min(range_.start for range_ in ranges))
        stop = max(start, *(range_.stop for range_ in ranges))
        ruling = await reader.drive(find_ruling(first, start))
        async for offset, stamp, value in reader.scan(start, stop):
            ruling, is_valid = validate(ruling, stamp, offset)
            if not is_valid or stamp.type is not RecordType.BATCH:
                continue
            for room, part in _parts(value, offset, found):
                if room in stops:
                    continue
                found[room].append(part)
                sizes[room] += len(part.prepared.payload)
                if sizes[room] > MAX_ROOM_BYTES:
                    stops[room] = offset + 1
    is_cut = first > 0 or start > first
    return {
        range_.room: LogSlice(
            min(range_.start, start),
            stops.get(range_.room, stop),
            found[range_.room],
            is_cut and range_.start < start,
            clock.monotonic_s(),
        )
        for range_ in ranges
    }


def _parts(value: bytes, offset: int, rooms: Container[int]) -> Iterator[tuple[int, Part]]:
    """Yield the parts that some rooms have in a BATCH."""
    try:
        batch = decode_broadcast(value)
    except BadRecordError as error:
        if error.reason.is_foreign:  # the answer would be a hole: a later version can read what is in it
            raise LogVersionError(str(error)) from None
        return
    if not isinstance(batch, Batch):
        return
    for entry, payload in batch.rooms():
        if entry.hash in rooms:
            prepared = PreparedBatch(
                bytes(payload),
                entry.reliable_size,
                is_deflated=bool(entry.flags & RoomFlags.DEFLATED),
                has_clear=bool(entry.flags & RoomFlags.CLEAR),
                first=entry.first,
                last=entry.last,
                rseq=entry.rseq,
                offset=offset,
            )
            yield entry.hash, Part(entry.epoch, prepared)
