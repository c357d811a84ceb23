"""What gateways report reaches the partitions that are assigned, without Kafka."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NoReturn, Unpack

from broadcaster.assigned import Assigned
from broadcaster.audience_reader import AudienceReader
from broadcaster.partition import Partition
from liveroom import clock, topics
from liveroom.audience import Audience, Viewers
from liveroom.kafka import Producer, ensure_topics
from liveroom.kafka_port import Consumer, ConsumerOptions, KafkaTimeoutError, TopicPartition
from liveroom.records.codec import encode_json
from liveroom.records.control import GatewayState, LoadReport, Presence
from liveroom.service import Runtime
from liveroom.settings import BroadcasterSettings, KafkaSettings
from liveroom.tasks import end_tasks
from liveroom.topics import partition_of
from liveroom.user_lists import pack
from tests.memory_kafka import MemoryConsumer, MemoryKafka

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


class Pool:
    """Gateways that list users in one room, and a partition that is assigned to a broadcaster."""

    def __init__(self, kafka: MemoryKafka | None = None) -> None:
        self.kafka, self.runtime = kafka or MemoryKafka(SETTINGS), Runtime("broadcaster")
        self.producer = Producer(self.kafka, self.runtime.metrics)
        self.assigned: dict[int, Assigned] = {}
        self.reader = AudienceReader(self.kafka, self.runtime, self.assigned)
        self.serial = 0

    async def report(self, gateway: str, users: set[int], *, is_list: bool = True) -> None:
        self.serial += 1
        record = Presence(
            1, ROOMS[1], gateway, 1, len(users), len(users), 0, serial=self.serial, came=pack(users), parts=int(is_list)
        )
        await self.producer.send(topics.PRESENCE, encode_json(record), key=ROOMS[1].encode(), partition=1, timeout_s=1)

    async def live(self, *gateways: str) -> None:
        for gateway in gateways:
            report = LoadReport(1, gateway, 1, GatewayState.SERVING, 0, "ws://g", "g", "g", 1)
            await self.producer.send(topics.GATEWAYS, encode_json(report), key=gateway.encode(), timeout_s=1)

    def assign(self, life: asyncio.Task[None], number: int = 1) -> Audience:
        settings = BroadcasterSettings(kafka=SETTINGS)
        made = Partition(number, settings, self.kafka, self.producer, self.runtime, lambda *_: None, lambda _: None)
        made.audience.fall_behind()
        self.assigned[number] = Assigned(made, life)
        return made.audience

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[asyncio.Task[None]]:
        await ensure_topics(self.kafka, (topics.PRESENCE, topics.GATEWAYS), 5)
        await self.producer.start()
        life = asyncio.create_task(asyncio.sleep(0))
        working = [
            asyncio.create_task(work)
            for work in (self.reader.read_presence(), self.reader.read_gateways(), self.reader.watch_silence())
        ]
        try:
            yield life
        finally:
            await end_tasks(*working)
            await self.producer.stop()


@dataclass
class LeaderlessKafka(MemoryKafka):
    """Nobody answers for partition 0 of presence until `is_led`; a request fails after that."""

    is_led: asyncio.Event = field(default_factory=asyncio.Event)
    asked: int = 0

    def consumer(self, *_: str, **__: Unpack[ConsumerOptions]) -> Consumer:
        return LeaderlessConsumer(self)


class LeaderlessConsumer(MemoryConsumer):
    def __init__(self, kafka: LeaderlessKafka) -> None:
        super().__init__(kafka.logs)
        self._kafka = kafka

    async def end_offsets(self, partitions: Sequence[TopicPartition], /) -> dict[TopicPartition, int]:
        if list(partitions) == [TopicPartition(self._kafka.topic_name(topics.PRESENCE), 0)] and not self._kafka.is_led.is_set():
            self._kafka.asked += 1
            await self._kafka.is_led.wait()
            raise KafkaTimeoutError("no leader")
        return await super().end_offsets(partitions)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - nobody reports what a reader has read
            await asyncio.sleep(0.01)


async def published(audience: Audience) -> list[tuple[str, Viewers]]:
    found: list[tuple[str, Viewers]] = []

    def has_found() -> bool:
        found.extend(audience.due(clock.monotonic_s()))
        return bool(found)

    await until(has_found)
    return found


async def test_a_partition_that_is_assigned_begins_with_the_reports_of_the_past_minute() -> None:
    pool = Pool()
    async with pool.reading() as life:
        await pool.report("a", {1 << 20, 2 << 20})
        await pool.report("b", {2 << 20, 3 << 20})
        audience = pool.assign(life)
        assert list(audience.due(0)) == [], "nothing is published before all of it is read"
        await until(lambda: not audience.is_behind)
        assert list(audience.due(clock.monotonic_s())) == [], "nor before it is known who lives"
        await pool.live("a", "b")
        found = await published(audience)
        assert found == [(ROOMS[1], Viewers(3, 4))]


async def test_a_partition_that_comes_back_is_read_again() -> None:
    pool = Pool()
    async with pool.reading() as life:
        await pool.live("a")
        for users in ({1 << 20}, {1 << 20, 2 << 20}):
            audience = pool.assign(life)
            await pool.report("a", users)
            await until(lambda: not audience.is_behind)  # noqa: B023 - it is called before the next one
            await until(lambda: audience.of(ROOMS[1]).users == len(users))  # noqa: B023
            del pool.assigned[1]
        await pool.report("a", {3 << 20}, is_list=False)  # while another broadcaster has it
        audience = pool.assign(life)
        await until(lambda: not audience.is_behind)
        assert audience.of(ROOMS[1]) == Viewers(3, 1), "the newest report counts connections"


async def test_reports_that_come_while_it_is_read_again_are_taken_in_their_order() -> None:
    pool = Pool()
    async with pool.reading() as life:
        await pool.report("a", {1 << 20})
        audience = pool.assign(life)
        for number in range(2, 50):
            await pool.report("a", {number << 20}, is_list=False)
            if number % 5 == 0:
                await asyncio.sleep(0)
        await until(lambda: audience.of(ROOMS[1]).users == 49)
        await until(lambda: not audience.is_behind)


async def test_a_partition_without_reports_is_published_at_once() -> None:
    pool = Pool()
    async with pool.reading() as life:
        audience = pool.assign(life)
        await until(lambda: not audience.is_behind)
        await pool.live("a")
        await pool.report("a", {1 << 20})
        found = await published(audience)
        assert found == [(ROOMS[1], Viewers(1, 1))]


async def test_reports_are_read_while_a_newly_assigned_partition_has_no_leader_and_that_one_is_read_later() -> None:
    kafka = LeaderlessKafka(SETTINGS)
    pool = Pool(kafka)
    async with pool.reading() as life:
        led = pool.assign(life)
        await pool.live("a")
        await until(lambda: not led.is_behind)
        leaderless = pool.assign(life, 0)
        await until(lambda: kafka.asked == 1)
        for number in range(1, 4):
            await pool.report("a", {user << 20 for user in range(number)})
            await until(lambda: led.of(ROOMS[1]).users == number)  # noqa: B023 - it is called before the next one
        another = pool.assign(life, 2)
        await until(lambda: not another.is_behind)
        assert leaderless.is_behind
        kafka.is_led.set()
        await until(lambda: not leaderless.is_behind)


async def test_the_place_of_a_partition_that_is_taken_away_is_searched_for_no_more() -> None:
    kafka = LeaderlessKafka(SETTINGS)
    pool = Pool(kafka)
    async with pool.reading() as life:
        leaderless = pool.assign(life, 0)
        await until(lambda: kafka.asked == 1)
        del pool.assigned[0]
        kafka.is_led.set()
        led = pool.assign(life)
        await until(lambda: not led.is_behind)
        assert leaderless.is_behind
        assert not pool.reader._behind
