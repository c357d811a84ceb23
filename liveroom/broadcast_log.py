"""Readers of the log `broadcast`: ranges of a partition for take-overs, valid batches for gateways.

Owns the reading; `liveroom.fencing` finds who owns a partition, and which records are valid
(`validate`). Used by the broadcaster (`LogReader`), the edge (`QueueReader`) and the
command line (`describe`).
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterable, Sequence
from typing import Any, Final, NamedTuple, Self, TypeVar

import structlog

from liveroom import clock, metric_catalog, topics
from liveroom.bad_records import BadRecords
from liveroom.far_times import near_batch
from liveroom.fencing import NOBODY, Read, Ruling, Stamped, find_ruling, judging_start, stamp_of, stamped, validate
from liveroom.kafka import MAX_FETCH_BYTES, TopicReader
from liveroom.kafka_port import Consumer, Kafka, KafkaError, Record, TopicPartition
from liveroom.kinds import RecordType
from liveroom.records.broadcast import Batch, Claim, SnapshotChunk, decode_anchor, decode_broadcast, decode_traces
from liveroom.records.codec import AnotherVersionError, BadRecordError
from liveroom.registry import Metrics
from liveroom.waiting import PassingError

READ_TIMEOUT_S: Final = 5.0
READ_RECORDS: Final = 200  # at once: taking them out of a fetch of 4 MiB of small ones, all at once, takes 50 ms
RETRY_S: Final = 0.2
REQUEST_TIMEOUT_MS: Final = 1500  # short: a broker that hangs is asked in vain, and the next attempt asks another
T = TypeVar("T")
D = TypeVar("D", Claim, SnapshotChunk)
log = structlog.get_logger()


class LogReadError(PassingError):
    """A range of the log that could not be read.

    Retention took it, or the brokers do not answer.
    """


class LogVersionError(LogReadError):
    """A range of the log that another version wrote, and that this one cannot read."""


class LogReader:
    """Reads ranges of one partition of `broadcast`, with one connection while the block runs."""

    def __init__(self, kafka: Kafka, partition: int) -> None:
        self._kafka = kafka
        self._tp = TopicPartition(kafka.topic_name(topics.BROADCAST), partition)
        self._inner: Consumer | None = None
        self._at: int | None = None

    async def __aenter__(self) -> Self:
        inner = self._kafka.consumer(
            request_timeout_ms=REQUEST_TIMEOUT_MS, fetch_max_wait_ms=100, max_partition_fetch_bytes=MAX_FETCH_BYTES
        )
        try:
            await inner.start()
        except BaseException:
            await inner.stop()
            raise
        inner.assign([self._tp])
        self._inner = inner
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._inner is not None:
            await self._inner.stop()

    def _client(self) -> Consumer:
        if self._inner is None:
            raise RuntimeError("not opened")
        return self._inner

    async def bounds(self) -> tuple[int, int]:
        """Return the first offset that the log still has, and the one behind the last."""
        inner = self._client()
        async with asyncio.timeout(READ_TIMEOUT_S):
            starts, ends = await inner.beginning_offsets([self._tp]), await inner.end_offsets([self._tp])
        return starts[self._tp], ends[self._tp]

    async def offset_since(self, at_ms: int) -> int | None:
        """Return the first offset that was written at `at_ms` or later, by the brokers' clock.

        Returns None where nothing was written since.
        """
        inner = self._client()
        async with asyncio.timeout(READ_TIMEOUT_S):
            found = (await inner.offsets_for_times({self._tp: max(0, at_ms)}))[self._tp]
        return None if found is None else found.offset

    async def read(self, start: int, stop: int) -> list[tuple[int, bytes]]:
        """Return records from `start` to before `stop`, at least one.

        Raises LogReadError where none comes within `READ_TIMEOUT_S`.
        """
        inner = self._client()
        if self._at != start:
            inner.seek(self._tp, start)
            self._at = start
        end = clock.monotonic_s() + READ_TIMEOUT_S
        while clock.monotonic_s() < end:
            fetched = await inner.getmany(self._tp, timeout_ms=500, max_records=READ_RECORDS)
            records = fetched.get(self._tp, [])
            if records:
                self._at = records[-1].offset + 1
                wanted = [(record.offset, record.value or b"") for record in records if record.offset < stop]
                if not wanted:
                    raise LogReadError(f"offsets {start} to {stop} are gone: the log goes on at {records[0].offset}")
                return wanted
        raise LogReadError(f"nothing at offset {start} within {READ_TIMEOUT_S} s")

    async def scan(self, start: int, stop: int) -> AsyncGenerator[Stamped, None]:
        """Yield the records from `start` to before `stop` that can be judged, in order."""
        while start < stop:
            records = await self.read(start, stop)
            try:
                judgeable = stamped(records)
            except AnotherVersionError as error:
                raise LogVersionError(str(error)) from None
            for record in judgeable:
                yield record
            start = records[-1][0] + 1

    async def drive(
        self, steps: Generator[object, Any, T], answer: Callable[[Any], Awaitable[Any]] | None = None, *, asked: object = None
    ) -> T:
        """Run a walk and return its result.

        Raises LogVersionError where another version wrote what it needs.

        Each `Read` is answered from the log, any other request by awaiting `answer`. `asked`: the
        request of a walk that was started elsewhere.
        """
        try:
            while True:
                if asked is None:
                    asked = next(steps)
                elif isinstance(asked, Read):
                    asked = steps.send(await self.read(asked.start, asked.stop))
                elif answer is not None:
                    asked = steps.send(await answer(asked))
                else:
                    raise TypeError(f"there is no answer for {asked!r}")
        except StopIteration as done:
            result: T = done.value
            return result
        except AnotherVersionError as error:
            raise LogVersionError(str(error)) from None


class QueueReader:
    """Yields every valid batch to a gateway, from the end of the log on.

    Records of deposed owners are passed over and counted. Times in a batch that are too far from
    Kafka's time of its record are replaced by it, and counted.
    """

    def __init__(self, kafka: Kafka, metrics: Metrics) -> None:
        self._kafka = kafka
        self._reader = TopicReader(kafka, topics.BROADCAST, metrics)
        self._rulings: dict[int, Ruling] = {}
        self._next: dict[int, int] = {}
        self._is_open = False
        self._void = metrics.counter(metric_catalog.VOID_RECORDS)
        self._bad = BadRecords(metrics, topics.BROADCAST)
        self._read_bytes = metrics.counter(metric_catalog.READ_BYTES)
        self._far = metrics.counter(metric_catalog.FAR_TIMES, topics.BROADCAST.name)

    async def start(self) -> None:
        """Connect, and find out who rules each partition.

        After a failure another call continues with the partitions that are missing.
        """
        if not self._is_open:
            await self._reader.start()
            self._is_open = True
        limit = asyncio.Semaphore(8)

        async def find(partition: int, stop: int) -> None:
            async with limit:
                await self._find_ruling(partition, stop)

        missing = {tp: stop for tp, stop in self._reader.positions.items() if tp.partition not in self._next}
        found = await asyncio.gather(*(find(tp.partition, stop) for tp, stop in missing.items()), return_exceptions=True)
        for error in found:
            if error is not None:
                raise error

    async def _find_ruling(self, partition: int, stop: int) -> None:
        async with LogReader(self._kafka, partition) as reader:
            start, _ = await reader.bounds()
            self._rulings[partition] = await reader.drive(find_ruling(start, stop))
            self._next[partition] = stop

    async def stop(self) -> None:
        """Disconnect."""
        await self._reader.stop()

    def lag_records(self) -> int | None:
        """Return how many records this reader is behind the end of the log; None: unknown."""
        return self._reader.lag_records()

    def next_offset(self, partition: int) -> int:
        """Return the offset behind the last record of a partition that was read."""
        return self._next[partition]

    async def batches(self) -> AsyncIterator[tuple[int, int, Batch]]:
        """Yield (partition, offset, batch) until cancelled."""
        async for partition, records in self._reader.read():
            if records and records[0].offset != self._next[partition]:
                await self._find_again(partition, records[0].offset)
            for record in records:
                self._next[partition] = record.offset + 1
                if (batch := self._valid_batch(partition, record)) is not None:
                    yield partition, record.offset, batch

    async def _find_again(self, partition: int, offset: int) -> None:
        """Find out who rules before `offset`.

        Retention took unread records before it, perhaps with a claim.
        """
        while True:
            try:
                await self._find_ruling(partition, offset)
            except LogVersionError as error:  # it stays unreadable: nobody rules until the next claim
                log.error("ruling_unknown", partition=partition, error=str(error))  # noqa: TRY400
                self._rulings[partition], self._next[partition] = NOBODY, offset
                return
            except (KafkaError, LogReadError, OSError) as error:
                log.warning("ruling_unknown", partition=partition, error=repr(error))
                await clock.sleep(RETRY_S)
            else:
                return

    def _valid_batch(self, partition: int, record: Record) -> Batch | None:
        value = record.value or b""
        self._read_bytes.inc(len(value))
        try:
            stamp = stamp_of(value)
            if stamp is not None:
                self._rulings[partition], is_valid = validate(self._rulings.get(partition, NOBODY), stamp, record.offset)
                if not is_valid:
                    self._void.inc()
                    return None
                if stamp.type is not RecordType.BATCH:
                    return None
            batch = decode_broadcast(value)
        except BadRecordError as error:
            self._bad.note(record.offset, error, partition)
            return None
        if not isinstance(batch, Batch):
            return None
        near = near_batch(batch, record.timestamp)
        if near is not batch:
            self._far.inc()
        return near._replace(traces=decode_traces(record.headers)) if record.headers else near


class Snapshot(NamedTuple):
    """The newest complete snapshot of a partition: offset of its first chunk, time and size.

    `at_ms` and `size_bytes` are None where retention took the snapshot, `size_bytes` also where one
    fetch did not return all of it.
    """

    offset: int
    at_ms: int | None
    size_bytes: int | None


class Description(NamedTuple):
    """The state of a partition of `broadcast`, whose log goes from `start` to before `end`.

    `epoch`, `instance`, `claimed_ms`: of the ruling claim, as last renewed; None: nobody rules.
    `uplink_next`: the first uplink offset that no valid record reflects; None: unknown.
    `is_last_void`: whether the last record is void; None: there is no record.
    """

    partition: int
    start: int
    end: int
    epoch: int | None = None
    instance: str | None = None
    claimed_ms: int | None = None
    uplink_next: int | None = None
    snapshot: Snapshot | None = None
    is_last_void: bool | None = None


async def describe(kafka: Kafka, partitions: Iterable[int]) -> Sequence[Description]:
    """Return the state of each of these partitions of `broadcast`.

    Raises LogReadError or KafkaError where the log cannot be read.
    """
    limit = asyncio.Semaphore(4)

    async def one(partition: int) -> Description:
        async with limit, LogReader(kafka, partition) as reader:
            start, end = await reader.bounds()
            return await _describe(reader, Description(partition, start, end))

    return await asyncio.gather(*(one(partition) for partition in partitions))


async def _describe(reader: LogReader, bare: Description) -> Description:
    """Judge a partition's records, and keep the last valid one of each type."""
    ruling, claim, anchor, chunks, last_valid = NOBODY, None, None, _Chunks(), None
    begin = await reader.drive(judging_start(bare.start, bare.end))
    async for offset, stamp, value in reader.scan(begin, bare.end):
        ruling, is_valid = validate(ruling, stamp, offset)
        if not is_valid:
            continue
        last_valid = offset
        if stamp.type is RecordType.CLAIM:
            claim = _decoded(value, Claim)
            continue
        anchor = decode_anchor(value)
        if stamp.type is RecordType.SNAPSHOT:
            chunks.take(offset, _decoded(value, SnapshotChunk))
    newest = chunks.newest
    if newest is None and anchor is not None and anchor.snapshot_offset is not None:
        newest = await _snapshot_at(reader, anchor.snapshot_offset, bare)
    return bare._replace(
        epoch=ruling.epoch or None,
        instance=claim.instance if claim else None,
        claimed_ms=claim.at_ms if claim else None,
        uplink_next=anchor.uplink_next if anchor else None,
        snapshot=newest,
        is_last_void=None if bare.start == bare.end else last_valid != bare.end - 1,
    )


