"""How a partition of the queue is described, from records on the real Kafka."""

from collections.abc import Sequence

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from liveroom.kafka import ensure_topics, topic_name
from liveroom.kinds import RecordType
from liveroom.queue import Description, Snapshot, describe
from liveroom.records import (
    NO_OFFSET,
    Anchor,
    Claim,
    SnapshotChunk,
    Stamp,
    encode_batch,
    encode_claim,
    encode_snapshot_chunk,
)
from liveroom.settings import KafkaSettings
from liveroom.topics import BROADCAST

pytestmark = pytest.mark.kafka
A, B = b"a" * 16, b"b" * 16


def claim(epoch: int, owner: bytes, at_ms: int = 1000) -> bytes:
    return encode_claim(Claim(epoch, owner, at_ms, f"on-{owner[:1].decode()}"))


def batch(epoch: int, owner: bytes, uplink_next: int, claim_offset: int, snapshot_offset: int = NO_OFFSET) -> bytes:
    return encode_batch(epoch, owner, Anchor(uplink_next, claim_offset, snapshot_offset), 0, 2000, 0, [])


def chunk(epoch: int, owner: bytes, anchor: Anchor, part: int, parts: int, snapshot_id: int = 7, at_ms: int = 3000) -> bytes:
    stamp = Stamp(RecordType.SNAPSHOT, epoch, owner)
    return encode_snapshot_chunk(SnapshotChunk(stamp, anchor, at_ms, snapshot_id, part, parts, b"x" * 100))


async def described(settings: KafkaSettings, values: Sequence[bytes | None], cut_before: int = 0) -> Description:
    """Write these records into partition 1 and describe it."""
    await ensure_topics(settings, [BROADCAST])
    tp = TopicPartition(topic_name(settings, BROADCAST), 1)
    producer = AIOKafkaProducer(bootstrap_servers=settings.bootstrap)
    await producer.start()
    try:
        for value in values:
            await producer.send_and_wait(tp.topic, value, key=b"k", partition=tp.partition)
    finally:
        await producer.stop()
    if cut_before:
        admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap)
        await admin.start()
        try:
            await admin.delete_records({tp: RecordsToDelete(before_offset=cut_before)})
        finally:
            await admin.close()
    (found,) = await describe(settings, [1])
    return found


RULED = [claim(3, A), batch(3, A, 5, 0)]
OLD = Anchor(5, 0, NO_OFFSET)


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
