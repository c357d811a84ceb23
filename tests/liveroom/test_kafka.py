"""What aiokafka 0.14 does wrong, provoked on the real Kafka, and that the recipes bear it."""

import asyncio
import logging
import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, KafkaTimeoutError
from structlog.testing import capture_logs

from devstack.local_kafka import LocalKafka
from liveroom import kafka, kafka_port, metric_catalog, topics
from liveroom.kafka import Producer, TopicReader, Unsent, UnsentError, ensure_compaction_lag, ensure_topics
from liveroom.kafka_port import AdminClient, AioKafka
from liveroom.registry import Metrics
from liveroom.settings import KafkaSettings
from liveroom.topics import DEAD_LETTER, MODERATION, UPLINK, Topic
from tests.log import cut, producing, read_all

DEADLINE_S = 20.0


async def everything(settings: KafkaSettings) -> list[bytes]:
    """Read all of `uplink`."""
    records = await read_all(settings.bootstrap, AioKafka(settings).topic_name(UPLINK), range(settings.partitions))
    return [record.value for record in records]


def count_of(metrics: Metrics, metric: metric_catalog.Metric, *labels: str) -> float:
    value: float = metrics.counter(metric, *labels)._value.get()
    return value


async def test_a_record_too_large_is_refused_before_it_breaks_the_producer(kafka_settings: KafkaSettings) -> None:
    await ensure_topics(AioKafka(kafka_settings), [UPLINK])
    made = Metrics("ingress")
    async with producing(kafka_settings, made) as producer:
        with pytest.raises(UnsentError) as error:
            await producer.send(UPLINK, b"x" * kafka.MAX_REQUEST_BYTES, timeout_s=3)
        assert error.value.reason is Unsent.TOO_LARGE
        assert await producer.send(UPLINK, b"small", partition=0, timeout_s=3) == 0
        assert not producer._replacements


async def test_a_producer_broken_by_a_refusal_of_the_broker_is_replaced_and_loses_nothing_of_others(
    kafka_settings: KafkaSettings,
) -> None:
    name = AioKafka(kafka_settings).topic_name(UPLINK)
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_settings.bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, kafka_settings.partitions, 1, topic_configs={"max.message.bytes": "2000"})])
    finally:
        await admin.close()
    made = Metrics("ingress")
    async with producing(kafka_settings, made) as producer:
        await producer.send(UPLINK, b"before", partition=0, timeout_s=5)
        with pytest.raises(UnsentError) as error:
            await producer.send(UPLINK, b"x" * 5000, partition=0, timeout_s=5)
        assert error.value.reason is Unsent.BROKEN
        await _sent_at_last(producer, b"after", 0)
        assert count_of(made, metric_catalog.PRODUCER_REPLACED, "MessageSizeTooLargeError") == 1
    assert await everything(kafka_settings) == [b"before", b"after"]


