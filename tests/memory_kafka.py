"""A cluster in memory behind the port: it shows that services need nothing of Kafka but the port.

It keeps records and gives them again; it has no groups, no faults and no time.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Unpack

from liveroom import clock
from liveroom.kafka_port import (
    BROKERS_TIME,
    AdminClient,
    Cluster,
    Consumer,
    ConsumerOptions,
    Kafka,
    NewTopic,
    OffsetOutOfRangeError,
    PartitionReplicas,
    ProducerClient,
    Record,
    RecordAck,
    TimedOffset,
    TopicDescription,
    TopicPartition,
)
from liveroom.kafka_port import RebalanceListener as Listener
from liveroom.settings import KafkaSettings

POLL_S = 0.001


class MemoryRecord(NamedTuple):
    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
    timestamp_type: int = BROKERS_TIME


@dataclass
class MemoryKafka(Kafka):
    """Hand it in where an `AioKafka` is handed in.

    `at_ms`: returns the time, in Unix ms, of the broker that leads a partition of a topic.
    """

    settings: KafkaSettings = field(default_factory=KafkaSettings)
    logs: dict[TopicPartition, list[Record]] = field(default_factory=dict)
    configs: dict[str, dict[str, str]] = field(default_factory=dict)
    at_ms: Callable[[str, int], int] = lambda *_: clock.unix_ms()

    def consumer(self, *topics: str, **options: Unpack[ConsumerOptions]) -> Consumer:
        assert not topics
        assert "group_id" not in options
        return MemoryConsumer(self.logs)

    def producer(self, **_: int) -> ProducerClient:
        return MemoryProducer(self.logs, self.at_ms)

    def admin(self, **_: float | None) -> AdminClient:
        return MemoryAdmin(self.logs, self.configs)

    def addresses(self) -> Sequence[tuple[str, int]]:
        return [("memory", 1)]

    async def greet(self, host: str, port: int) -> None:
        assert (host, port) == ("memory", 1)


class MemoryProducer:
    def __init__(self, logs: dict[TopicPartition, list[Record]], at_ms: Callable[[str, int], int]) -> None:
        self._logs = logs
        self._at_ms = at_ms

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None,
        partition: int | None,
        headers: Sequence[tuple[str, bytes]],
    ) -> "asyncio.Future[RecordAck]":
        partition = partition or 0
        log = self._logs[TopicPartition(topic, partition)]
        record = MemoryRecord(topic, partition, len(log), self._at_ms(topic, partition), key, value, headers)
        log.append(record)
        ack: asyncio.Future[RecordAck] = asyncio.get_running_loop().create_future()
        ack.set_result(record)
        return ack


class MemoryConsumer:
    def __init__(self, logs: dict[TopicPartition, list[Record]]) -> None:
        self._logs = logs
        self._places: dict[TopicPartition, int] = {}

    async def start(self) -> None: ...

    async def stop(self) -> None:
        self._places.clear()

    def assign(self, partitions: Iterable[TopicPartition], /) -> None:
        self._places = dict.fromkeys(partitions, 0)

    def subscribe(self, topics: Sequence[str], *, listener: Listener) -> None:
        raise NotImplementedError

    def assignment(self) -> Collection[TopicPartition]:
        return self._places.keys()

    def seek(self, partition: TopicPartition, offset: int, /) -> None:
        self._places[partition] = offset

    def pause(self, *partitions: TopicPartition) -> None:
        raise NotImplementedError

    def resume(self, *partitions: TopicPartition) -> None:
        raise NotImplementedError

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int, max_records: int | None = None
    ) -> Mapping[TopicPartition, list[Record]]:
        end_s = clock.monotonic_s() + timeout_ms / 1000
        while clock.monotonic_s() < end_s:
            found: dict[TopicPartition, list[Record]] = {}
            for tp in partitions or list(self._places):
                log, place = self._logs[tp], self._places[tp]
                if place > len(log):
                    raise OffsetOutOfRangeError({tp: place})
                if records := log[place:][:max_records]:
                    found[tp], self._places[tp] = records, place + len(records)
            if found:
                return found
            await clock.sleep(POLL_S)
        return {}

    async def beginning_offsets(self, partitions: Sequence[TopicPartition], /) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 0)

    async def end_offsets(self, partitions: Sequence[TopicPartition], /) -> dict[TopicPartition, int]:
        return {tp: len(self._logs[tp]) for tp in partitions}

    async def offsets_for_times(self, times: Mapping[TopicPartition, int], /) -> Mapping[TopicPartition, TimedOffset | None]:
        return {tp: next((each for each in self._logs[tp] if each.timestamp >= at_ms), None) for tp, at_ms in times.items()}

    def highwater(self, partition: TopicPartition, /) -> int | None:
        return len(self._logs[partition])

    async def committed(self, partition: TopicPartition, /) -> int | None:
        raise NotImplementedError

    async def commit(self, offsets: Mapping[TopicPartition, int], /) -> None:
        raise NotImplementedError


class MemoryAdmin:
    def __init__(self, logs: dict[TopicPartition, list[Record]], configs: dict[str, dict[str, str]]) -> None:
        self._logs = logs
        self._configs = configs

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def list_topics(self) -> Collection[str]:
        return {tp.topic for tp in self._logs}

    async def create_topics(self, topics: Sequence[NewTopic], /) -> None:
        for topic in topics:
            self._configs.setdefault(topic.name, dict(topic.config))
            for partition in range(topic.partitions):
                self._logs.setdefault(TopicPartition(topic.name, partition), [])

    async def delete_topics(self, names: Sequence[str], /) -> None:
        for tp in [tp for tp in self._logs if tp.topic in names]:
            del self._logs[tp]

    async def describe_topics(self, names: Sequence[str] | None = None, /) -> Sequence[TopicDescription]:
        wanted = sorted(await self.list_topics()) if names is None else names
        return [
            TopicDescription(
                name,
                [PartitionReplicas(tp.partition, 1, frozenset({1}), frozenset({1})) for tp in self._logs if tp.topic == name],
                is_forbidden=False,
            )
            for name in wanted
        ]

    async def topic_config(self, name: str, /) -> dict[str, str]:
        return dict(self._configs.get(name, {}))

    async def set_topic_config(self, name: str, config: Mapping[str, str], /) -> None:
        self._configs[name] = dict(config)

    async def describe_cluster(self, names: Sequence[str] = (), /) -> Cluster:
        return Cluster(frozenset({1}), 1, await self.describe_topics(names))
