"""Readers of the queue on the real Kafka: they begin in mid-log, beside deposed owners, and after
retention cut the head.

And how a partition is described, by its valid records.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest
from aiokafka import ConsumerRecord, TopicPartition

from liveroom import metric_catalog
from liveroom.broadcast_log import Description, LogReader, LogReadError, QueueReader, Snapshot, describe
from liveroom.kafka import Producer, ensure_topics
from liveroom.kafka_port import AioKafka
from liveroom.kinds import RecordType
from liveroom.records.broadcast import (
    Anchor,
    BatchParts,
    Claim,
    SnapshotChunk,
    Stamp,
    encode_batch,
    encode_claim,
    encode_snapshot_chunk,
)
from liveroom.registry import Metrics
from liveroom.settings import KafkaSettings
from liveroom.topics import BROADCAST
from tests.log import cut, producing

pytestmark = pytest.mark.kafka
A, B = b"a" * 16, b"b" * 16


class Writer:
    """Writes records of a partition as owners do; a batch is known by its `pos`."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self.claims: dict[bytes, int] = {}

    async def claim(self, epoch: int, owner: bytes) -> int:
        value = encode_claim(Claim(epoch, owner, 1, owner[:1].decode()))
        self.claims[owner] = await self._send(value)
        return self.claims[owner]

    async def batch(self, epoch: int, owner: bytes, pos: int) -> int:
        anchor = Anchor(pos, self.claims[owner], None)
        return await self._send(encode_batch(BatchParts(epoch, owner, pos, anchor, pos, 1, 0, [])))

    async def _send(self, value: bytes) -> int:
        return await self._producer.send(BROADCAST, value, partition=0, timeout_s=5)


@asynccontextmanager
async def writer(settings: KafkaSettings) -> AsyncIterator[Writer]:
    await ensure_topics(AioKafka(settings), [BROADCAST])
    async with producing(settings, Metrics("broadcaster")) as producer:
        yield Writer(producer)


async def next_positions(reader: QueueReader, last: int) -> list[int]:
    """Read valid batches up to that with `pos` last."""
    found: list[int] = []
    async for _, _, batch in reader.batches():
        found.append(batch.pos)
        if batch.pos == last:
            break
    return found


@pytest.fixture
def settings(kafka_settings: KafkaSettings) -> KafkaSettings:
    return kafka_settings.model_copy(update={"partitions": 1})


async def test_a_gateway_that_begins_behind_a_deposed_owners_record_passes_over_all_it_writes(settings: KafkaSettings) -> None:
    metrics = Metrics("edge")
    async with writer(settings) as log:
        await log.claim(1, A)
        await log.batch(1, A, 1)
        await log.claim(2, B)
        await log.batch(2, B, 2)
        await log.batch(1, A, 3)
        reader = QueueReader(AioKafka(settings), metrics)
        await reader.start()
        try:
            await log.batch(1, A, 4)
            await log.batch(2, B, 5)
            await log.claim(2, A)
            await log.batch(2, A, 6)
            await log.batch(2, B, 7)
            assert await next_positions(reader, 7) == [5, 7]
            assert metrics.counter(metric_catalog.VOID_RECORDS)._value.get() == 3
        finally:
            await reader.stop()


async def test_a_gateway_whose_place_was_cut_away_with_a_claim_finds_out_who_rules_now(settings: KafkaSettings) -> None:
    metrics = Metrics("edge")
    async with writer(settings) as log:
        await log.claim(1, A)
        await log.batch(1, A, 1)
        reader = QueueReader(AioKafka(settings), metrics)
        await reader.start()
        inner: Any = reader._reader._inner
        try:
            inner.pause(*inner.assignment())
            await log.batch(1, A, 2)
            claim = await log.claim(2, B)
            await log.batch(2, B, 3)
            await cut(settings, BROADCAST, 0, claim + 2)  # the claim itself too: only its renewal is left to know it by
            await log.claim(2, B)
            await log.batch(2, B, 4)
            await log.batch(1, A, 5)
            await log.batch(2, B, 6)
            inner.resume(*inner.assignment())
            found = await next_positions(reader, 6)
            assert [pos for pos in found if pos > 2] == [4, 6], "2 may have been on its way"
        finally:
            await reader.stop()


