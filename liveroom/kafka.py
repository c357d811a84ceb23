"""The Kafka recipes that all services share: topics, a producer that replaces itself, a reader of
topics.

The clients come from a `Kafka` that is handed in (`liveroom.kafka_port`). docs/kafka.md lists the
traps of aiokafka 0.14 that the recipes avoid.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

import structlog

from liveroom import clock, metric_catalog, topics
from liveroom.errors import in_words
from liveroom.kafka_port import (
    BROKERS_TIME,
    AdminClient,
    AioKafka,
    Consumer,
    Kafka,
    KafkaError,
    KafkaTimeoutError,
    NewTopic,
    OffsetOutOfRangeError,
    ProducerClient,
    ProducerClosed,
    Record,
    RecordAck,
    TopicAuthorizationFailedError,
    TopicPartition,
)
from liveroom.records.codec import BadRecord
from liveroom.registry import Metrics
from liveroom.service import Body, Runtime, StartError
from liveroom.settings import ServiceSettings
from liveroom.tasks import BackgroundTasks
from liveroom.topics import COMPACTION_LAG, Topic, partition_of
from liveroom.waiting import PassingError, Waiting, passes

MAX_REQUEST_BYTES: Final = 1_000_000  # the broker's message.max.bytes is 1,048,588
RECYCLE_AFTER: Final = 1 << 30  # records of one partition; the client's sequence wraps wrongly at 2**31
FETCH_WAIT_MS: Final = 250
MAX_FETCH_BYTES: Final = 4 * 1024 * 1024  # of one partition
STALLED_S: Final = 5.0
PROMPT_S: Final = 1.0  # an ack that took longer may hold a time of long ago
START_REQUESTS: Final = (
    4  # time-outs of one request that a producer's start may take: connect, ask for the brokers, get an id, again
)
MAX_PORT: Final = 65_535
ADMIN_TIMEOUT_S: Final = 10.0  # making topics takes a cluster longer than a record
TOPICS_S: Final = 1.0  # of one attempt of a service at the topics; then it reports the reason
JOIN_SESSIONS: Final = 3  # session time-outs that joining a group may take; the other members have one to rejoin
S = TypeVar("S", bound=ServiceSettings)
log = structlog.get_logger()


RECYCLED: Final = "recycled"
STALLED: Final = "stalled"
OUT_OF_RANGE: Final = "offset_out_of_range"


class Unsent(Enum):
    """Why a record was not acknowledged."""

    TIMEOUT = "timeout"
    TOO_LARGE = "too_large"
    BROKEN = "broken"
    CLOSED = "closed"


class UnsentError(Exception):
    """A record that was not acknowledged. With TIMEOUT or BROKEN it may still be in the log."""

    def __init__(self, reason: Unsent, detail: str = "") -> None:
        super().__init__(f"{reason.value}: {detail}" if detail else reason.value)
        self.reason = reason


class TopicsError(StartError):
    """Topics that do not fit the settings. The message says which, and what to do."""


async def probe_brokers(kafka: Kafka) -> None:
    """Return once one broker accepts this client.

    Raises StartError where waiting does not help (a wrong password, a certificate), PassingError
    where it does. A client of aiokafka 0.14 logs at each attempt why it cannot connect, but raises
    no more than that it cannot; this function raises the reason.
    """
    if lacking := kafka.settings.lacking:
        raise StartError(lacking)
    try:
        addresses = kafka.addresses()
    except ValueError as error:
        raise StartError(f"kafka.bootstrap: {error}") from error
    except OSError as error:
        raise StartError(f"the files of kafka.ca_file, kafka.cert_file and kafka.key_file: {in_words(error)}") from error
    addresses = [each for each in addresses if each[0]]  # a comma at the end does no harm
    if not addresses or not all(0 < port <= MAX_PORT for _, port in addresses):
        raise StartError("kafka.bootstrap is no list of host:port")
    why = []
    for host, port in addresses:
        try:
            await kafka.greet(host, port)
        except (KafkaError, OSError) as error:
            text = f"no connection to the broker at {host}:{port}: {in_words(error)}"
            if not passes(error):
                raise StartError(text) from error
            why.append(text)
        except ValueError as error:  # what can be no name
            raise StartError(f"kafka.bootstrap: {host}:{port}: {in_words(error)}") from error
        else:
            return
    raise PassingError("; ".join(sorted(why)))


def with_kafka(run: Callable[[S, Runtime, Kafka], Coroutine[Any, Any, None]]) -> Body[S]:
    """Return the body of a service that runs on the cluster of its settings, and on a clock that
    follows Kafka's where the machine's is wrong.

    A simulation calls `run` itself, with a Kafka and a clock of its own.
    """

    async def body(settings: S, runtime: Runtime) -> None:
        with clock.running_on(kafka_clock := clock.with_kafka()):
            runtime.metrics.follow(metric_catalog.CLOCK_SKEW, lambda: _or_nan(kafka_clock.skew_s))
            await run(settings, runtime, AioKafka(settings.kafka))

    return body


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def waiting(kafka: Kafka, runtime: Runtime, name: str) -> Waiting:
    """Return the `Waiting` for a part of a start that needs Kafka; it probes the brokers first."""
    return Waiting(runtime, name, partial(probe_brokers, kafka))


async def ensure_topics(kafka: Kafka, wanted: Iterable[Topic] = topics.ALL, deadline_s: float = 30.0) -> None:
    """Create the topics that are missing, and check the number of partitions of the others.

    A topic that this user may describe and not create is waited for like any other failure that
    passes: somebody else creates it.

    Failures that pass by themselves are tried again for `deadline_s` seconds, then raised. Raises
    TopicsError at once where a topic has another number of partitions than the settings say: rooms
    would move to other partitions.
    """
    end = clock.monotonic_s() + deadline_s
    admin = kafka.admin(request_timeout_s=ADMIN_TIMEOUT_S)
    try:
        await _until(end, admin.start)
        await _until(end, partial(_ensure, admin, kafka, list(wanted)))
    finally:
        await admin.close()


async def _until(end: float, attempt: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await attempt()
        except (KafkaError, OSError, PassingError) as error:
            if not passes(error) or clock.monotonic_s() > end:
                raise
            await clock.sleep(0.2)
        else:
            return


async def _ensure(admin: AdminClient, kafka: Kafka, wanted: list[Topic]) -> None:
    settings, existing = kafka.settings, await admin.list_topics()
    missing = [
        NewTopic(
            kafka.topic_name(topic),
            kafka.partitions(topic),
            settings.replication,
            topic.config() | {"min.insync.replicas": str(settings.min_insync)},
        )
        for topic in wanted
        if kafka.topic_name(topic) not in existing
    ]
    if missing:
        # Where this user may not create a topic, the descriptions show whether it may use it.
        with suppress(TopicAuthorizationFailedError):
            await admin.create_topics(missing)
    described = await admin.describe_topics([kafka.topic_name(topic) for topic in wanted])
    if forbidden := [entry.name for entry in described if entry.is_forbidden]:
        raise TopicAuthorizationFailedError(", ".join(sorted(forbidden)))
    have = {entry.name: len(entry.partitions) for entry in described}
    for topic in wanted:
        name, need = kafka.topic_name(topic), kafka.partitions(topic)
        if have.get(name, 0) == 0:
            raise PassingError(f"the topic {name} is not there yet: not every broker knows it, or this user may not create it")
        if have[name] != need:
            raise TopicsError(
                f"topic {name} has {have[name]} partitions, the setting kafka.partitions says {need}: rooms would move to "
                "other partitions. Set it to what the topic has, or use another prefix."
            )


async def ensure_compaction_lag(kafka: Kafka, topic: Topic) -> None:
    """Raise the compaction lag of a topic that an earlier version created, and leave a longer one.

    Kafka replaces all settings of a topic at once, so its others are read and written again. A
    failure is logged: the topic works without, as it did. The access rules of `liveroom.access` let
    no service see or change settings; there an administrator sets it.
    """
    name, wanted = kafka.topic_name(topic), topic.config().get(COMPACTION_LAG)
    if wanted is None:
        return
    admin = kafka.admin(request_timeout_s=ADMIN_TIMEOUT_S)
    try:
        await admin.start()
        config = await admin.topic_config(name)
        if int(config.get(COMPACTION_LAG, "0")) < int(wanted):
            await admin.set_topic_config(name, config | {COMPACTION_LAG: wanted})
            log.info("topic_changed", topic=name, setting=COMPACTION_LAG, value=wanted)
    except TopicAuthorizationFailedError:
        log.info("topic_not_checked", topic=name, setting=COMPACTION_LAG, wanted=wanted)
    except (KafkaError, OSError) as error:
        log.warning("topic_not_changed", topic=name, setting=COMPACTION_LAG, value=wanted, error=repr(error))
    finally:
        await admin.close()


class Producer:
    """An idempotent producer that is replaced after an error that retrying did not cure. All
    in-sync replicas acknowledge its records.

    After such an error an aiokafka producer's partition stays broken for good, so the whole
    producer goes. `send` never waits longer than its time-out.
    """

    def __init__(self, kafka: Kafka, metrics: Metrics, writes: Iterable[Topic] = (), linger_ms: int = 0) -> None:
        self._kafka = kafka
        self._timeout_s = kafka.settings.request_timeout_s
        self._linger_ms = linger_ms
        self._inner: ProducerClient | None = None
        self._sent = 0
        self._replacing = asyncio.Lock()
        self._replacements = BackgroundTasks("replacing a producer")
        self._closings = BackgroundTasks("closing a producer")
        self._metrics = metrics
        names = [topic.name for topic in writes]
        self._seconds = {name: metrics.histogram(metric_catalog.PRODUCE_SECONDS, name) for name in names}
        metrics.exist(metric_catalog.PRODUCE_ERRORS, names, [reason.value for reason in Unsent])
        metrics.exist(metric_catalog.PRODUCER_REPLACED, [RECYCLED])

    async def start(self) -> None:
        """Connect; raise KafkaError where no broker answers in time."""
        self._inner = await self._make()

    async def stop(self) -> None:
        """Send the records that wait, for at most the request time-out, then close."""
        # A start that is broken off leaks its connection: mostly it is a matter of milliseconds.
        await self._replacements.wait(self._timeout_s)
        await self._replacements.cancel()
        inner, self._inner = self._inner, None
        if inner is not None:
            self._close_soon(inner)
        await self._closings.wait()

    async def _make(self) -> ProducerClient:
        inner = self._kafka.producer(
            linger_ms=self._linger_ms, max_batch_bytes=MAX_REQUEST_BYTES, max_request_bytes=MAX_REQUEST_BYTES + 64 * 1024
        )
        try:
            async with asyncio.timeout(START_REQUESTS * self._timeout_s):
                await inner.start()  # by itself it would ask for a producer id for ever
        except TimeoutError:
            await inner.stop()
            raise KafkaTimeoutError("no broker gave a producer id in time") from None
        except BaseException:
            await inner.stop()
            raise
        self._sent = 0
        return inner

    async def send(
        self,
        topic: Topic,
        value: bytes | None,
        *,
        key: bytes | None = None,
        partition: int | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
        timeout_s: float,
    ) -> int:
        """Write one record, and return its offset once all in-sync replicas have it.

        Raises UnsentError where they do not acknowledge it within `timeout_s` seconds.
        """
        self._check_size(topic, key, value)
        began = clock.monotonic_s()
        try:
            async with asyncio.timeout(timeout_s):
                ack = await self._hand_over(topic, key, value, partition, headers)
                written = await ack  # a wait that is broken off cancels the future alone, not the record
        except TimeoutError:
            raise self._unsent(topic, Unsent.TIMEOUT, f"no ack within {timeout_s} s") from None
        except KafkaError as error:
            raise self._broken(topic, error) from error
        self._acked(topic, began, 1)
        if topic is topics.GATEWAYS:
            _note_time(written, began)
        return written.offset

    async def send_many(
        self, topic: Topic, records: Sequence[tuple[bytes, bytes]], *, timeout_s: float
    ) -> list[UnsentError | None]:
        """Write (key, value) records together; return for each why it was not acknowledged.

        None stands for an acknowledged record. All records share one wait of `timeout_s` seconds:
        with a task and a timer each, waiting would cost more than sending.
        """
        began, partitions = clock.monotonic_s(), self._kafka.partitions(topic)
        outcomes: list[asyncio.Future[RecordAck] | UnsentError] = []
        try:
            async with asyncio.timeout(timeout_s):
                for key, value in records:
                    try:
                        self._check_size(topic, key, value)
                        outcomes.append(await self._hand_over(topic, key, value, partition_of(key.decode(), partitions)))
                    except UnsentError as error:
                        outcomes.append(error)
                    except KafkaError as error:
                        outcomes.append(self._broken(topic, error))
                if waiting := [ack for ack in outcomes if not isinstance(ack, UnsentError)]:
                    await asyncio.wait(waiting)
        except TimeoutError:
            outcomes += [self._unsent(topic, Unsent.TIMEOUT, "not taken") for _ in records[len(outcomes) :]]
        errors = [self._outcome(topic, outcome, timeout_s) for outcome in outcomes]
        self._acked(topic, began, errors.count(None))
        return errors

    async def _hand_over(
        self,
        topic: Topic,
        key: bytes | None,
        value: bytes | None,
        partition: int | None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> "asyncio.Future[RecordAck]":
        """Pass a record to the client; return the future of its acknowledgement."""
        name = self._kafka.topic_name(topic)
        while (inner := self._inner) is not None:
            try:
                ack = await inner.send(name, value, key=key, partition=partition, headers=headers)
            except ProducerClosed as error:
                if self._inner is inner:
                    raise self._broken(topic, error) from error
                # replaced while this record waited for room in it, so it was not taken; the next
                # one may go the same way
            else:
                return ack
        raise self._unsent(topic, Unsent.CLOSED, "the producer was closed")

    def _outcome(
        self, topic: Topic, outcome: "asyncio.Future[RecordAck] | UnsentError", timeout_s: float
    ) -> UnsentError | None:
        if isinstance(outcome, UnsentError):
            return outcome
        if not outcome.done():
            outcome.add_done_callback(_take_result)
            return self._unsent(topic, Unsent.TIMEOUT, f"no ack within {timeout_s} s")
        error = outcome.exception()
        return self._broken(topic, error) if error is not None else None

    def _check_size(self, topic: Topic, key: bytes | None, value: bytes | None) -> None:
        if value is not None and len(value) + len(key or b"") > MAX_REQUEST_BYTES - 1024:
            raise self._unsent(topic, Unsent.TOO_LARGE, f"{len(value)} bytes")

    def _broken(self, topic: Topic, error: BaseException) -> UnsentError:
        """Replace the producer, and return the error for the sender."""
        if self._inner is not None:
            self._replace_soon(self._inner, type(error).__name__)
        return self._unsent(topic, Unsent.BROKEN, repr(error))

    def _unsent(self, topic: Topic, reason: Unsent, detail: str) -> UnsentError:
        self._metrics.counter(metric_catalog.PRODUCE_ERRORS, topic.name, reason.value).inc()
        return UnsentError(reason, detail)

    def _acked(self, topic: Topic, began: float, records: int) -> None:
        if not records:
            return
        seconds = self._seconds.get(topic.name)
        if seconds is None:
            seconds = self._seconds[topic.name] = self._metrics.histogram(metric_catalog.PRODUCE_SECONDS, topic.name)
        seconds.observe(clock.monotonic_s() - began)
        self._sent += records
        if self._sent >= RECYCLE_AFTER and self._inner is not None:
            self._replace_soon(self._inner, RECYCLED)

    def _replace_soon(self, broken: ProducerClient, reason: str) -> None:
        """Replace the producer in a task of its own.

        It takes longer than a sender may wait, and must happen even if the sender gives up.
        """
        if not self._replacing.locked():
            self._replacements.start(self._replace(broken, reason))

    async def _replace(self, old: ProducerClient, reason: str) -> None:
        """Put a new producer in the place of `old`.

        Until then `old` stays in use, because perhaps only one of its partitions is broken.
        """
        async with self._replacing:
            if self._inner is not old:
                return  # it was replaced or stopped meanwhile
            log.warning("producer_replaced", reason=reason)
            self._metrics.counter(metric_catalog.PRODUCER_REPLACED, reason).inc()
            try:
                made = await self._make()
            except (KafkaError, OSError) as error:
                log.warning("producer_not_made", error=repr(error))
                return  # the next error tries again
            self._inner = made
        self._close_soon(old)

    def _close_soon(self, inner: ProducerClient) -> None:
        """Close a producer in a task that nobody cancels: a cancelled close would leak."""
        self._closings.start(inner.stop())


def _note_time(written: RecordAck, began_s: float) -> None:
    """Let the clock know Kafka's time of a load report that has just been written.

    Other topics have other leaders, and a broker whose clock is wrong may be one of them.
    """
    if written.timestamp_type == BROKERS_TIME and clock.monotonic_s() - began_s <= PROMPT_S:
        clock.kafka_is_at(written.timestamp)


def _take_result(ack: "asyncio.Future[RecordAck]") -> None:
    """Take the result of a future that nobody awaits: asyncio logs an error that is not taken."""
    if not ack.cancelled():
        ack.exception()


async def join_group(consumer: Consumer, kafka: Kafka) -> None:
    """Start a consumer that has a group, and give up when it gets no partitions in time.

    Raises KafkaError or PassingError; then the caller must stop the consumer and make another one.
    """
    joining = asyncio.create_task(consumer.start())
    try:
        await asyncio.wait([joining], timeout=JOIN_SESSIONS * kafka.settings.session_timeout_s)
    finally:
        joining.cancel()  # does nothing to one that is done
        await asyncio.wait([joining])
    if joining.cancelled():
        raise PassingError("the group gave no partitions in time")
    joining.result()


class Place(NamedTuple):
    """A place in a partition, and its end: what comes before that had been written already."""

    offset: int
    end: int


class TopicReader:
    """Reads all partitions of a topic without a group, and continues after restarts of brokers.

    `from_beginning`: start at the first record, not at the end. Used by gateways (`broadcast`),
    schedulers (`gateways`), and everything that keeps state from a compacted topic.
    """

    def __init__(self, kafka: Kafka, topic: Topic, metrics: Metrics, *, from_beginning: bool = False) -> None:
        self._kafka = kafka
        self._topic = topic
        self._name = kafka.topic_name(topic)
        self._from_beginning = from_beginning
        self._metrics = metrics
        metrics.exist(metric_catalog.READER_RESTARTS, [topic.name], [STALLED, OUT_OF_RANGE])
        metrics.exist(metric_catalog.BAD_RECORDS, [topic.name], [reason.value for reason in BadRecord])
        self._inner: Consumer | None = None
        self._has_producers_time = False
        self._ends: dict[TopicPartition, int] = {}
        self.positions: dict[TopicPartition, int] = {}
        self._gone_back: set[TopicPartition] = set()

    @property
    def caught_up(self) -> bool:
        """Whether this reader has read everything that was in the topic when it started."""
        return bool(self._ends) and all(self.positions.get(tp, 0) >= end for tp, end in self._ends.items())

    async def start(self) -> None:
        """Connect and find where to start. After a failure it may be called again."""
        partitions = range(self._kafka.partitions(self._topic))
        assigned = [TopicPartition(self._name, partition) for partition in partitions]
        inner = await self._open(assigned)
        try:
            self._ends = dict(await inner.end_offsets(assigned))
            self.positions = dict(await inner.beginning_offsets(assigned)) if self._from_beginning else dict(self._ends)
        except BaseException:
            await inner.stop()
            raise
        self._seek(inner, self.positions)
        self._inner = inner

    async def start_at_last(self, runtime: Runtime, name: str = "") -> None:
        """Start, and repeat that until it succeeds (`Waiting.until`).

        `name`: the condition of readiness that shows the reason; by default the topic's name.
        """
        await waiting(self._kafka, runtime, name or self._topic.name).until(self.start)

    async def place_at(self, partition: int, at_ms: int) -> Place:
        """Return where a partition continues if it is read from `at_ms` on (Unix milliseconds).

        Any task may call it, also while this reader reads. Raises KafkaError or OSError.
        """
        if (inner := self._inner) is None:
            raise KafkaError("the reader is stopped")
        tp = TopicPartition(self._name, partition)
        end = (await inner.end_offsets([tp]))[tp]
        found = (await inner.offsets_for_times({tp: at_ms})).get(tp)
        return Place(found.offset if found is not None else end, end)

    def go_back(self, partition: int, place: Place) -> None:
        """Continue a partition at a place of it. Only the task that reads may call this."""
        tp = TopicPartition(self._name, partition)
        self.positions[tp] = place.offset
        self._gone_back.add(tp)
        if self._inner is not None:
            self._inner.seek(tp, place.offset)

    def position(self, partition: int) -> int:
        """Return the offset of the record that comes next in a partition."""
        return self.positions[TopicPartition(self._name, partition)]

    async def stop(self) -> None:
        """Disconnect."""
        inner, self._inner = self._inner, None
        if inner is not None:
            await inner.stop()

    async def _open(self, assigned: list[TopicPartition]) -> Consumer:
        inner = self._kafka.consumer(
            check_crcs=False, fetch_max_wait_ms=FETCH_WAIT_MS, max_partition_fetch_bytes=MAX_FETCH_BYTES
        )
        try:
            await inner.start()
        except BaseException:
            await inner.stop()
            raise
        inner.assign(assigned)
        return inner

    @staticmethod
    def _seek(inner: Consumer, positions: Mapping[TopicPartition, int]) -> None:
        for tp, offset in positions.items():
            inner.seek(tp, offset)

    async def read(self) -> AsyncIterator[tuple[int, list[Record]]]:
        """Yield (partition, records in order) until the reader is stopped.

        At least once a second it yields (-1, []), so that callers can do other work.
        """
        lag = self._metrics.gauge(metric_catalog.READER_LAG, self._topic.name)
        moved = clock.monotonic_s()
        while (inner := self._inner) is not None:
            self._gone_back.clear()
            try:
                fetched = await inner.getmany(timeout_ms=1000)
            except OffsetOutOfRangeError as error:
                try:
                    await self._skip_lost(inner, error)
                except (KafkaError, OSError) as failed:
                    await self._reopen(type(failed).__name__)
                continue
            except KafkaError as error:
                await self._reopen(type(error).__name__)
                continue
            now = clock.monotonic_s()
            if not fetched:
                yield -1, []
                if now - moved > STALLED_S:
                    moved = now
                    if await self._is_behind(inner):
                        await self._reopen(STALLED)
                continue
            moved = now
            for tp, records in fetched.items():
                if tp in self._gone_back:
                    continue  # they come again, in their order
                self.positions[tp] = records[-1].offset + 1
                self._note_time(tp, records[-1])
                yield tp.partition, records
            lag.set(sum(behind for behind in self._lags() if behind is not None))

    def _note_time(self, tp: TopicPartition, newest: Record) -> None:
        """Let the clock know Kafka's time of a load report that has just been written.

        Gateways report once a second, and every other service reads that. A record of any other
        topic may have been the newest one for hours, or have a leader whose clock is wrong.
        """
        if newest.timestamp_type != BROKERS_TIME:
            if not self._has_producers_time:
                self._has_producers_time = True
                log.error(
                    "topic_has_producers_time", topic=self._name, then="set message.timestamp.type=LogAppendTime on this topic"
                )
        elif self._topic is topics.GATEWAYS and self._inner is not None and self._inner.highwater(tp) == newest.offset + 1:
            clock.kafka_is_at(newest.timestamp)

    def lag_records(self) -> int | None:
        """Return how many records this reader is behind the end of the log; None: unknown."""
        total = 0
        for lag in self._lags():
            if lag is None:
                return None
            total += lag
        return total

    def _lags(self) -> list[int | None]:
        """Return how far each partition is behind; None: nothing of it was fetched yet."""
        inner = self._inner
        return [
            None if inner is None or (end := inner.highwater(tp)) is None else max(0, end - offset)
            for tp, offset in self.positions.items()
        ]

    async def _is_behind(self, inner: Consumer) -> bool:
        """Return whether the log grew while nothing came: a hung client (aiokafka issue 1154)."""
        try:
            async with asyncio.timeout(self._kafka.settings.request_timeout_s):
                ends = await inner.end_offsets(list(self.positions))
        except (KafkaError, OSError):
            return False  # the brokers do not answer: nothing to gain from a new client
        return any(ends[tp] > offset for tp, offset in self.positions.items())

    async def _reopen(self, reason: str) -> None:
        log.warning("reader_restarted", topic=self._name, reason=reason)
        self._metrics.counter(metric_catalog.READER_RESTARTS, self._topic.name, reason).inc()
        old, self._inner = self._inner, None
        if old is not None:
            await old.stop()
        while True:
            try:
                inner = await self._open(list(self.positions))
            except (KafkaError, OSError) as error:
                log.warning("reader_not_opened", topic=self._name, error=repr(error))
                await clock.sleep(0.5)
                continue
            self._seek(inner, self.positions)
            self._inner = inner
            return

    async def _skip_lost(self, inner: Consumer, error: OffsetOutOfRangeError) -> None:
        """Continue where the log begins now: retention overtook this reader, or the log was cut.

        The log line is an error, because records are missing.
        """
        lost = [tp for tp in self.positions if tp in (error.args[0] if error.args else {})] or list(self.positions)
        begins, ends = await inner.beginning_offsets(lost), await inner.end_offsets(lost)
        for tp in lost:
            place = min(max(self.positions[tp], begins[tp]), ends[tp])
            if place != self.positions[tp]:
                log.error("records_missed", topic=self._name, partition=tp.partition, wanted=self.positions[tp], found=place)
            self.positions[tp] = place
            inner.seek(tp, place)
        self._metrics.counter(metric_catalog.READER_RESTARTS, self._topic.name, OUT_OF_RANGE).inc()
