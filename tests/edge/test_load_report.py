"""The figures of a gateway's load report, and when it goes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from edge.fanout import FanOut
from edge.gateway import Gateway
from edge.load_report import MIN_PERIOD_S, MOST_UNDER_WAY, LoadReporter, Usage, begin_generation
from liveroom import clock, topics
from liveroom.clock import KafkaClock
from liveroom.kafka import Producer, ensure_topics
from liveroom.kafka_port import TopicPartition
from liveroom.records.control import LoadReport
from liveroom.registry import Metrics
from liveroom.service import Runtime
from liveroom.tasks import end_tasks
from liveroom.topics import Topic
from tests.edge.harness import line, settings_of
from tests.edge.memory import in_memory
from tests.manual_clock import ManualClock
from tests.memory_kafka import MemoryKafka


async def test_rates_are_between_two_reports_and_unknown_over_a_time_that_is_too_short() -> None:
    time = ManualClock(1000)
    with clock.running_on(time):
        async with in_memory(settings_of()) as edge:
            runtime = Runtime("edge")
            usages = iter([Usage(5.0, 1, 2, 0.5, 100), Usage(6.5, 10, 20, 0.7, 160), Usage(6.6, 10, 20, 0.7)])
            fan_out = FanOut(edge.gateway, runtime)
            reporter = LoadReporter(edge.gateway, fan_out, runtime, 8080, lambda: next(usages), lag_records=lambda: 7)
            viewer = await edge.viewer()
            viewer.say(t="join", room="r")
            time.now_s += 2
            edge.keepalive.turn()
            await edge.deliver("r", [line(1)])

            report = reporter._measure()
            assert isinstance(report, LoadReport)
            assert (report.at_ms, report.connections, report.users, report.rooms) == (1_002_000, 1, 1, 1)
            assert (report.cpu, report.joins_per_s, report.leaves_per_s) == (0.75, 0.5, 0.0)
            assert (report.rss_bytes, report.sockets, report.load1) == (10, 20, 0.7)
            assert (report.io_per_s, report.lag_records) == (30.0, 7)

            time.now_s += MIN_PERIOD_S / 2
            report = reporter._measure()
            assert (report.cpu, report.joins_per_s, report.batches_per_s, report.io_per_s) == (None, None, None, None)
            assert report.connections == 1


@pytest.mark.parametrize(
    ("settings", "url", "ip"),
    [
        pytest.param({"host": "::1"}, "ws://[::1]:8080/v1/live", "::1", id="IPv6"),
        pytest.param({"host": "::"}, "ws://[::1]:8080/v1/live", "::1", id="all of IPv6"),
        pytest.param({"host": "0.0.0.0"}, "ws://127.0.0.1:8080/v1/live", "127.0.0.1", id="all of IPv4"),
        pytest.param(
            {"host": "::", "public_url": "wss://a.example/v1/live", "public_ip": "2001:db8::7"},
            "wss://a.example/v1/live",
            "2001:db8::7",
            id="named",
        ),
    ],
)
async def test_a_gateway_announces_an_address_to_which_viewers_can_connect(settings: dict[str, str], url: str, ip: str) -> None:
    async with in_memory(settings_of(**settings)) as edge:
        runtime = Runtime("edge")
        reporter = LoadReporter(edge.gateway, FanOut(edge.gateway, runtime), runtime, 8080, lambda: Usage(0.0, 1, 1, 0.0))
        report = reporter._measure()
        assert (report.url, report.ip, report.port) == (url, ip, 8080)


class SlowKafka:
    """Acknowledges each record after `ack_s`; notes when it got them, and the most under way."""

    def __init__(self, ack_s: float) -> None:
        self.ack_s = ack_s
        self.got_s: list[float] = []
        self.under_way = self.most_under_way = 0

    async def send(self, _: Topic, value: bytes, *, key: bytes, timeout_s: float) -> None:
        assert value
        assert key
        assert timeout_s
        self.got_s.append(clock.monotonic_s())
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await clock.sleep(self.ack_s)
        self.under_way -= 1


class TwoClocks(ManualClock):
    """A machine's monotonic clock, ahead by `paused_s`, and its own, ahead by `jump_s`."""

    paused_s = jump_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s + self.paused_s

    def unix_ns(self) -> int:
        return int((self.now_s + self.jump_s) * 1e9)