async def test_a_gateway_that_missed_a_claim_but_not_its_batches_delivers_them(settings: KafkaSettings) -> None:
    async with writer(settings) as log:
        await log.claim(1, A)
        await log.batch(1, A, 1)
        reader = QueueReader(AioKafka(settings), Metrics("edge"))
        await reader.start()
        inner: Any = reader._reader._inner
        try:
            inner.pause(*inner.assignment())
            await log.batch(1, A, 2)
            claim = await log.claim(2, B)
            await log.batch(2, B, 3)
            await cut(settings, BROADCAST, 0, claim)
            reader._reader.positions[TopicPartition(AioKafka(settings).topic_name(BROADCAST), 0)] = claim + 1
            inner.seek(TopicPartition(AioKafka(settings).topic_name(BROADCAST), 0), claim + 1)
            inner.resume(*inner.assignment())
            found = await next_positions(reader, 3)
            assert [pos for pos in found if pos > 2] == [3], "2 may have been on its way"
        finally:
            await reader.stop()


async def test_a_range_that_was_cut_away_is_an_error_not_other_records(settings: KafkaSettings) -> None:
    async with writer(settings) as log, LogReader(AioKafka(settings), 0) as reader:
        await log.claim(1, A)
        for pos in range(1, 6):
            await log.batch(1, A, pos)
        assert await reader.bounds() == (0, 6)
        assert [offset for offset, _ in await reader.read(2, 4)] == [2, 3]
        await cut(settings, BROADCAST, 0, 3)
        assert await reader.bounds() == (3, 6)
        assert [offset for offset, _ in await reader.read(3, 6)] == [3, 4, 5]
        with pytest.raises(LogReadError):
            await reader.read(6, 7)


_serials = count(1)


def of_version_2(value: bytes) -> bytes:
    return value[:2] + b"\x02" + value[3:]


@pytest.mark.parametrize("newer", ["claim", "batch"])
async def test_a_gateway_follows_who_rules_through_records_of_a_later_version(
    kafka_settings: KafkaSettings, newer: str
) -> None:
    reader = QueueReader(AioKafka(kafka_settings), metrics := Metrics("edge"))
    claims, batches = [claim(7, A), claim(8, B)], [batch(7, A, 1, 0), batch(8, B, 2, 2), batch(7, A, 3, 0), batch(8, B, 4, 2)]
    if newer == "claim":
        claims[1] = of_version_2(claims[1])
    else:
        batches[1] = of_version_2(batches[1])
    log = [claims[0], batches[0], claims[1], *batches[1:]]
    records = [ConsumerRecord("broadcast", 0, at, 1, 1, None, value, None, 0, len(value), ()) for at, value in enumerate(log)]
    found = [reader._valid_batch(0, record) is not None for record in records]
    assert found == [False, True, False, newer == "claim", False, True], "the deposed owner's batch is void"
    refused = metrics.counter(metric_catalog.BAD_RECORDS, BROADCAST.name, "version")._value.get()
    assert refused == (newer == "batch")


def claim(epoch: int, owner: bytes, at_ms: int = 1000) -> bytes:
    return encode_claim(Claim(epoch, owner, at_ms, f"on-{owner[:1].decode()}", next(_serials)))


def batch(epoch: int, owner: bytes, uplink_next: int, claim_offset: int, snapshot_offset: int | None = None) -> bytes:
    anchor = Anchor(uplink_next, claim_offset, snapshot_offset)
    return encode_batch(BatchParts(epoch, owner, next(_serials), anchor, 0, 2000, 0, []))


def chunk(epoch: int, owner: bytes, anchor: Anchor, part: int, parts: int, snapshot_id: int = 7, at_ms: int = 3000) -> bytes:
    stamp = Stamp(RecordType.SNAPSHOT, epoch, owner, next(_serials))
    return encode_snapshot_chunk(SnapshotChunk(stamp, anchor, at_ms, snapshot_id, part, parts, b"x" * 100))