async def _sent_at_last(producer: Producer, value: bytes, partition: int) -> None:
    """Send until it is acknowledged: what a broken producer refuses was not written."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                await producer.send(UPLINK, value, partition=partition, timeout_s=5)
            except UnsentError:
                await asyncio.sleep(0.01)
            else:
                return


async def test_a_producer_is_recycled_long_before_its_sequence_wraps_and_loses_and_doubles_nothing(
    kafka_settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka, "RECYCLE_AFTER", 50)
    await ensure_topics(AioKafka(kafka_settings), [UPLINK])
    metrics = Metrics("ingress")
    async with producing(kafka_settings, metrics) as producer:

        async def send(task: int) -> None:
            for number in range(40):
                await producer.send(UPLINK, b"%d %d" % (task, number), partition=task % kafka_settings.partitions, timeout_s=5)

        await asyncio.gather(*(send(task) for task in range(8)))
        assert count_of(metrics, metric_catalog.PRODUCER_REPLACED, "recycled") >= 3
    values = await everything(kafka_settings)
    assert sorted(values) == sorted(b"%d %d" % (task, number) for task in range(8) for number in range(40))


@pytest.mark.fault
async def test_time_outs_hold_while_the_broker_hangs_and_work_goes_on_after_it() -> None:
    made = Metrics("ingress")
    async with LocalKafka() as cluster:
        settings = KafkaSettings(bootstrap=cluster.bootstrap, prefix="", partitions=1)
        await ensure_topics(AioKafka(settings), [UPLINK])
        async with producing(settings, made) as producer:
            await producer.send(UPLINK, b"before", partition=0, timeout_s=3)
            await cluster.kill_broker(number=signal.SIGSTOP)
            await _unsent_at_last(producer)
            for _ in range(3):
                began = time.monotonic()
                with pytest.raises(UnsentError) as error:
                    await producer.send(UPLINK, b"unknown", partition=0, timeout_s=1)
                assert error.value.reason in {Unsent.TIMEOUT, Unsent.BROKEN, Unsent.CLOSED}
                assert time.monotonic() - began < 2
            began = time.monotonic()
            with pytest.raises(KafkaError):
                await Producer(AioKafka(settings), made).start()
            assert time.monotonic() - began < 3 * settings.request_timeout_s
            await cluster.kill_broker(number=signal.SIGCONT)
            await _sent_at_last(producer, b"after", 0)
        values = await everything(settings)
    assert values[0] == b"before"
    assert values[-1] == b"after"
    assert values.count(b"unknown") <= 3


async def _unsent_at_last(producer: Producer) -> None:
    """Send until nothing comes back: a signal takes a moment to stop all of a broker's threads."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                await producer.send(UPLINK, b"unsent", partition=0, timeout_s=0.2)
            except UnsentError:
                return


