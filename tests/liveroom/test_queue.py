"""Readers of the queue on the real Kafka: they begin in mid-log, beside deposed owners, and after retention cut the head."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from liveroom import metrics
from liveroom.kafka import Producer, ensure_topics, topic_name
from liveroom.queue import LogReader, LogReadError, QueueReader, describe
from liveroom.records import Anchor, Claim, encode_batch, encode_claim
from liveroom.service import Metrics
from liveroom.settings import KafkaSettings
from liveroom.topics import BROADCAST

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
        return await self._send(encode_batch(epoch, owner, Anchor(pos, self.claims[owner], -1), pos, 1, 0, []))

    async def _send(self, value: bytes) -> int:
        return await self._producer.send(BROADCAST, value, partition=0, timeout_s=5)


@asynccontextmanager
async def writer(settings: KafkaSettings) -> AsyncIterator[Writer]:
    await ensure_topics(settings, [BROADCAST])
    producer = Producer(settings, Metrics("broadcaster"))
    await producer.start()
    try:
        yield Writer(producer)
    finally:
        await producer.stop()


async def cut(settings: KafkaSettings, before_offset: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap)
    await admin.start()
    try:
        await admin.delete_records({TopicPartition(topic_name(settings, BROADCAST), 0): RecordsToDelete(before_offset)})
    finally:
        await admin.close()


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
    made = Metrics("edge")
    async with writer(settings) as log:
        await log.claim(1, A)
        await log.batch(1, A, 1)
        await log.claim(2, B)
        await log.batch(2, B, 2)
        await log.batch(1, A, 3)
        reader = QueueReader(settings, made)
        await reader.start()
        try:
            await log.batch(1, A, 4)
            await log.batch(2, B, 5)
            await log.claim(2, A)
            await log.batch(2, A, 6)
            await log.batch(2, B, 7)
            assert await next_positions(reader, 7) == [5, 7]
            assert made.counter(metrics.VOID_RECORDS)._value.get() == 3
        finally:
            await reader.stop()


async def test_a_gateway_whose_place_was_cut_away_with_a_claim_finds_out_who_rules_now(settings: KafkaSettings) -> None:
    made = Metrics("edge")
    async with writer(settings) as log:
        await log.claim(1, A)
        await log.batch(1, A, 1)
        reader = QueueReader(settings, made)
        await reader.start()
        inner: Any = reader._reader._inner
        try:
            inner.pause(*inner.assignment())
            await log.batch(1, A, 2)
            claim = await log.claim(2, B)
            await log.batch(2, B, 3)
            await cut(settings, claim + 2)  # the claim itself too: only its renewal is left to know it by
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
        reader = QueueReader(settings, Metrics("edge"))
        await reader.start()
        inner: Any = reader._reader._inner
        try:
            inner.pause(*inner.assignment())
            await log.batch(1, A, 2)
            claim = await log.claim(2, B)
            await log.batch(2, B, 3)
            await cut(settings, claim)
            reader._reader.positions[TopicPartition(topic_name(settings, BROADCAST), 0)] = claim + 1
            inner.seek(TopicPartition(topic_name(settings, BROADCAST), 0), claim + 1)
            inner.resume(*inner.assignment())
            found = await next_positions(reader, 3)
            assert [pos for pos in found if pos > 2] == [3], "2 may have been on its way"
        finally:
            await reader.stop()


async def test_a_range_that_was_cut_away_is_an_error_not_other_records(settings: KafkaSettings) -> None:
    async with writer(settings) as log, LogReader(settings, 0) as reader:
        await log.claim(1, A)
        for pos in range(1, 6):
            await log.batch(1, A, pos)
        assert await reader.bounds() == (0, 6)
        assert [offset for offset, _ in await reader.read(2, 4)] == [2, 3]
        await cut(settings, 3)
        assert await reader.bounds() == (3, 6)
        assert [offset for offset, _ in await reader.read(3, 6)] == [3, 4, 5]
        with pytest.raises(LogReadError):
            await reader.read(6, 7)


async def test_a_description_names_the_ruling_owner_and_how_far_it_came(settings: KafkaSettings) -> None:
    async with writer(settings) as log:
        (empty,) = await describe(settings, [0])
        assert (empty.start, empty.end, empty.epoch, empty.instance) == (0, 0, None, None)
        await log.claim(1, A)
        await log.batch(1, A, 4)
        await log.claim(3, B)
        await log.batch(3, B, 7)
        await log.batch(1, A, 9)
        (found,) = await describe(settings, [0])
        assert (found.start, found.end, found.epoch, found.instance, found.uplink_next) == (0, 5, 3, "b", 7)