@asynccontextmanager
async def reporting(kafka: SlowKafka) -> AsyncIterator[Gateway]:
    """Let a gateway report its load to this Kafka."""
    async with in_memory(settings_of()) as edge:
        runtime = Runtime("edge")
        reporter = LoadReporter(edge.gateway, FanOut(edge.gateway, runtime), runtime, 8080, lambda: Usage(0.0, 1, 1, 0.0))
        producer: Any = kafka
        running = asyncio.create_task(reporter.run(producer))
        try:
            yield edge.gateway
        finally:
            await end_tasks(running)


@pytest.mark.parametrize("ack_s", [0.0, 0.3, 1.1, 1.9])
async def test_reports_go_once_a_second_however_long_their_acknowledgements_take(ack_s: float) -> None:
    time, kafka = ManualClock(1000), SlowKafka(ack_s)
    with clock.running_on(time):
        async with reporting(kafka) as gateway:
            await time.advance(20.5)
            assert kafka.got_s == [1000.0 + second for second in range(21)]
            assert not gateway.was_silent


async def test_reports_that_nobody_acknowledges_do_not_pile_up() -> None:
    time, kafka = ManualClock(1000), SlowKafka(3600)
    with clock.running_on(time):
        async with reporting(kafka):
            await time.advance(60)
    assert kafka.most_under_way == MOST_UNDER_WAY


@pytest.mark.parametrize(
    ("paused_s", "jump_s", "was_silent"),
    [
        pytest.param(0.0, 30.0, True, id="the machine was suspended: its monotonic clock stood still"),
        pytest.param(30.0, 30.0, True, id="the process stood still"),
        pytest.param(30.0, 0.0, True, id="the process stood still, and the machine's clock was set back"),
        pytest.param(0.0, -30.0, False, id="the machine's clock was set back"),
        pytest.param(0.0, 0.0, False, id="nothing happened"),
    ],
)
async def test_a_gateway_notices_that_it_was_silent(paused_s: float, jump_s: float, *, was_silent: bool) -> None:
    time, kafka = TwoClocks(1000), SlowKafka(0)
    with clock.running_on(time):
        async with reporting(kafka) as gateway:
            await time.advance(5)
            assert not gateway.was_silent
            time.paused_s, time.jump_s = paused_s, jump_s
            await time.advance(1.5)
            assert gateway.was_silent is was_silent


@pytest.mark.parametrize(
    "off_s", [pytest.param(3600, id="ahead"), pytest.param(-3600, id="behind"), pytest.param(0, id="right")]
)
async def test_a_start_has_kafkas_time_as_its_generation_and_withdraws_the_report_of_the_one_before(off_s: int) -> None:
    brokers, followed = ManualClock(), KafkaClock(ManualClock(1_000_000 + off_s))
    kafka, metrics = MemoryKafka(at_ms=lambda *_: brokers.unix_ns() // 1_000_000), Metrics("edge")
    await ensure_topics(kafka, [topics.GATEWAYS])
    with clock.running_on(followed):
        async with in_memory(settings_of()) as edge:
            producer = Producer(kafka, metrics)
            await producer.start()
            await begin_generation(edge.gateway, producer)
            assert edge.gateway.generation == brokers.unix_ns() // 1_000_000
            (written,) = kafka.logs[TopicPartition("gateways", 0)]
            assert (written.key, written.value) == (b"e1", None)
            await producer.stop()


async def test_a_start_without_an_answer_of_kafka_has_the_machines_time_as_its_generation() -> None:
    with clock.running_on(KafkaClock(ManualClock())):
        async with in_memory(settings_of()) as edge:
            await begin_generation(edge.gateway, Producer(MemoryKafka(), Metrics("edge")))  # it is not connected
            assert edge.gateway.generation == clock.machine_ms()
