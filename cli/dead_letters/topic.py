"""The topic `dead-letter` as a command reads it, and the records that it sends again.

Owns the clients: a consumer without a group, which changes nothing, and a producer, where something
is sent. Each walk reads from a time to where the topic ended at the start, once for the marks and
once for the letters, so that nothing is held in memory but what is shown. Called by `command`.
"""

import heapq
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import count
from typing import Final, NamedTuple

from cli.dead_letters.letters import Letter, Place, read
from cli.endpoints import UsageError, find_kafka
from cli.topics import read_cluster
from liveroom import clock
from liveroom.kafka import Producer
from liveroom.kafka_port import AioKafka, Consumer, Kafka, KafkaError, OffsetOutOfRangeError, TopicPartition
from liveroom.records.codec import encode_json
from liveroom.records.uplink import SENT_AGAIN, DeadLetter
from liveroom.registry import Metrics
from liveroom.topics import DEAD_LETTER, UPLINK, partition_of

SEND_S: Final = 10.0
_LOOK_MS: Final = 500
Offsets = Mapping[TopicPartition, int]


class Kept(NamedTuple):
    """Letters that are wanted, oldest first, and how many of them were left out at the old end."""

    letters: list[Letter]
    left_out: int


class DeadLetterTopic:
    """The topic from `since_ms` on (Unix milliseconds by Kafka's clock; None: all of it).

    `sent`: the places of the records that were sent again; `read_marks` and whoever sends fill it.
    """

    def __init__(self, consumer: Consumer, begins: Offsets, ends: Offsets) -> None:
        self.sent: set[Place] = set()
        self._consumer = consumer
        self._begins = begins
        self._ends = ends

    async def read_marks(self) -> None:
        """Find out which records were sent again."""
        async for letter in self._walk():
            if letter.is_mark:
                self.sent.add(letter.place)

    async def kept(self, takes: Callable[[Letter], bool], most: int) -> Kept:
        """Return the newest `most` letters that `takes` wants, each once though it may lie there
        twice.
        """
        heap: list[tuple[int, int, Letter]] = []
        places: set[Place] = set()
        number, left_out = count(), 0
        async for letter in self._walk():
            if letter.is_mark or letter.place in places or not takes(letter):
                continue
            places.add(letter.place)
            heapq.heappush(heap, (letter.at_ms, next(number), letter))
            if len(heap) > most:
                places.discard(heapq.heappop(heap)[2].place)
                left_out += 1
        return Kept([letter for _, _, letter in sorted(heap)], left_out)

    async def follow(self) -> AsyncIterator[Letter]:
        """Yield each letter that comes after those, and note the marks, for ever."""
        self._seek(self._ends)
        while True:
            for records in (await self._consumer.getmany(timeout_ms=_LOOK_MS)).values():
                for record in records:
                    letter = read(record)
                    if letter.is_mark:
                        self.sent.add(letter.place)
                    else:
                        yield letter

    def _seek(self, places: Offsets) -> None:
        for partition, offset in places.items():
            self._consumer.seek(partition, offset)

    async def _walk(self) -> AsyncIterator[Letter]:
        """Yield what lies between the begins and the ends, in the order of each partition."""
        self._seek(self._begins)
        left = {partition for partition, begin in self._begins.items() if begin < self._ends[partition]}
        while left:
            try:
                fetched = await self._consumer.getmany(*left, timeout_ms=_LOOK_MS)
            except OffsetOutOfRangeError:  # retention was quicker
                firsts = await self._consumer.beginning_offsets(list(left))
                self._seek(firsts)
                left = {partition for partition in left if firsts[partition] < self._ends[partition]}
                continue
            for partition, records in fetched.items():
                end = self._ends[partition]
                for record in records:
                    if record.offset < end:
                        yield read(record)
                if records[-1].offset >= end - 1:
                    left.discard(partition)


@asynccontextmanager
async def reading(bootstrap: str, prefix: str | None, since_ms: int | None) -> AsyncIterator[tuple[Kafka, DeadLetterTopic]]:
    """Give the cluster and its dead letters while the block runs.

    `bootstrap` and `prefix` as the options give them. Raises UsageError where there is no Kafka, it
    does not answer or refuses, or it has no such topic.
    """
    settings = find_kafka(bootstrap, prefix)
    if settings is None:
        raise UsageError("no Kafka: start `liveroom demo` or `liveroom up`, or give --kafka HOST:PORT (KAFKA_BOOTSTRAP)")
    kafka: Kafka = AioKafka(settings)
    try:
        there = (await read_cluster(kafka)).partitions
        name = kafka.topic_name(DEAD_LETTER)
        if name not in there:
            raise UsageError(f"there is no topic {name} at {settings.bootstrap}, or this Kafka user may not see it")
        # Rooms are spread over the partitions that the topic has, whatever the settings here say.
        kafka = AioKafka(settings.model_copy(update={"partitions": there[name]}))
        consumer = kafka.consumer()
        try:
            await consumer.start()
            partitions = [TopicPartition(name, number) for number in range(there[name])]
            consumer.assign(partitions)
            begins, ends = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
            if since_ms is not None:
                found = await consumer.offsets_for_times(dict.fromkeys(partitions, since_ms))
                begins = {tp: at.offset if (at := found.get(tp)) is not None else ends[tp] for tp in partitions}
            yield kafka, DeadLetterTopic(consumer, begins, ends)
        finally:
            await consumer.stop()
    except (KafkaError, OSError, TimeoutError) as error:
        if isinstance(error, BrokenPipeError):  # of the output
            raise
        raise UsageError(f"Kafka at {settings.bootstrap} does not answer, or refuses: {error!r}") from None


class Sending:
    """Sends records of letters to `uplink` again, and marks them in `dead-letter`."""

    def __init__(self, kafka: Kafka, producer: Producer) -> None:
        self._kafka = kafka
        self._producer = producer

    async def send(self, place: Place, room: str, value: bytes) -> int:
        """Send a record to its room's partition, and mark it; return that partition.

        Raises UnsentError where the brokers did not acknowledge one of both in time. If it is the
        mark, the record is sent once more by the next run: with the same id, so that it counts once
        as long as ids are remembered.
        """
        key, partition = room.encode(), partition_of(room, self._kafka.partitions(UPLINK))
        await self._producer.send(UPLINK, value, key=key, partition=partition, timeout_s=SEND_S)
        mark = DeadLetter(DeadLetter.VERSION, *place, SENT_AGAIN, "", clock.unix_ms(), b"", b"")
        await self._producer.send(DEAD_LETTER, encode_json(mark), key=key, partition=partition, timeout_s=SEND_S)
        return partition


@asynccontextmanager
async def sending(kafka: Kafka) -> AsyncIterator[Sending]:
    """Give a `Sending` while the block runs."""
    producer = Producer(kafka, Metrics("ingress"), (UPLINK, DEAD_LETTER))
    await producer.start()
    try:
        yield Sending(kafka, producer)
    finally:
        await producer.stop()
