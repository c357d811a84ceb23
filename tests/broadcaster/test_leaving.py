"""A broadcaster that leaves its group, without Kafka."""

import asyncio
from typing import Unpack

from broadcaster.kafka import Broadcaster
from liveroom.kafka import Producer
from liveroom.kafka_port import Consumer, ConsumerOptions
from liveroom.service import Runtime
from liveroom.settings import BroadcasterSettings, KafkaSettings
from tests.memory_kafka import MemoryConsumer, MemoryKafka


class Rebalancing(MemoryConsumer):
    """A client that is assigned partitions while it stops: another member of its group left too."""

    member: Broadcaster | None = None

    async def stop(self) -> None:
        await super().stop()
        await asyncio.sleep(0)
        if self.member is not None:
            self.member.assign({0, 1})


class Groups(MemoryKafka):
    """A cluster that lets anybody into a group."""

    def consumer(self, *_: str, **__: Unpack[ConsumerOptions]) -> Consumer:
        return Rebalancing(self.logs)


class Member(Broadcaster):
    """A broadcaster whose group takes it in at once."""

    async def _join(self) -> None: ...


async def test_partitions_that_are_assigned_while_it_leaves_the_group_do_not_keep_it_from_ending() -> None:
    settings = BroadcasterSettings(kafka=KafkaSettings(partitions=2))
    kafka, runtime = Groups(settings.kafka), Runtime("broadcaster")
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        broadcaster = Member(settings, kafka, Producer(kafka, runtime.metrics), runtime, tasks)
        consumer = broadcaster._consumer
        assert isinstance(consumer, Rebalancing)
        consumer.member = broadcaster
        runtime.stopping.set()
        await broadcaster.run()
        assert not broadcaster._assigned