async def _snapshot_at(reader: LogReader, offset: int, kept: Description) -> Snapshot:
    """Return the snapshot that a valid record names, as far as one fetch shows it."""
    if offset < kept.start:
        return Snapshot(offset, None, None)
    chunks = _Chunks()
    for at, value in await reader.read(offset, kept.end):
        if (chunk := _decoded(value, SnapshotChunk)) is not None and chunks.newest is None:
            chunks.take(at, chunk)
    return chunks.newest or Snapshot(offset, chunks.at_ms, None)


class _Chunks:
    """Assembles the chunks of snapshots, as far as a description needs them."""

    def __init__(self) -> None:
        self.newest: Snapshot | None = None
        self.at_ms: int | None = None
        self._id = self._parts = self._offset = self._size_bytes = 0

    def take(self, offset: int, chunk: SnapshotChunk | None) -> None:
        """Take the next chunk of the log."""
        if chunk is None:
            return
        if chunk.part == 0:
            self._id, self._parts, self._offset, self._size_bytes = chunk.snapshot_id, 0, offset, 0
            self.at_ms = chunk.at_ms
        if chunk.snapshot_id != self._id or chunk.part != self._parts:
            return  # written twice, or its beginning is not here
        self._parts += 1
        self._size_bytes += len(chunk.data)
        if self._parts == chunk.parts:
            self.newest = Snapshot(self._offset, self.at_ms, self._size_bytes)


def _decoded(value: bytes, kind: type[D]) -> D | None:
    """Return a record whose stamp was read as this kind; None where the rest cannot be read."""
    try:
        record = decode_broadcast(value)
    except BadRecordError:
        return None
    return record if isinstance(record, kind) else None