@pytest.mark.parametrize("after", [1, 5])  # 1: while many wait, one producer follows the other
async def test_senders_that_wait_for_room_in_a_producer_that_is_recycled_go_on_in_the_new_one(
    kafka_settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    monkeypatch.setattr(kafka, "RECYCLE_AFTER", after)
    await ensure_topics(AioKafka(kafka_settings), [UPLINK])
    metrics = Metrics("ingress")
    async with producing(kafka_settings, metrics) as producer:

        async def send(task: int) -> None:
            for number in range(6):  # a batch has room for three
                await producer.send(UPLINK, b"%d %d " % (task, number) + b"x" * 300_000, partition=0, timeout_s=DEADLINE_S)

        await asyncio.gather(*(send(task) for task in range(24)))
        assert count_of(metrics, metric_catalog.PRODUCER_REPLACED, "recycled") >= 2
        assert count_of(metrics, metric_catalog.PRODUCE_ERRORS, UPLINK.name, Unsent.BROKEN.value) == 0
    values = await everything(kafka_settings)
    heads = sorted(value.rstrip(b"x") for value in values)
    assert heads == sorted(b"%d %d " % (task, number) for task in range(24) for number in range(6))


async def test_senders_that_wait_for_room_in_a_producer_that_is_stopped_are_told_that_nothing_was_written(
    kafka_settings: KafkaSettings,
) -> None:
    await ensure_topics(AioKafka(kafka_settings), [UPLINK])
    metrics = Metrics("ingress")
    producer = Producer(AioKafka(kafka_settings), metrics)
    await producer.start()
    sending = [
        asyncio.create_task(producer.send(UPLINK, b"%d " % task + b"x" * 300_000, partition=0, timeout_s=DEADLINE_S))
        for task in range(24)
    ]
    await sending[0]  # the next three are on their way, all others wait
    await producer.stop()
    refused = {b"%d" % number for number, task in enumerate(sending) if isinstance(await _outcome(task), UnsentError)}
    assert refused
    assert {error.reason for task in sending if (error := await _outcome(task))} == {Unsent.CLOSED}
    written = {value.rstrip(b" x") for value in await everything(kafka_settings)}
    assert written == {b"%d" % number for number in range(24)} - refused
    assert count_of(metrics, metric_catalog.PRODUCE_ERRORS, UPLINK.name, Unsent.CLOSED.value) == len(refused)


async def _outcome(task: "asyncio.Task[int]") -> UnsentError | None:
    try:
        await task
    except UnsentError as error:
        return error
    return None


@pytest.mark.fault
@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
async def test_a_producer_with_an_unsent_record_ends_in_time_and_wholly_without_a_broker(
    number: signal.Signals,
) -> None:
    async with LocalKafka() as cluster:
        settings = KafkaSettings(bootstrap=cluster.bootstrap, prefix="", partitions=1, request_timeout_s=1)
        await ensure_topics(AioKafka(settings), [UPLINK])
        before = asyncio.all_tasks()
        producer = Producer(AioKafka(settings), Metrics("ingress"))
        await producer.start()
        await producer.send(UPLINK, b"acknowledged", partition=0, timeout_s=3)
        await cluster.kill_broker(number=number)
        await _unsent_at_last(producer)
        began = time.monotonic()
        async with asyncio.timeout(DEADLINE_S):
            await producer.stop()
        assert time.monotonic() - began < 5 * settings.request_timeout_s
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == before


@pytest.mark.fault
async def test_a_producer_gives_up_its_start_when_the_broker_hangs_before_it_has_an_id(monkeypatch: pytest.MonkeyPatch) -> None:
    async with LocalKafka() as cluster:
        settings = KafkaSettings(bootstrap=cluster.bootstrap, prefix="", partitions=1, request_timeout_s=1)
        bootstrap = AIOKafkaClient.bootstrap

        async def hang_after(client: AIOKafkaClient) -> None:
            await bootstrap(client)
            await cluster.kill_broker(number=signal.SIGSTOP)

        monkeypatch.setattr(AIOKafkaClient, "bootstrap", hang_after)
        before = asyncio.all_tasks()
        began = time.monotonic()
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(KafkaError):
                await Producer(AioKafka(settings), Metrics("ingress")).start()
        assert time.monotonic() - began < 6 * settings.request_timeout_s
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == before


async def next_values(reader: TopicReader, count: int) -> list[bytes]:
    values: list[bytes] = []
    async with asyncio.timeout(DEADLINE_S):
        async for _, records in reader.read():
            values += [record.value or b"" for record in records]
            if len(values) >= count:
                break
    return values


async def test_a_reader_whose_client_hangs_gets_a_new_one_and_misses_nothing(
    kafka_settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka, "STALLED_S", 1.0)
    await ensure_topics(AioKafka(kafka_settings), [UPLINK])
    made = Metrics("edge")
    reader = TopicReader(AioKafka(kafka_settings), UPLINK, made)
    async with producing(kafka_settings, made) as producer:
        await reader.start()
        try:
            await producer.send(UPLINK, b"one", partition=1, timeout_s=3)
            assert await next_values(reader, 1) == [b"one"]
            hanging: Any = reader._inner
            hanging.pause(*hanging.assignment())
            for number in range(5):
                await producer.send(UPLINK, b"%d" % number, partition=1, timeout_s=3)
            assert await next_values(reader, 5) == [b"0", b"1", b"2", b"3", b"4"]
            assert count_of(made, metric_catalog.READER_RESTARTS, UPLINK.name, "stalled") == 1
        finally:
            await reader.stop()


async def test_a_reader_whose_place_was_cut_away_says_so_and_goes_on_at_what_is_kept(kafka_settings: KafkaSettings) -> None:
    await ensure_topics(AioKafka(kafka_settings), [DEAD_LETTER, UPLINK])
    made = Metrics("edge")
    reader = TopicReader(AioKafka(kafka_settings), UPLINK, made)
    async with producing(kafka_settings, made) as producer:
        await reader.start()
        try:
            inner: Any = reader._inner
            inner.pause(*inner.assignment())  # or it would have fetched them before they are cut away
            for number in range(10):
                await producer.send(UPLINK, b"%d" % number, partition=2, timeout_s=3)
            await cut(kafka_settings, UPLINK, 2, 6)
            inner.resume(*inner.assignment())
            with capture_logs() as told:
                assert await next_values(reader, 4) == [b"6", b"7", b"8", b"9"]
            assert count_of(made, metric_catalog.READER_RESTARTS, UPLINK.name, "offset_out_of_range") == 1
            (line,) = told
            assert line == {
                "event": "records_missed",
                "log_level": "error",
                "topic": AioKafka(kafka_settings).topic_name(UPLINK),
                "partition": 2,
                "wanted": 0,
                "found": 6,
            }
        finally:
            await reader.stop()


async def test_a_reader_that_is_beyond_a_log_which_lost_its_end_goes_on_at_the_end(kafka_settings: KafkaSettings) -> None:
    await ensure_topics(AioKafka(kafka_settings), [UPLINK])
    made = Metrics("edge")
    reader = TopicReader(AioKafka(kafka_settings), UPLINK, made)
    async with producing(kafka_settings, made) as producer:
        await producer.send(UPLINK, b"before", partition=2, timeout_s=3)
        await reader.start()
        try:
            inner: Any = reader._inner
            tp = TopicPartition(AioKafka(kafka_settings).topic_name(UPLINK), 2)
            reader.positions[tp] = 50
            inner.seek(tp, 50)
            with capture_logs() as told:
                async with asyncio.timeout(DEADLINE_S):
                    async for _ in reader.read():
                        if told:
                            break
            assert [(line["event"], line["wanted"], line["found"]) for line in told] == [("records_missed", 50, 1)]
            await producer.send(UPLINK, b"after", partition=2, timeout_s=3)
            assert await next_values(reader, 1) == [b"after"]
        finally:
            await reader.stop()


async def test_a_reader_that_cannot_ask_where_the_log_begins_tries_again(
    kafka_settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ensure_topics(AioKafka(kafka_settings), [UPLINK])
    made = Metrics("edge")
    reader = TopicReader(AioKafka(kafka_settings), UPLINK, made)
    async with producing(kafka_settings, made) as producer:
        await reader.start()
        try:
            inner: Any = reader._inner
            inner.pause(*inner.assignment())
            for number in range(3):
                await producer.send(UPLINK, b"%d" % number, partition=2, timeout_s=3)
            await cut(kafka_settings, UPLINK, 2, 2)

            async def refuse(_: object) -> None:
                raise KafkaTimeoutError

            monkeypatch.setattr(inner, "beginning_offsets", refuse)  # of the first client alone
            inner.resume(*inner.assignment())
            assert await next_values(reader, 1) == [b"2"]
            assert count_of(made, metric_catalog.READER_RESTARTS, UPLINK.name, "KafkaTimeoutError") == 1
        finally:
            await reader.stop()


@pytest.mark.fault
async def test_a_consumer_whose_fetch_is_in_retry_is_closed_wholly_and_its_own_cancellation_passed_over() -> None:
    async with LocalKafka() as cluster:
        settings = KafkaSettings(bootstrap=cluster.bootstrap, prefix="", partitions=1)
        await ensure_topics(AioKafka(settings), [UPLINK])
        before = asyncio.all_tasks()
        reader = TopicReader(AioKafka(settings), UPLINK, Metrics("edge"))
        await reader.start()
        inner: Any = reader._inner
        inner._fetcher._retry_backoff = 60
        with capture_stdlib("aiokafka.consumer.fetcher") as failed:
            await cluster.kill_broker()
            await asyncio.wait_for(failed.wait(), DEADLINE_S)
        await reader.stop()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == before
        assert inner._client._sync_task is None


@contextmanager
def capture_stdlib(name: str) -> Iterator[asyncio.Event]:
    """Give an event that is set at the first error this logger writes."""
    seen = asyncio.Event()

    class Handler(logging.Handler):
        def emit(self, _: logging.LogRecord) -> None:
            seen.set()

    handler = Handler(logging.ERROR)
    logging.getLogger(name).addHandler(handler)
    try:
        yield seen
    finally:
        logging.getLogger(name).removeHandler(handler)


@pytest.mark.parametrize("swallows", [False, True])
async def test_a_cancellation_while_a_consumer_is_closed_goes_on_once_it_is_closed(
    swallows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = False

    async def stop(_: AIOKafkaConsumer) -> None:
        """Take a while, and perhaps swallow a cancellation, as aiokafka's does."""
        nonlocal stopped
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            if not swallows:
                raise
        stopped = True

    consumer = AioKafka(KafkaSettings(bootstrap="127.0.0.1:1")).consumer()
    with monkeypatch.context() as patched:
        patched.setattr(AIOKafkaConsumer, "stop", stop)
        task = asyncio.create_task(consumer.stop())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert stopped
    await consumer.stop()


async def shown(admin: AdminClient, name: str, wanted: dict[str, str]) -> dict[str, str]:
    """Return the settings of a topic, once they are the wanted ones or time is up: a broker shows a
    change when it has learned of it from the controller.
    """
    end = time.monotonic() + DEADLINE_S
    while (config := await admin.topic_config(name)) != wanted and time.monotonic() < end:  # noqa: ASYNC110 - no broker tells when it has learned of a change
        await asyncio.sleep(0.05)
    return config


@pytest.mark.parametrize(("before", "after"), [(None, "86400000"), ("1000", "86400000"), ("999999999", "999999999")])
async def test_a_topic_of_an_earlier_version_gets_its_compaction_lag_and_keeps_its_other_settings(
    kafka_settings: KafkaSettings, before: str | None, after: str
) -> None:
    kafka = AioKafka(kafka_settings)
    name, lag = kafka.topic_name(MODERATION), "min.compaction.lag.ms"
    await ensure_topics(kafka, [MODERATION])
    admin = kafka.admin()
    await admin.start()
    try:
        config = await admin.topic_config(name)
        assert config[lag] == "86400000"
        others = {key: value for key, value in config.items() if key != lag} | {"segment.ms": "3600000"}
        earlier = others if before is None else others | {lag: before}
        await admin.set_topic_config(name, earlier)
        assert await shown(admin, name, earlier) == earlier
        await ensure_compaction_lag(kafka, MODERATION)
        wanted = others | {lag: after}
        assert await shown(admin, name, wanted) == wanted
    finally:
        await admin.close()


async def test_a_topic_that_may_not_be_changed_is_logged_and_left(kafka_settings: KafkaSettings) -> None:
    with capture_logs() as logged:
        await ensure_compaction_lag(AioKafka(kafka_settings), MODERATION)  # there is no such topic
    assert [event["event"] for event in logged] == ["topic_not_changed"]


def test_every_client_has_time_outs_within_the_failure_budget() -> None:
    arguments = kafka_port.client_arguments(KafkaSettings(bootstrap="nowhere:1", prefix=secrets.token_hex(4)))
    assert arguments["request_timeout_ms"] == 3000
    assert arguments["metadata_max_age_ms"] == 5000


@pytest.mark.parametrize("topic", topics.ALL, ids=lambda topic: topic.name)
async def test_a_records_time_is_the_brokers_whatever_its_writer_says(kafka_settings: KafkaSettings, topic: Topic) -> None:
    await ensure_topics(AioKafka(kafka_settings), [topic])
    name = AioKafka(kafka_settings).topic_name(topic)
    writer = AIOKafkaProducer(bootstrap_servers=kafka_settings.bootstrap)
    reader = AIOKafkaConsumer(bootstrap_servers=kafka_settings.bootstrap, auto_offset_reset="earliest")
    await asyncio.gather(writer.start(), reader.start())
    try:
        began_ms = time.time_ns() // 10**6
        reader.assign([TopicPartition(name, 0)])
        await writer.send_and_wait(name, b"{}", key=b"k", partition=0, timestamp_ms=began_ms + 50 * 60_000)
        record = await asyncio.wait_for(reader.getone(), DEADLINE_S)
        assert abs(record.timestamp - began_ms) < DEADLINE_S * 1000
    finally:
        await asyncio.gather(writer.stop(), reader.stop())
