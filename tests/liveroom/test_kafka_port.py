"""The recipes and parts of services over a cluster in memory: the port is all that they need."""

import asyncio

import pytest
from pydantic import SecretStr

from ingress.kafka import READY, KafkaLogWriter
from liveroom.broadcast_log import LogReader, QueueReader
from liveroom.consumers import RULES_READ, follow_rules
from liveroom.fencing import NOBODY, find_ruling
from liveroom.kafka import Producer, TopicReader, TopicsError, ensure_topics, waiting
from liveroom.moderation import Rules
from liveroom.records.broadcast import OWNER_BYTES, Claim, encode_claim
from liveroom.records.codec import encode_json
from liveroom.records.control import Moderation, RuleKind
from liveroom.registry import Metrics
from liveroom.service import Runtime
from liveroom.settings import IngressSettings, KafkaSettings, SchedulerSettings
from liveroom.topics import BROADCAST, MODERATION, UPLINK
from scheduler import __main__ as scheduler
from scheduler import load_reports
from tests.memory_kafka import MemoryKafka

DEADLINE_S = 10.0


@pytest.fixture
async def kafka() -> MemoryKafka:
    kafka = MemoryKafka(KafkaSettings(prefix="m.", partitions=2))
    await ensure_topics(kafka)
    return kafka


async def test_topics_are_made_and_checked_through_the_port(kafka: MemoryKafka) -> None:
    assert {tp.partition for tp in kafka.logs if tp.topic == "m.uplink"} == {0, 1}
    await ensure_topics(kafka)
    with pytest.raises(TopicsError):
        await ensure_topics(MemoryKafka(KafkaSettings(prefix="m.", partitions=3), kafka.logs), [UPLINK])


async def test_what_the_producer_writes_the_readers_read_through_the_port(kafka: MemoryKafka) -> None:
    metrics, runtime = Metrics("edge"), Runtime("edge")
    producer, reader = Producer(kafka, metrics), TopicReader(kafka, BROADCAST, metrics, from_beginning=True)
    await waiting(kafka, runtime, "kafka").until(producer.start)
    claim = Claim(7, b"o" * OWNER_BYTES, 1, "b")
    assert await producer.send(BROADCAST, encode_claim(claim), partition=1, timeout_s=1) == 0
    assert await producer.send_many(BROADCAST, [(b"a", b"x"), (b"b", b"y")], timeout_s=1) == [None, None]
    await reader.start()
    found: list[bytes | None] = []
    async with asyncio.timeout(DEADLINE_S):
        async for _, records in reader.read():
            found += [record.value for record in records]
            if len(found) >= 3:
                break
    assert sorted(found, key=str) == sorted([encode_claim(claim), b"x", b"y"], key=str)
    async with LogReader(kafka, 1) as log:
        start, end = await log.bounds()
        ruling = await log.drive(find_ruling(start, end))
    assert ruling.epoch == 7
    assert ruling != NOBODY
    queue = QueueReader(kafka, metrics)
    await queue.start()
    assert queue.next_offset(1) == end
    await asyncio.gather(reader.stop(), queue.stop(), producer.stop())


async def test_a_ban_that_an_ingress_writes_holds_at_a_service_that_follows_the_rules(kafka: MemoryKafka) -> None:
    ingress, other = Runtime("ingress", READY), Runtime("edge", RULES_READ)
    settings, rules = IngressSettings(kafka=kafka.settings, token_key=SecretStr("a" * 32)), Rules()
    is_banned = asyncio.Event()
    writer = KafkaLogWriter(kafka, settings, ingress)
    connecting = asyncio.create_task(writer.watch())
    following = asyncio.create_task(follow_rules(kafka, rules, other, lambda _: is_banned.set()))
    try:
        async with asyncio.timeout(DEADLINE_S):
            await writer.connected.wait()
            ban = Moderation(1, "r", 1, RuleKind.BAN, "u", until_ms=1 << 50)
            await writer.put(MODERATION, b"r", encode_json(ban))
            await is_banned.wait()
        assert rules.banned("r", "u", 1) is not None
    finally:
        for task in (connecting, following):
            task.cancel()
        await asyncio.gather(connecting, following, return_exceptions=True)
        await writer.stop()


class Reporting(Runtime):
    """A scheduler's runtime that can be waited for."""

    def __init__(self, *conditions: str) -> None:
        super().__init__("scheduler", *conditions)
        self.reports_ready = asyncio.Event()

    def ready(self, condition: str) -> None:
        super().ready(condition)
        self.reports_ready.set()


async def test_a_whole_service_runs_on_what_it_is_handed(kafka: MemoryKafka) -> None:
    settings = SchedulerSettings(
        kafka=kafka.settings, host="127.0.0.1", port=0, token_key=SecretStr("a" * 32), ticket_keys={"k": SecretStr("b" * 32)}
    )
    runtime = Reporting(load_reports.READY)
    async with asyncio.timeout(DEADLINE_S):
        running = asyncio.create_task(scheduler.run(settings, runtime, kafka))
        await runtime.reports_ready.wait()
        assert runtime.is_ready
        runtime.stopping.set()
        await running