async def described(settings: KafkaSettings, values: Sequence[bytes | None], cut_before: int = 0) -> Description:
    """Write these records into partition 1 and describe it."""
    await ensure_topics(AioKafka(settings), [BROADCAST])
    async with producing(settings, Metrics("broadcaster")) as producer:
        for value in values:
            await producer.send(BROADCAST, value, key=b"k", partition=1, timeout_s=5)
    if cut_before:
        await cut(settings, BROADCAST, 1, cut_before)
    (found,) = await describe(AioKafka(settings), [1])
    return found


RULED = [claim(3, A), batch(3, A, 5, 0)]
OLD = Anchor(5, 0, None)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param([], Description(1, 0, 0), id="empty"),
        pytest.param(
            [batch(3, A, 5, 0), None, b"?"], Description(1, 0, 3, is_last_void=True), id="records and nobody who rules"
        ),
        pytest.param([claim(3, A)], Description(1, 0, 1, 3, "on-a", 1000, is_last_void=False), id="a claim alone"),
        pytest.param(RULED, Description(1, 0, 2, 3, "on-a", 1000, 5, is_last_void=False), id="a batch"),
        pytest.param(
            [*RULED, claim(3, A, 4000)], Description(1, 0, 3, 3, "on-a", 4000, 5, is_last_void=False), id="a claim renewed"
        ),
        pytest.param(
            [*RULED, claim(4, B), batch(4, B, 6, 2), batch(3, A, 9, 0)],
            Description(1, 0, 5, 4, "on-b", 1000, 6, is_last_void=True),
            id="a deposed owner wrote last",
        ),
        pytest.param(
            [*RULED, claim(4, B), claim(3, A, 9000)],
            Description(1, 0, 4, 4, "on-b", 1000, 5, is_last_void=True),
            id="a deposed owner claims last",
        ),
        pytest.param(
            [*RULED, chunk(3, A, OLD, 0, 2), chunk(3, A, OLD, 1, 2)],
            Description(1, 0, 4, 3, "on-a", 1000, 5, Snapshot(2, 3000, 200), is_last_void=False),
            id="a snapshot that no batch names yet",
        ),
        pytest.param(
            [*RULED, chunk(3, A, OLD, 0, 2), chunk(3, A, OLD, 0, 2), chunk(3, A, OLD, 1, 2), chunk(3, A, OLD, 0, 2, 8)],
            Description(1, 0, 6, 3, "on-a", 1000, 5, Snapshot(3, 3000, 200), is_last_void=False),
            id="a chunk written twice, and a snapshot that is not complete",
        ),
        pytest.param(
            [claim(3, A), chunk(3, A, OLD, 0, 2), chunk(3, A, OLD, 1, 2), claim(3, A, 4000), batch(3, A, 8, 3, 1)],
            Description(1, 0, 5, 3, "on-a", 4000, 8, Snapshot(1, 3000, 200), is_last_void=False),
            id="a snapshot before the place where judging begins",
        ),
        pytest.param(
            [*RULED, claim(4, B), batch(4, B, 6, 2), chunk(3, A, OLD, 0, 1)],
            Description(1, 0, 5, 4, "on-b", 1000, 6, is_last_void=True),
            id="a deposed owner's snapshot",
        ),
    ],
)
async def test_a_partition_is_described_by_its_valid_records(
    values: Sequence[bytes | None], expected: Description, kafka_settings: KafkaSettings
) -> None:
    assert await described(kafka_settings, values) == expected


async def test_a_snapshot_that_retention_took_is_named_without_age_and_size(kafka_settings: KafkaSettings) -> None:
    values = [claim(3, A), chunk(3, A, OLD, 0, 1), claim(3, A, 4000), batch(3, A, 8, 2, 1)]
    found = await described(kafka_settings, values, cut_before=2)
    assert found == Description(1, 2, 4, 3, "on-a", 4000, 8, Snapshot(1, None, None), is_last_void=False)


async def test_a_partition_that_retention_emptied_has_bounds_and_nobody_who_rules(kafka_settings: KafkaSettings) -> None:
    assert await described(kafka_settings, RULED, cut_before=2) == Description(1, 2, 2)
