"""What tests and benchmarks do to topics beside the services: read them whole, cut their heads off,
write into them.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from liveroom.kafka import Producer
from liveroom.kafka_port import AioKafka
from liveroom.records.broadcast import Batch, RoomFlags
from liveroom.registry import Metrics
from liveroom.settings import KafkaSettings
from liveroom.topics import Topic
from liveroom.wire import ReceivedBatch, decode_server_frame, payload_text

DEADLINE_S = 20.0


async def read_all(bootstrap: str, name: str, partitions: Iterable[int]) -> list[ConsumerRecord]:
    """Read these partitions of a topic from their beginnings to where they end now; each in
    order.
    """
    tps = [TopicPartition(name, partition) for partition in partitions]
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer:
        consumer.assign(tps)
        ends = await consumer.end_offsets(tps)
        records: list[ConsumerRecord] = []
        async with asyncio.timeout(DEADLINE_S):
            while any([await consumer.position(tp) < ends[tp] for tp in tps]):
                for found in (await consumer.getmany(timeout_ms=300)).values():
                    records += found
        return records


async def cut(settings: KafkaSettings, topic: Topic, partition: int, before_offset: int) -> None:
    """Do what retention does. -1: up to the end."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap)
    await admin.start()
    try:
        await admin.delete_records(
            {TopicPartition(AioKafka(settings).topic_name(topic), partition): RecordsToDelete(before_offset)}
        )
    finally:
        await admin.close()


@asynccontextmanager
async def producing(settings: KafkaSettings, metrics: Metrics) -> AsyncIterator[Producer]:
    """Have a producer of ours while the block runs."""
    producer = Producer(AioKafka(settings), metrics)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


def received(batch: Batch) -> Iterator[ReceivedBatch]:
    """Give what viewers read of each room's part."""
    for entry, payload in batch.rooms():
        frame = decode_server_frame(payload_text(payload, deflated=bool(entry.flags & RoomFlags.DEFLATED)))
        assert isinstance(frame, ReceivedBatch)
        yield frame
