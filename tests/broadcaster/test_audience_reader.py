"""What gateways report reaches the partitions that are assigned, without Kafka."""

import asyncio
from typing import NoReturn

from broadcaster.assigned import Assigned
from broadcaster.audience_reader import AudienceReader
from broadcaster.partition import Partition
from liveroom.kafka import Producer
from liveroom.records.control import Presence
from liveroom.service import Runtime
from liveroom.settings import BroadcasterSettings, KafkaSettings
from liveroom.topics import partition_of
from tests.memory_kafka import MemoryKafka

SETTINGS = KafkaSettings(partitions=3)
ROOMS = {partition_of(name, 3): name for name in map(str, range(100))}


class ByNumber(dict[int, Assigned]):
    """Assigned partitions, for readers that need one of them."""

    def values(self) -> NoReturn:
        raise AssertionError("presence comes for each room of each gateway: going through all partitions costs too much")

    __iter__ = items = values


def presence(room: str) -> Presence:
    return Presence(1, room, "gateway", 1, 2, 3, 1)


async def test_a_count_reaches_the_partition_of_its_room_by_one_look_up_and_asks_for_a_card() -> None:
    kafka, runtime = MemoryKafka(SETTINGS), Runtime("broadcaster")
    producer = Producer(kafka, runtime.metrics)
    settings = BroadcasterSettings(kafka=SETTINGS)
    made = [Partition(number, settings, kafka, producer, runtime, lambda *_: None, lambda _: None) for number in range(2)]
    life = asyncio.create_task(asyncio.sleep(0))
    reader = AudienceReader(kafka, runtime, ByNumber({each.number: Assigned(each, life) for each in made}))
    await reader._pass_on(presence(ROOMS[1]))
    await reader._pass_on(presence(ROOMS[2]))
    assert [each.audience.rooms() for each in made] == [[], [ROOMS[1]]], "a partition that is not assigned gets nothing"
    assert [each.rooms.has_news for each in made] == [False, True]
    await life
